"""Students that are adapters on a frozen base (LoRA, arXiv 2106.09685), by ``peft``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from sdtt.models.copying import copy_with

ADAPTER = "adapter"
"""The folder, inside that of a model, which its adapters are saved in."""


@dataclass(frozen=True)
class LoraSettings:
    """Which adapters a student gets: W x becomes W x + alpha / rank * B A x, and only A, B learn.

    Raises:
        ValueError: If a setting cannot be, or is given without a rank.
    """

    lora_rank: int = field(
        default=0, metadata={"help": "rank of LoRA adapters; 0: the whole student is trained"}
    )
    lora_alpha: int | None = field(
        default=None,
        metadata={"help": "adapters are scaled by alpha / rank; twice the rank if none"},
    )
    lora_dropout: float = field(
        default=0.0, metadata={"help": "dropout before the adapters, in training"}
    )
    lora_targets: tuple[str, ...] = field(
        default=("attn_qkv", "attn_out", "mlp.0", "mlp.2"),
        metadata={"help": "ends of the names of the linear maps that get adapters"},
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be at least 0, got {self.lora_rank}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must lie in [0, 1), got {self.lora_dropout}")
        if self.lora_rank:
            return
        for name in ("lora_alpha", "lora_dropout", "lora_targets"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name} needs adapters: give lora_rank, such as 16")


def with_adapters(model: Any, settings: LoraSettings) -> Any:
    """The model with fresh adapters, which change nothing yet; itself without a rank.

    The weights of A are drawn from torch's global generator.

    Args:
        model: Its layers are wrapped in place and its weights frozen, as ``peft`` does.
        settings: Rank, scale and targets.

    Raises:
        ValueError: If ``peft`` is not installed, or a target names no layer.
    """
    if not settings.lora_rank:
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError(
            "LoRA needs the package peft: pip install 'sdtt[lora]', or leave lora_rank out"
        ) from error
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in settings.lora_targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            raise ValueError(
                f"lora_targets: no linear map of {type(model).__name__} is named {target!r}; there "
                f"are {', '.join(dict.fromkeys(_short(name) for name in linear))}"
            )
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets),
    )
    return get_peft_model(model, config)


def _short(name: str) -> str:
    """The end of a layer's name behind its last number of a block: ``mlp.0``, ``attn_qkv``."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def merged(model: Any) -> Any:
    """The network with its adapters added into its weights, on the CPU; the model stays.

    Weights that no adapter changes are not copied where they lie on the CPU already.
    """
    wrapped = {
        id(parameter)
        for module in model.modules()
        if hasattr(module, "base_layer")
        for parameter in module.parameters()
    }

    def weight(parameter: nn.Parameter) -> nn.Parameter:
        value = parameter.detach()
        value = value.to("cpu", copy=True) if id(parameter) in wrapped else value.cpu()
        return nn.Parameter(value, requires_grad=False)

    return copy_with(model, weight).merge_and_unload()


def save_model(model: Any, folder: Path, *, merge: bool) -> None:
    """Saves a model; of one with adapters these, under ``adapter/``, and the merged one if wanted.

    Args:
        model: To be saved.
        folder: The full model goes there, as ``from_pretrained`` loads it.
        merge: Whether a model with adapters is also saved as a full one.
    """
    if not hasattr(model, "get_base_model"):
        model.save_pretrained(folder)
        return
    model.save_pretrained(folder / ADAPTER)
    if merge:
        merged(model).save_pretrained(folder)
