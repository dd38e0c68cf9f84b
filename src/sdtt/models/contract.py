"""What callers of transformers hand to ``forward``: what is not done is refused."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

HARMLESS = frozenset({"token_type_ids", "use_cache", "cache_position"})
"""Arguments that tokenizers and pipelines hand to any model, and that change no law of this one."""


def check_arguments(model: Any, given: Mapping[str, Any]) -> None:
    """Refuses arguments that ask for something; None and False ask for nothing.

    Raises:
        ValueError: Naming the first.
    """
    asking = [name for name, value in given.items() if value is not None and value is not False]
    strange = [name for name in asking if name not in HARMLESS]
    if strange:
        raise ValueError(f"{type(model).__name__} takes no {strange[0]}: leave it out")


def check_some(ids: Tensor) -> None:
    """Refuses a batch without a token, of which kernels do not say what is wrong.

    Raises:
        ValueError: Saying its shape.
    """
    if ids.numel() == 0:
        raise ValueError(f"input_ids hold no token, they have the shape {tuple(ids.shape)}")


def check_labels(model: Any, labels: Tensor | None, ids: Tensor) -> None:
    """Refuses labels that are not one for each id, and on a CPU those that are no clean token.

    Raises:
        ValueError: Saying what they are.
    """
    if labels is None:
        return
    if labels.shape != ids.shape:
        shapes = tuple(labels.shape), tuple(ids.shape)
        raise ValueError(f"labels have the shape {shapes[0]}, input_ids {shapes[1]}: one an id")
    if labels.device.type != "cpu":  # reading them would wait for the device
        return
    size, mask = model.config.vocab_size, model.mask_token_id
    clean = (labels >= 0) & (labels < size) & (labels != mask)
    strange = labels[~clean & (labels != -100)]
    if len(strange):
        raise ValueError(
            f"labels are clean tokens, below {size} and not MASK ({mask}), or -100 where there is "
            f"none; got {int(strange[0])}"
        )
