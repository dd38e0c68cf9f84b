"""Where models go, and whose weights are no plain tensors there: quantised, offloaded, adapted."""

from typing import Any

import torch
from torch import Tensor, nn

from sdtt.diffusion.denoiser import Head


def accelerator() -> torch.device | None:
    """The accelerator of this machine, if it has one.

    A torch that was built for CUDA says by default which one it was built for, on any machine.
    """
    return torch.accelerator.current_accelerator(check_available=True)


def is_plain(model: nn.Module) -> bool:
    """Whether every weight is an ordinary tensor that lies where the model computes.

    Not so of a model that torchao has quantised, accelerate has offloaded or split over devices, or
    peft has put adapters into: its layers do more than their weights say.
    """
    wrapped = any(hasattr(m, "_hf_hook") or hasattr(m, "base_layer") for m in model.modules())
    return not wrapped and not any(is_quantised(weight) for weight in model.parameters())


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight is one of torchao's tensors, which stand for another, dense one."""
    return type(weight).__module__.startswith("torchao.")


def head_of(linear: Any) -> Head:
    """The head as plain tensors: read in, where accelerate keeps it elsewhere, and dense.

    Args:
        linear: A linear map, or what peft puts around one.
    """
    if not hasattr(linear, "_hf_hook"):
        return Head(_dense(linear.weight), linear.bias)
    from accelerate.utils import align_module_device

    with align_module_device(linear):
        return Head(_dense(linear.weight), linear.bias)


def _dense(weight: Any) -> Tensor:
    return weight.detach().dequantize() if is_quantised(weight) else weight
