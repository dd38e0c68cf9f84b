"""`torch_compile`: which parts of a training step are compiled."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DynamoBackend

from sdtt.models.adapters import network_of


def compile_for_training(model: Any, accelerator: Accelerator) -> str | None:
    """Compiles the blocks of the network instead of the forward that accelerate would compile.

    A loss is called inside ``forward``, on as many rows as positions are masked, so that a compiled
    ``forward`` would break at it, and compile anew for each number of rows. The blocks see one
    shape only, and one compiled block serves all.

    Args:
        model: What the Trainer trains.
        accelerator: With the user's choice of backend and mode (``torch_compile*``, or
            ``accelerate launch --dynamo_backend``); accelerate itself then compiles nothing.

    Returns:
        The backend; None where nothing is to be compiled.

    Raises:
        ValueError: If the network cannot be compiled by parts.
    """
    plugin = accelerator.state.dynamo_plugin
    if plugin.backend == DynamoBackend.NO:
        return None
    network = network_of(model)
    if not hasattr(network, "compile_for_training"):
        raise ValueError(
            f"{type(network).__name__} cannot be compiled by parts: it has no "
            "compile_for_training; leave torch_compile out"
        )
    backend: str = plugin.backend.value.lower()
    network.compile_for_training(backend=backend, mode=plugin.mode)
    plugin.backend = DynamoBackend.NO
    return backend
