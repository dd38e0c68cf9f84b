"""The passes of a denoiser over masked continuations, each a text under one set of masks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from jaxtyping import Bool
from torch import Tensor

from sdtt.diffusion.denoiser import Denoiser
from sdtt.evaluation.mask_sets import MaskSets, Noise
from sdtt.evaluation.pairs import Pair
from sdtt.evaluation.rows import row_losses, scores_of
from sdtt.sampling.canvas import Canvas, ragged_canvas
from sdtt.sampling.generate import texts_a_pass


@dataclass(frozen=True)
class Scored:
    """What the passes say of one pair.

    Attributes:
        nll: -log p of the continuation, or its bound, in nats.
        noise_se: Its standard error by the masks that were drawn.
        greedy: Whether every likeliest token is right; None if that was not asked for.
        exact: Whether no mask was drawn.
    """

    nll: float
    noise_se: float
    greedy: bool | None
    exact: bool


@dataclass(frozen=True)
class _Work:
    """A pair, its sets of masks, and the (sum, all right) of those that are done."""

    pair: Pair
    sets: MaskSets
    greedy: bool
    done: list[tuple[float, bool]] = field(default_factory=list)

    def masks(self) -> Iterator[Bool[Tensor, " K"]]:
        """The sets, and where its answer is wanted the set of all positions as the last one."""
        yield from self.sets.masked
        if self.greedy and not self.sets.exact:  # of all sets it is the last one already
            yield torch.ones_like(self.sets.masked[0])

    def result(self) -> Scored | None:
        """What it comes to, once all of it is done."""
        count = len(self.sets.weights)
        if len(self.done) < count + (self.greedy and not self.sets.exact):
            return None
        sums = torch.tensor([total for total, _ in self.done[:count]], dtype=torch.float64)
        right = self.done[-1][1] if self.greedy else None
        return Scored(*self.sets.estimate(sums), right, self.sets.exact)


def score_masked(
    denoiser: Denoiser,
    pairs: Sequence[Pair],
    *,
    noise: Noise,
    greedy: bool,
    batch_size: int | None = None,
) -> Iterator[tuple[int, Scored]]:
    """The NELBO of each continuation, and its index; in the order in which they are done.

    Args:
        denoiser: p(x_i | z).
        pairs: That fit it.
        noise: Which sets of positions are masked.
        greedy: Whether to look at the pass with the whole continuation masked.
        batch_size: Texts a pass; by memory if None.
    """
    if not pairs:
        return
    order = sorted(range(len(pairs)), key=lambda i: _length(pairs[i]), reverse=True)
    place = torch.device(getattr(denoiser, "device", "cpu"))
    size = batch_size or texts_a_pass(denoiser, _length(pairs[order[0]]), place)
    one_pass = _passes(denoiser, place)
    open_work: dict[int, _Work] = {}

    def items() -> Iterator[tuple[int, Bool[Tensor, " K"]]]:
        for index in order:
            pair = pairs[index]
            work = _Work(pair, noise.sets(pair.context, pair.continuation), greedy)
            open_work[index] = work
            yield from ((index, masked) for masked in work.masks())

    stream = items()
    while batch := list(islice(stream, size)):
        texts = [(pairs[index], masked) for index, masked in batch]
        for (index, _), answer in zip(batch, one_pass(texts), strict=True):
            open_work[index].done.append(answer)
        for index in list(open_work):
            if (scored := open_work[index].result()) is not None:
                del open_work[index]
                yield index, scored


def _passes(
    denoiser: Denoiser, place: torch.device
) -> Callable[[Sequence[tuple[Pair, Tensor]]], list[tuple[float, bool]]]:
    """A function of texts with their masks: the sum of the losses of each, and whether all right.

    Masks lie in the continuation, so the context is visible in every pass.
    """
    scores = scores_of(denoiser.head, denoiser.excluded_ids)
    vocabulary = denoiser.head.weight.shape[0]

    def one_pass(texts: Sequence[tuple[Pair, Tensor]]) -> list[tuple[float, bool]]:
        x = ragged_canvas([pair.context + pair.continuation for pair, _ in texts], 0)
        masked = torch.zeros_like(x.ids, dtype=torch.bool)
        for row, (pair, mask) in zip(masked, texts, strict=True):
            row[len(pair.context) : _length(pair)] = mask
        rows = masked.flatten().nonzero().squeeze(1)
        z = Canvas(x.ids.masked_fill(masked, denoiser.mask_token_id), x.attention_mask).to(place)
        share = masked.sum(1) / torch.tensor([_length(pair) for pair, _ in texts])
        hidden = denoiser.hidden(z.ids, rows, attention_mask=z.attention_mask, t=share.to(place))
        losses = row_losses(hidden, x.ids.flatten()[rows], scores, vocabulary)
        return losses.of_texts(rows // x.ids.shape[1], len(texts))

    return one_pass


def _length(pair: Pair) -> int:
    return len(pair.context) + len(pair.continuation)
