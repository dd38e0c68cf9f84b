"""Which dtypes a processor multiplies, and what becomes of models in the others."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from sdtt.models.copying import copy_with
from sdtt.models.placement import is_plain

Model = TypeVar("Model", bound=nn.Module)


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products of this dtype are worth their rounding on a device.

    Not on a CPU without instructions for a half precision (bfloat16: AVX-512 or AMX on x86): torch
    emulates such products there, 7 to 100 times slower than those of float32 (AVX2, torch 2.13).
    Accelerators are taken at their word, and so is a torch without oneDNN, which cannot be asked.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return True
    kernels = torch.ops.mkldnn
    asked: dict[torch.dtype, Callable[[], bool]] = {
        torch.bfloat16: kernels._is_mkldnn_bf16_supported,
        torch.float16: kernels._is_mkldnn_fp16_supported,
    }
    return dtype not in asked or bool(asked[dtype]())


@torch.no_grad()
def in_multiplied_dtype(model: Model) -> Model:
    """The model, or a copy in float32 where its processor does not multiply its dtype.

    The copy has the same weights, to the last bit, in twice the memory; its sums are finer. A model
    that is quantised, offloaded, split or adapted stays as it is.
    """
    like: Any = model
    if not is_plain(model) or multiplies(like.dtype, like.device):
        return model
    half = like.dtype

    def wider(weight: nn.Parameter) -> nn.Parameter:
        if weight.dtype != half:
            return weight
        return nn.Parameter(weight.float(), weight.requires_grad)

    return copy_with(model, wider)
