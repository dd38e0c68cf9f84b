"""Checkpoints of Lightning, as mdlm, sdtt and duo write them: ``.ckpt`` files of ``torch.save``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sdtt.models.formats.placeholders import Placeholder, plain
from sdtt.models.formats.torch_files import read_torch_file


@dataclass(frozen=True)
class LightningCheckpoint:
    """What a checkpoint says of the model; optimizers, loops and callbacks are left in the file.

    Attributes:
        weights: Name to tensor, mapped from the file, with prefixes as they are.
        ema: The moving average of the trainable parameters, in their order: those of the backbone,
            then those of the noise schedule, where it has any. None if none was kept.
        hyper_parameters: What the module was made from. Nodes of omegaconf are dictionaries, lists
            and values; objects of other classes, such as a tokenizer, are placeholders.
        placeholders: The classes and functions that the file names and that were not loaded.
    """

    weights: dict[str, Tensor]
    ema: list[Tensor] | None
    hyper_parameters: dict[str, Any]
    placeholders: tuple[str, ...]


def read_lightning(file: Path) -> LightningCheckpoint:
    """Reads a checkpoint without running anything in it, and no more of it than is used.

    Args:
        file: Written by Lightning's trainer.

    Raises:
        ValueError: As ``read_torch_file`` does; or if the file has no state_dict, or something in
            it is no tensor.
    """
    read = read_torch_file(file)
    content = read.content
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{file} is no checkpoint of Lightning: {_instead(content)}")
    weights = content["state_dict"]
    for name, weight in weights.items():
        if not isinstance(name, str) or not isinstance(weight, Tensor):
            raise ValueError(f"{file}: state_dict[{name!r}] is {_kind(weight)}, not a tensor")
    try:
        settings = plain(content.get("hyper_parameters", {}))
    except ValueError as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    return LightningCheckpoint(
        weights=dict(weights),
        ema=_shadow(file, content.get("ema")),
        hyper_parameters=settings if isinstance(settings, dict) else {},
        placeholders=read.placeholders,
    )


def _shadow(file: Path, ema: Any) -> list[Tensor] | None:
    """The tensors of a moving average: ``{"decay": ..., "shadow_params": [...]}``."""
    if ema is None:
        return None
    shadow = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not isinstance(shadow, list) or not all(isinstance(each, Tensor) for each in shadow):
        raise ValueError(f"{file}: its 'ema' has no list shadow_params of tensors")
    return list(shadow)


def _instead(content: Any) -> str:
    if not isinstance(content, dict):
        return f"it holds {_kind(content)}, not a dictionary with a state_dict"
    if content and all(isinstance(each, Tensor) for each in content.values()):
        return "it is a bare dictionary of tensors, without a state_dict in it"
    keys = ", ".join(str(key) for key in list(content)[:5]) or "nothing"
    return f"it has no state_dict, but {keys}"


def _kind(value: Any) -> str:
    return repr(value) if isinstance(value, Placeholder) else f"a {type(value).__name__}"
