"""Lays the weights of a model out for the matrix kernels of a CPU."""

from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sdtt.models.attention import rotate_pairs
from sdtt.models.blocks import BlocksModel
from sdtt.models.copying import copy_with, shared
from sdtt.models.linear import FUSED, PackedLinear
from sdtt.models.placement import is_plain
from sdtt.models.precision import multiplies

Model = TypeVar("Model", bound=BlocksModel)

PACKED = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes that have such kernels."""


def can_pack(model: BlocksModel) -> bool:
    """Whether this torch has the kernels, for this model's device, dtype and plain weights."""
    kernels = torch.ops.mkldnn
    on_cpu = model.device.type == "cpu" and is_plain(model)
    if not on_cpu or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(kernels, "_linear_pointwise"):
        return False
    return model.dtype in PACKED and multiplies(model.dtype, model.device)


def _pairs_side_by_side(width: int, head_width: int) -> Int[Tensor, " W"]:
    """An order of queries, keys and values in which rotary pairs are neighbours.

    The same order for queries and keys leaves every score as it is.
    """
    order = torch.arange(3 * width)
    turned = order[: 2 * width].view(-1, 2, head_width // 2).transpose(1, 2).flatten()
    return torch.cat([turned, order[2 * width :]])


@torch.no_grad()
def pack(model: Model) -> Model:
    """The same law with weights laid out for a CPU: for sampling only.

    Args:
        model: A model without conditioning (see ``fold``) or with it; it is not changed.

    Returns:
        A model that cannot be trained or saved, and takes the memory of its linear maps
        once more while the given one lives; the given one where there is nothing to gain
        (``can_pack``).
    """
    if model.is_packed or not can_pack(model):
        return model
    packed: Any = copy_with(model, shared)  # what is not packed lies in memory once
    activation = model.config.hidden_act
    for index, block in enumerate(packed.backbone.blocks):
        width = model.config.hidden_dim
        is_last = index == model.config.n_blocks - 1
        splits = (width, 2 * width) if is_last else None  # queries of few rows, keys of all
        qkv = block.attn_qkv
        order = _pairs_side_by_side(width, block.head_width)
        bias = None if qkv.bias is None else qkv.bias[order]
        block.attn_qkv = PackedLinear(qkv.weight[order], bias, splits=splits)
        block.rotate = rotate_pairs
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
