"""Attention of the blocks: rotary positions, kernels, and the rows that a pass asks for."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

ROTARY_BASE = 10000.0
SCORES_AT_ONCE = 2**22
"""Attention scores that are made together: 8 MiB in bfloat16."""


def rotary_angles(
    positions: Int[Tensor, "*B L"], width: int
) -> tuple[Float[Tensor, "*B 1 L H"], Float[Tensor, "*B 1 L H"]]:
    """Cosine and sine of position * 10000^(-2 j / width), j < width / 2, in float32."""
    exponents = torch.arange(0, width, 2, device=positions.device).float() / width
    angles = positions[..., None].float() * ROTARY_BASE**-exponents
    return angles.cos().unsqueeze(-3), angles.sin().unsqueeze(-3)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns the pairs (x_j, x_{j + H}) of each head by the angles (half-split rotary, RoFormer)."""
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    turned = torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)
    return turned.to(x.dtype)


def rotate_pairs(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """The same for pairs that stand side by side, (x_2j, x_{2j + 1}): one complex product."""
    if torch.compiler.is_compiling():  # which has no code for complex numbers, and fuses the real
        first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        real = (first * cosine - second * sine, first * sine + second * cosine)
        return torch.stack(real, -1).flatten(-2).to(x.dtype)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * torch.complex(cosine, sine)).flatten(-2)
    return turned.to(x.dtype)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T scaling + mask) v, written out: on a CPU the fastest backward at L <= 128."""
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    elif attention_mask is not None:
        scores = scores + attention_mask
    at_least_float32 = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=at_least_float32).to(value.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


def attention_by_heads(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **__: Any,
) -> tuple[Tensor, None]:
    """softmax(q k^T scaling + mask) v, a few heads at a time: their scores stay in the cache.

    For low precision on a CPU without tile instructions: there torch's fused kernel multiplies at
    the speed of float32, and this one 1.5 times faster. Scores are rounded to the precision of the
    queries, as in every eager attention.
    """
    del module
    query, key, value = (query * scaling).contiguous(), in_rows(key), in_rows(value)
    batch, heads, rows = query.shape[:3]
    together = max(1, SCORES_AT_ONCE // (rows * key.shape[2]))  # heads, of one text or of several
    texts = max(1, together // heads)
    hidden, first = None, key.shape[2]
    if attention_mask is not None:
        # what is compiled must not depend on numbers
        first = 0 if torch.compiler.is_compiling() else seen_by_all(attention_mask)
        hidden = ~attention_mask[..., first:]
    out = torch.empty_like(query)
    for text, head in product(range(0, batch, texts), range(0, heads, min(together, heads))):
        few = slice(text, text + texts), slice(head, head + together)
        scores = query[few] @ key[few].transpose(-1, -2)
        if hidden is not None:
            # not -inf: a text of padding alone would have no law, and nan is not left out of means
            scores[..., first:].masked_fill_(hidden[few[0]], torch.finfo(scores.dtype).min)
        torch.softmax(scores, -1, out=scores)
        torch.matmul(scores, value[few], out=out[few])
    return out.transpose(1, 2), None


def seen_by_all(mask: Bool[Tensor, "B H Q L"]) -> int:
    """How many keys, from the first on, every query sees."""
    seen = mask.flatten(0, 2).all(0)
    return int(seen.long().cumprod(0).sum())


def in_rows(x: Float[Tensor, "B H L W"]) -> Float[Tensor, "B H L W"]:
    """The same with rows that lie together, whole heads one behind another; part of them is."""
    together = x.stride(3) == 1 and x.stride(2) == x.shape[3]
    return x if together and x.stride(0) == x.stride(1) * x.shape[1] else x.contiguous()


def without_tiles() -> bool:
    """Whether this CPU has no tile instructions (AMX), for which torch has fused kernels."""
    return not torch.cpu.get_capabilities().get("amx_tile", False)


@dataclass(frozen=True)
class Asked:
    """The rows that the last block computes, and how its queries are laid out.

    Attributes:
        rows: Flat indices into B*L.
        padded: The same in a rectangle, one line for each text, padded by any of its rows.
        picked: Where each of the rows stands in the flattened rectangle.
    """

    rows: Int[Tensor, " N"]
    padded: Int[Tensor, "B R"]
    picked: Int[Tensor, " N"]

    @classmethod
    def of(cls, rows: Int[Tensor, " N"], batch: int, length: int, device: torch.device) -> "Asked":
        """The layout of rows; it is made on the CPU, so rows that lie there cost no wait.

        Args:
            rows: Flat indices into B*L, in any order.
            batch: B.
            length: L.
            device: Where the network is.
        """
        rows = rows.cpu()
        text = rows // length
        counts = torch.bincount(text, minlength=batch)
        width = int(counts.max()) if len(rows) else 1  # kernels take no rectangle without queries
        order = text.argsort(stable=True)
        within = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[text[order]]
        picked = torch.empty_like(rows)
        picked[order] = text[order] * width + within
        padded = (torch.arange(batch) * length)[:, None].repeat(1, width)
        padded.view(-1)[picked] = rows
        return cls(rows, padded, picked).to(device, non_blocking=True)

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> "Asked":
        """The same on a device: so accelerate moves it along where blocks lie on several."""
        parts = (self.rows, self.padded, self.picked)
        return Asked(*(x.to(device, non_blocking=non_blocking) for x in parts))
