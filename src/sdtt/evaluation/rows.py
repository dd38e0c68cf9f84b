"""The cross-entropy of single rows, a tile at a time, in float32 with float64 sums."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from sdtt.diffusion.denoiser import Head, exclude
from sdtt.diffusion.tiling import tile_numbers

TILE_NUMBERS = 2**22
"""Scores of a tile of rows, held at once by a CPU: 16 MiB in float32."""


@dataclass(frozen=True)
class Losses:
    """What some rows say of the tokens that stand there.

    Attributes:
        nll: -log p of each token, in nats, on the CPU.
        right: Whether it is the likeliest token.
    """

    nll: Float64[Tensor, " N"]
    right: Bool[Tensor, " N"]

    def of_texts(self, owner: Int[Tensor, " N"], texts: int) -> list[tuple[float, bool]]:
        """Of each text the sum of the losses of its rows, and whether all of them are right.

        Args:
            owner: The text of each row.
            texts: How many there are.
        """
        sums = torch.zeros(texts, dtype=torch.float64).index_add_(0, owner, self.nll)
        wrong = torch.zeros(texts, dtype=torch.long).index_add_(0, owner, (~self.right).long())
        return list(zip(sums.tolist(), (wrong == 0).tolist(), strict=True))


def scores_of(
    head: Head, excluded_ids: tuple[int, ...]
) -> Callable[[Float[Tensor, "N D"]], Float[Tensor, "N V"]]:
    """The head as a function of hidden rows, in float32 at least; excluded ids have no chance."""
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    fine = Head(head.weight.to(dtype), None if head.bias is None else head.bias.to(dtype))
    return lambda hidden: exclude(fine.scores(hidden.to(dtype)), excluded_ids)


def row_losses(
    hidden: Float[Tensor, "N D"],
    tokens: Int[Tensor, " N"],
    scores: Callable[[Tensor], Tensor],
    vocabulary: int,
) -> Losses:
    """The cross-entropy of each row, a tile of rows at a time.

    Args:
        hidden: Rows that ``scores`` takes.
        tokens: What stands at each.
        scores: From rows to one score a token id.
        vocabulary: How many ids there are, which decides the size of a tile.
    """
    size = max(1, tile_numbers(TILE_NUMBERS, hidden.device) // vocabulary)
    tokens = tokens.to(hidden.device)
    parts = [
        _tile(scores(hidden[first : first + size]), tokens[first : first + size])
        for first in range(0, max(len(hidden), 1), size)
    ]
    return joined(parts)


def joined(parts: Sequence[Losses]) -> Losses:
    """The losses of some rows after those of others."""
    return Losses(torch.cat([part.nll for part in parts]), torch.cat([p.right for p in parts]))


def _tile(scores: Float[Tensor, "N V"], tokens: Int[Tensor, " N"]) -> Losses:
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    own = scores.gather(-1, tokens[:, None]).squeeze(-1)
    nll = (scores.logsumexp(-1) - own).cpu().double()
    return Losses(nll, (scores.argmax(-1) == tokens).cpu())
