"""Lays the weights of a model out for the matrix kernels of a CPU."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from sdtt.models.blocks import BlocksModel
from sdtt.models.linear import FUSED, PackedLinear

Model = TypeVar("Model", bound=BlocksModel)


def can_pack(model: BlocksModel) -> bool:
    """Whether this torch has the kernels, for this model's device and dtype."""
    kernels = torch.ops.mkldnn
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(kernels, "_linear_pointwise"):
        return False
    checks: dict[torch.dtype, Callable[[], bool]] = {
        torch.float32: lambda: True,
        torch.bfloat16: kernels._is_mkldnn_bf16_supported,
        torch.float16: kernels._is_mkldnn_fp16_supported,
    }
    return model.dtype in checks and bool(checks[model.dtype]())


@torch.no_grad()
def pack(model: Model) -> Model:
    """The same law with weights laid out for a CPU: for sampling only.

    Args:
        model: A model without conditioning (see ``fold``) or with it; it is not changed.

    Returns:
        A model that cannot be trained, saved or compiled, and takes the memory of its linear maps
        once more while the given one lives; the given one where there is nothing to gain
        (``can_pack``).
    """
    if not can_pack(model):
        return model
    memo = {id(p): p for p in model.parameters()}  # what is not packed is shared
    packed: Any = copy.deepcopy(model, memo)
    activation = model.config.hidden_act
    for index, block in enumerate(packed.backbone.blocks):
        width = model.config.hidden_dim
        is_last = index == model.config.n_blocks - 1
        splits = (width, 2 * width) if is_last else None  # queries of few rows, keys of all
        block.attn_qkv = PackedLinear(block.attn_qkv.weight, block.attn_qkv.bias, splits=splits)
        block.attn_out = PackedLinear(block.attn_out.weight, block.attn_out.bias)
        up, act, down = block.mlp
        fused = activation if activation in FUSED else None
        block.mlp = nn.Sequential(
            PackedLinear(up.weight, up.bias, fused),
            nn.Identity() if fused else act,
            PackedLinear(down.weight, down.bias),
        )
    packed.pack_head()
    result: Model = packed.eval()
    return result
