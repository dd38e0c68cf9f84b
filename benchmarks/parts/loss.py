"""The loss of some rows of a network alone: tiled, its matrix products only, and laid out."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from parts.plain_training import loss_of_laws
from sdtt.diffusion import tiled
from sdtt.diffusion.denoiser import Head
from sdtt.diffusion.divergence import DIVERGENCES
from sdtt.diffusion.tiled import tiled_cross_entropy, tiled_divergence
from sdtt.diffusion.tiling import tile_numbers


@dataclass
class LossAlone:
    """Rows of a student and of a teacher, and what is done with them.

    Attributes:
        hidden: The student's rows.
        weight: The student's head, whose last row is MASK's.
        target: The teacher's rows.
        other: The teacher's head.
        low: Whether operands of products are rounded to bfloat16.
    """

    hidden: Tensor
    weight: Tensor
    target: Tensor
    other: Tensor
    low: bool

    def __post_init__(self) -> None:
        """Chooses the products."""
        self.products_in = torch.bfloat16 if self.low else torch.float32
        self.excluded_ids = (len(self.weight) - 1,)
        self.linears = [
            tiled._Linear.of(Head(weight), self.excluded_ids, torch.float32, self.products_in)
            for weight in (self.weight, self.other)
        ]

    def _tiles(self) -> Iterator[Tensor]:
        size = max(1, tile_numbers(tiled.TILE_ELEMENTS, self.hidden.device) // len(self.weight))
        return iter(self.hidden.detach().split(size))

    def scores(self) -> None:
        """One of the two products that make scores, tile by tile."""
        with torch.no_grad(), tiled._bfloat16_products(self.low):
            for rows in self._tiles():
                self.linears[0].scores(rows)

    def products(self) -> None:
        """The four products of the divergence, tile by tile, and nothing else."""
        own, other = self.linears
        with torch.no_grad(), tiled._bfloat16_products(self.low):
            sums = torch.zeros_like(self.weight)
            for rows in self._tiles():
                gradient = own.scores(rows)
                other.scores(rows)
                own.of_rows(gradient)
                own.add_of_weight(sums[: gradient.shape[1]], gradient, rows)

    def divergence(self, name: str) -> None:
        """Ours, with gradients."""
        tiled_divergence(
            self.hidden,
            Head(self.weight),
            self.target,
            Head(self.other),
            DIVERGENCES[name],
            excluded_ids=self.excluded_ids,
            products=self.products_in,
        ).backward()

    def cross_entropy(self) -> None:
        """Ours, with gradients."""
        count, device = len(self.hidden), self.hidden.device
        tiled_cross_entropy(
            self.hidden,
            Head(self.weight),
            torch.zeros(count, dtype=torch.long, device=device),
            torch.ones(count, device=device),
            excluded_ids=self.excluded_ids,
            products=self.products_in,
        ).backward()

    def cross_entropy_of_torch(self) -> None:
        """Torch's own, in chunks (from 2.13); in bfloat16 all of it is."""
        rows, head = (x.to(self.products_in) for x in (self.hidden, self.weight[:-1]))
        torch.nn.functional.linear_cross_entropy(
            rows,
            head,
            torch.zeros(len(rows), dtype=torch.long, device=rows.device),
            reduction="sum",
            options=torch.nn.LinearCrossEntropyOptions(),
        ).backward()

    def laws(self) -> None:
        """The divergence from laws that are laid out, N x V."""
        with torch.autocast(self.hidden.device.type, torch.bfloat16, enabled=self.low):
            log_q, log_p = (
                (x @ w.T)[:, :-1].float().log_softmax(-1)
                for x, w in ((self.hidden, self.weight), (self.target, self.other))
            )
        loss_of_laws(log_q, log_p, torch.ones(len(self.hidden))).backward()
