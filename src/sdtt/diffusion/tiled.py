"""Losses of rows over a large vocabulary from hidden rows, with nothing of size N x V kept.

Rows are taken in tiles. Their scores, their loss and its gradient are computed in the forward
pass, and all that stays is the gradient of the rows (N x D) and of the head (V x D): a step costs
the four matrix products that it must, and nothing is computed twice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sdtt.diffusion.denoiser import Head, without
from sdtt.diffusion.divergence import Divergence
from sdtt.diffusion.tiling import tile_numbers

TILE_ELEMENTS = 2**23
"""Scores of one side held at once by a CPU: 32 MiB in float32; see ``tiling``."""

CACHED_ELEMENTS = 2**18
"""Scores that a CPU works on at once: what is made of them stays in its cache."""

STRETCH = 2**12
"""Tokens of the vocabulary that a CPU multiplies by at once: over all of 50,257 its products take
half as long again, and copies in another dtype stay small."""

TileLoss = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor | None]]
"""(scores of some rows, which rows, with gradient) -> their loss, and its gradient."""


@contextmanager
def _bfloat16_products(on: bool) -> Iterator[None]:
    """Lets oneDNN round the operands of float32 products to bfloat16; sums stay float32.

    torch has no product of bfloat16 with a float32 result on a CPU but this one. Processors
    without tiles (AMX) multiply in float32 as before.
    """
    backend: Any = torch.backends.mkldnn
    matmul = backend.matmul
    before = matmul.fp32_precision
    if on:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@dataclass(frozen=True)
class _Linear:
    """A head as the engine multiplies by it.

    Attributes:
        weight: Its rows of clean tokens, V x D; on an accelerator already as operands.
        bias: V, or None.
        inner: Columns of excluded tokens among the V.
        dtype: Of scores.
        operands: What operands of products are rounded to.
        stretches: Parts of the vocabulary that are multiplied by one after the other.
    """

    weight: Tensor
    bias: Tensor | None
    inner: list[int]
    dtype: torch.dtype
    operands: torch.dtype
    stretches: list[slice]

    @classmethod
    def of(
        cls, head: Head, excluded_ids: tuple[int, ...], dtype: torch.dtype, operands: torch.dtype
    ) -> "_Linear":
        """The head without the excluded ids at its end."""
        columns, inner = len(head.weight), sorted(set(excluded_ids))
        while inner and inner[-1] == columns - 1:
            columns = inner.pop()
        weight = head.weight.detach()[:columns]
        bias = None if head.bias is None else head.bias.detach()[:columns].to(dtype)
        on_cpu = weight.device.type == "cpu"
        if not on_cpu:
            weight = weight.to(operands)
        stretches = list(_slices(columns, STRETCH if on_cpu else columns))
        return cls(weight, bias, inner, dtype, operands, stretches)

    @property
    def sums(self) -> torch.dtype:
        """The dtype in which results of many tiles are added up."""
        return torch.promote_types(self.dtype, torch.float32)

    def scores(self, rows: Tensor) -> Tensor:
        """Rows @ weight.T + bias, N x V, in ``dtype``; -inf at excluded tokens.

        A score that is rounded to bfloat16 would be further from another model's than the two laws
        are that a round compares.
        """
        if rows.device.type == "cuda":
            scores = self._product(rows, self.weight.T, self.dtype)
        else:
            scores = torch.empty(len(rows), len(self.weight), dtype=self.dtype, device=rows.device)
            rows = rows.to(self.dtype)
            for part in self.stretches:
                scores[:, part] = rows @ self.weight[part].to(self.dtype).T
        if self.bias is not None:
            scores += self.bias
        return without(scores, self.inner)

    def of_rows(self, gradient: Tensor) -> Tensor:
        """The gradient of the rows: gradient @ weight."""
        parts = (
            self._product(gradient[:, part], self.weight[part], self.sums)
            for part in self.stretches
        )
        total = next(parts)
        for part in parts:
            total += part
        return total

    def add_of_weight(self, total: Tensor, gradient: Tensor, rows: Tensor) -> None:
        """Total <- total + gradient.T @ rows."""
        for part in self.stretches:
            a, b = gradient[:, part].T, rows
            if self.operands == a.dtype == total.dtype:
                total[part].addmm_(a, b.to(a.dtype))
            else:
                total[part] += self._product(a, b, total.dtype)

    def _product(self, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        a, b = a.to(self.operands), b.to(self.operands)
        if self.operands == dtype or a.device.type != "cuda":
            return (a @ b).to(dtype)
        return torch.mm(a, b, out_dtype=torch.float32).to(dtype)  # it has no other


class _Tiled(torch.autograd.Function):
    """The loss summed over rows; its gradient is formed with it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tile_loss: TileLoss,
        linear: _Linear,
        with_gradient: bool,
    ) -> Tensor:
        of_hidden, of_weight, of_bias = (
            with_gradient and needed for needed in ctx.needs_input_grad[:3]
        )
        new: dict[str, Any] = {"dtype": linear.sums, "device": hidden.device}
        grad_hidden = torch.empty(hidden.shape, **new) if of_hidden else None
        grad_weight = torch.zeros(weight.shape, **new) if of_weight else None
        grad_bias = torch.zeros(bias.shape, **new) if of_bias and bias is not None else None
        total = torch.zeros((), **new)
        columns = len(linear.weight)
        size = max(1, tile_numbers(TILE_ELEMENTS, hidden.device) // columns)
        for tile in _slices(len(hidden), size):
            rows = hidden[tile]
            loss, gradient = tile_loss(linear.scores(rows), tile, of_hidden or of_weight or of_bias)
            total += loss
            if gradient is None:
                continue
            if grad_hidden is not None:
                grad_hidden[tile] = linear.of_rows(gradient)
            if grad_weight is not None:
                linear.add_of_weight(grad_weight[:columns], gradient, rows)
            if grad_bias is not None:
                grad_bias[:columns] += gradient.sum(0)
            del gradient  # before the scores of the next tile are made
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the gradient of a tiled loss is handed over in the first backward pass; "
                "for a second one compute the loss again"
            )
        gradients, ctx.gradients = ctx.gradients, None
        scaled = (
            None if each is None else each.mul_(scale).to(dtype)
            for each, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return (*scaled, None, None, None)


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _parts(scores: Tensor) -> Iterator[slice]:
    """The rows of a tile, few at a time where a cache is to be used."""
    rows, columns = scores.shape
    size = max(1, CACHED_ELEMENTS // columns) if scores.device.type == "cpu" else max(1, rows)
    return _slices(rows, size)


def _summed(hidden: Tensor, head: Head, tile_loss: TileLoss, linear: _Linear) -> Tensor:
    """``_Tiled`` where a gradient is wanted or not, under autocast or not."""
    low = linear.operands == torch.bfloat16 and linear.dtype == torch.float32
    with torch.autocast(hidden.device.type, enabled=False), _bfloat16_products(low):
        total: Tensor = _Tiled.apply(  # type: ignore[no-untyped-call]
            hidden,
            head.weight,
            head.bias,
            tile_loss,
            linear,
            torch.is_grad_enabled(),  # inside it never is
        )
    return total


def tiled_divergence(
    student_hidden: Float[Tensor, "N D"],
    student_head: Head,
    teacher_hidden: Float[Tensor, "N E"],
    teacher_head: Head,
    divergence: Divergence,
    *,
    excluded_ids: tuple[int, ...],
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float32,
    products: torch.dtype | None = None,
) -> Float[Tensor, ""]:
    """The divergence of each row summed over rows, from hidden rows and heads.

    Nothing of size N x V is kept: rows are taken in tiles (see ``tiling``), and the
    gradient of a tile is formed with its loss. A second backward pass through it is refused.

    Args:
        student_hidden: The student's rows; gradients flow into them and into the student's head.
        student_head: The student's final linear.
        teacher_hidden: The rows whose laws are the targets; no gradient.
        teacher_head: The teacher's final linear; no gradient.
        divergence: One of ``DIVERGENCES``, or ``divergence_named``.
        excluded_ids: Ids of probability 0 under both.
        temperature: Both laws are softmax(scores / temperature).
        dtype: Scores and divergence are computed in it, and summed in it or in float32 if that
            is finer. float32 against bfloat16 is worth 61.7 against 66.3 in generative perplexity
            (PGM, arXiv 2505.18883, Table 7).
        products: The operands of the matrix products are rounded to it; ``dtype`` if None.
            bfloat16 is what autocast would do, but for the scores, which stay in ``dtype``.

    Returns:
        A scalar in nats (TVD: a probability; MSE: nats squared).
    """
    operands = products or dtype
    linear = _Linear.of(student_head, excluded_ids, dtype, operands)
    teacher = _Linear.of(teacher_head, excluded_ids, dtype, operands)

    def tile_loss(scores: Tensor, rows: slice, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        target = teacher.scores(teacher_hidden[rows].detach())
        if temperature != 1:
            scores, target = scores / temperature, target / temperature
        total = scores.new_zeros((), dtype=linear.sums)
        for part in _parts(scores):
            if not with_gradient:
                total += divergence.definition(scores[part], target[part]).sum()
                continue
            log_q, log_p = scores[part].log_softmax(-1), target[part].log_softmax(-1)
            values, gradient = divergence.with_gradient(log_q, log_p)
            total += values.sum()
            scores[part] = gradient  # the scores are done with; a tile of ours, no argument
        if with_gradient and temperature != 1:
            scores /= temperature
        return total, scores if with_gradient else None

    return _summed(student_hidden, student_head, tile_loss, linear)


def tiled_cross_entropy(
    hidden: Float[Tensor, "N D"],
    head: Head,
    tokens: Int[Tensor, " N"],
    weights: Float[Tensor, " N"],
    *,
    excluded_ids: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    products: torch.dtype | None = None,
) -> Float[Tensor, ""]:
    """sum_n weights_n * -log p(tokens_n), in nats, with nothing of size N x V kept.

    A second backward pass through it is refused.

    Args:
        hidden: The rows; gradients flow into them and into the head.
        head: The final linear.
        tokens: What each row should have said.
        weights: The weight of each row; no gradient.
        excluded_ids: Ids of probability 0.
        dtype: Scores and loss are computed in it, and summed in it or in float32 if that is
            finer.
        products: The operands of the matrix products are rounded to it; ``dtype`` if None.
    """
    linear = _Linear.of(head, excluded_ids, dtype, products or dtype)

    def tile_loss(scores: Tensor, rows: slice, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        total = scores.new_zeros((), dtype=linear.sums)
        for part in _parts(scores):
            own = tokens[rows][part][:, None]
            weight = weights[rows][part][:, None].to(scores.dtype)
            log_p = scores[part].log_softmax(-1)
            total -= (weight * log_p.gather(-1, own)).sum()
            if with_gradient:
                gradient = log_p.exp_().mul_(weight)
                scores[part] = gradient.scatter_add_(-1, own, -weight)
        return total, scores if with_gradient else None

    return _summed(hidden, head, tile_loss, linear)
