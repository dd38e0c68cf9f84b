"""The loop that samplers share: a plan of who is revealed when, and the passes that carry it out.

Which positions a pass reveals does not depend on the network, for all but the samplers of
``confidence`` and ``analytic``. So the whole plan is made before the first pass, on the host; then
a pass runs over the texts that reveal something, asks for the revealed rows only, and nothing waits
for the device.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from sdtt.diffusion.categorical import Transform, draw
from sdtt.diffusion.denoiser import Denoiser

TILE_NUMBERS = 2**22
"""Numbers of a tile of logits: 32 MiB in float64, so that a pass needs no (rows, V) tensor."""


@dataclass(frozen=True)
class Step:
    """What one pass of a sampler revealed.

    Attributes:
        index: Which of the sampler's steps, from 0.
        texts: The texts that took part, indices into B.
        t: The time at which the network was asked, for each of these texts.
        rows: Flat indices into B*L of the revealed positions.
        tokens: What they became.
    """

    index: int
    texts: Int[Tensor, " K"]
    t: Float64[Tensor, " K"]
    rows: Int[Tensor, " N"]
    tokens: Int[Tensor, " N"]


@dataclass(frozen=True)
class Plan:
    """Who is revealed when; on the CPU.

    Attributes:
        when: The step that reveals each position, from 0; -1 where there is nothing to reveal.
        times: The time of each text at each step.
    """

    when: Int[Tensor, "B L"]
    times: Float64[Tensor, "B T"]


def free_positions(
    denoiser: Denoiser, z: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None
) -> Bool[Tensor, "B L"]:
    """Where a token is wanted: MASK, and no padding; on the CPU."""
    free = z == denoiser.mask_token_id
    return (free if attention_mask is None else free & attention_mask).cpu().contiguous()


def rank_of_free(free: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """How many free positions stand before each position of its text."""
    return free.long().cumsum(1) - free.long()


def ranks(key: Float[Tensor, "B L"], free: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """The rank of each free position of a text by its key, the largest first, from 0."""
    order = key.masked_fill(~free, -1.0).argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(1, order, torch.arange(key.shape[1]).expand_as(order))


def decode(
    denoiser: Denoiser,
    hidden: Float[Tensor, "N D"],
    v: Float64[Tensor, " N"],
    transform: Transform,
    text: Int[Tensor, "N L"] | None = None,
) -> Int[Tensor, " N"]:
    """A token for each hidden row, drawn in float64, a tile of rows at a time.

    Args:
        denoiser: Its head makes the logits.
        hidden: Rows of ``denoiser.hidden``.
        v: A uniform for each.
        transform: The change of the law before the draw.
        text: The text of each row, for the repetition penalty.
    """
    parts = [
        draw(transform(logits, each), level)
        for logits, each, level in tiles(denoiser, hidden, v, text)
    ]
    return torch.cat(parts)


def tiles(
    denoiser: Denoiser,
    hidden: Float[Tensor, "N D"],
    v: Float64[Tensor, " N"],
    text: Int[Tensor, "N L"] | None = None,
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Logits, texts and uniforms of a few rows at a time; one empty tile where there is no row."""
    size = max(1, TILE_NUMBERS // denoiser.head.weight.shape[0])
    for first in range(0, max(len(hidden), 1), size):
        part = slice(first, first + size)
        yield denoiser.logits(hidden[part]), None if text is None else text[part], v[part]


@dataclass(frozen=True)
class _Pass:
    """One pass of a plan: rows are flat indices into B*L, the first ``blank`` of still empty texts.

    Attributes:
        index: The step.
        rows: Of the whole batch, on the CPU.
        texts: Those that own a row, on the CPU.
        blank: How many of the rows are of texts in which nothing is visible yet.
    """

    index: int
    rows: Int[Tensor, " N"]
    texts: Int[Tensor, " K"]
    blank: int


def _passes(when: Int[Tensor, "B L"], is_blank: Bool[Tensor, " B"]) -> list[_Pass]:
    """The passes of a plan that reveal something, in order."""
    length = when.shape[1]
    rows = (when.flatten() >= 0).nonzero().squeeze(-1)
    step, text = when.flatten()[rows], rows // length
    first = torch.where(when >= 0, when, torch.iinfo(when.dtype).max).amin(1)
    starts = is_blank[text] & (step == first[text])  # what this text reveals from nothing
    order = (2 * step + (~starts).long()).argsort(stable=True)
    rows, step, starts = rows[order], step[order], starts[order]
    indices, counts = step.unique_consecutive(return_counts=True)
    sizes = counts.tolist()
    return [
        _Pass(index, part, (part // length).unique(), int(begun.sum()))
        for index, part, begun in zip(
            indices.tolist(), rows.split(sizes), starts.split(sizes), strict=True
        )
    ]


class Network:
    """A denoiser over one batch: what a pass may leave out is left out here.

    * Texts without an asked row drop out of the pass.
    * A text in which nothing is visible has the same hidden rows as any other such text of its
      length and time: they are computed once. Where the denoiser says ``blank_is_uniform``, all
      positions of such a text are alike at any time (every value that attention averages is the
      same), and one token is enough.

    Args:
        denoiser: p(x_i | z).
        z: The canvas, MASK where a token is wanted; it is not written into.
        attention_mask: True where a token is real, if there is padding.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        z: Int[Tensor, "B L"],
        attention_mask: Bool[Tensor, "B L"] | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.canvas = z.clone(memory_format=torch.contiguous_format)
        self.attention_mask = attention_mask
        self.batch, self.length = z.shape
        self._uniform: bool = getattr(denoiser, "blank_is_uniform", False)
        self._fixed_shapes: bool = getattr(denoiser, "is_compiled", False)
        self._blank_row: Tensor | None = None

    def blank_texts(self, free: Bool[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        """In which texts nothing is visible, so that their first pass can be shared; on the CPU."""
        if self.attention_mask is None:
            return free.all(1)
        real = self.attention_mask.cpu()
        return (free == real).all(1) & (self._uniform | real.all(1))

    def put(self, rows: Int[Tensor, " N"], tokens: Int[Tensor, " N"]) -> None:
        """Makes tokens visible."""
        self.canvas.view(-1)[rows] = tokens

    def text_of(self, rows: Int[Tensor, " N"]) -> Int[Tensor, "N L"]:
        """The text of each row, as it stands; padding reads as MASK, which no penalty counts."""
        text = self.canvas
        if self.attention_mask is not None:
            text = text.masked_fill(~self.attention_mask, self.denoiser.mask_token_id)
        return text[rows // self.length]

    def blank_hidden(
        self, positions: Int[Tensor, " N"], t: Float64[Tensor, " N"]
    ) -> Float[Tensor, "N D"]:
        """Hidden rows of texts in which nothing is visible, at positions and times on the CPU."""
        mask_id = self.denoiser.mask_token_id
        if self._uniform:
            if self._blank_row is None:
                self._blank_row = self.denoiser.hidden(self.canvas.new_full((1, 1), mask_id))
            return self._blank_row.expand(len(positions), -1)
        times, which = t.unique(return_inverse=True)  # one text for each time
        wanted, where = (which * self.length + positions).unique(return_inverse=True)
        blank = self.canvas.new_full((len(times), self.length), mask_id)
        hidden = self.denoiser.hidden(blank, wanted, t=self._on_device(times.float()))
        return hidden[self._on_device(where)]

    def hidden(
        self,
        rows: Int[Tensor, " N"],
        texts: Int[Tensor, " K"],
        t: Float64[Tensor, " K"],
    ) -> Float[Tensor, "N D"]:
        """Hidden rows by a pass over some texts of the batch.

        Args:
            rows: Flat indices into B*L, on the CPU.
            texts: The texts that own them, ascending, on the CPU.
            t: The time of each of these texts.
        """
        everyone = len(texts) == self.batch
        if self._fixed_shapes:
            texts, t = _to_power_of_two(texts, t, self.batch)
        if everyone:
            z, mask, local = self.canvas, self.attention_mask, rows
        else:
            chosen = self._on_device(texts)
            z = self.canvas[chosen]
            mask = None if self.attention_mask is None else self.attention_mask[chosen]
            owner = torch.zeros(self.batch, dtype=torch.long)
            owner[texts.flip(0)] = torch.arange(len(texts)).flip(0)  # of equal ones the first
            local = owner[rows // self.length] * self.length + rows % self.length
        return self.denoiser.hidden(z, local, attention_mask=mask, t=self._on_device(t.float()))

    def _on_device(self, x: Tensor) -> Tensor:
        return x.to(self.canvas.device, non_blocking=True)


def _to_power_of_two(texts: Tensor, t: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Repeats the last text up to a power of two, or all: a compiled network has few shapes."""
    size = min(most, 1 << (len(texts) - 1).bit_length())
    missing = size - len(texts)
    return (
        torch.cat([texts, texts[-1:].expand(missing)]),
        torch.cat([t, t[-1:].expand(missing)]),
    )


def level_device(device: torch.device) -> torch.device:
    """Where float64 uniforms are kept: with the canvas, but on the CPU for MPS, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def first_stop(
    canvas: Int[Tensor, "B L"], free: Bool[Tensor, "B L"], stop_ids: Sequence[int]
) -> Int[Tensor, " B"]:
    """The place of the first stop token of each text that was sampled; L where there is none.

    Args:
        canvas: The texts as they stand.
        free: Where a token was wanted: a stop token of the prompt stops nothing.
        stop_ids: Such as EOS.
    """
    length = canvas.shape[1]
    stops = torch.isin(canvas, torch.tensor(list(stop_ids), device=canvas.device)) & free
    place = torch.arange(length, device=canvas.device)
    return torch.where(stops, place, length).amin(1)


def carry_out(
    denoiser: Denoiser,
    z: Int[Tensor, "B L"],
    plan: Plan,
    v: Float64[Tensor, "B L"],
    *,
    transform: Transform,
    attention_mask: Bool[Tensor, "B L"] | None = None,
    stop_ids: Sequence[int] = (),
) -> Iterator[Step]:
    """Reveals the positions of a plan, step by step.

    A revealed position takes the inverse distribution function, at its uniform v, of the law that
    the network gives it in that step. Positions of one step are drawn independently given what was
    visible before it.

    Args:
        denoiser: p(x_i | z).
        z: The canvas.
        plan: Who is revealed when.
        v: Uniforms that say what each position becomes, on the CPU.
        transform: The change of the law before a draw.
        attention_mask: True where a token is real.
        stop_ids: Positions behind a visible token of these, in the text as it stands, are not
            revealed any more. This waits for the device once a step.

    Yields:
        The steps that reveal something, in order.
    """
    network = Network(denoiser, z, attention_mask)
    free = plan.when >= 0
    passes = _passes(plan.when, network.blank_texts(free))
    if not passes:
        return
    device, length = z.device, z.shape[1]
    wanted = free.to(device)
    # all that the device needs to know of the plan goes there at once
    every = torch.cat([each.rows for each in passes])
    sizes = [len(each.rows) for each in passes]
    rows_there = every.to(device).split(sizes)
    levels_there = v.flatten()[every].to(level_device(device)).split(sizes)
    for each, rows, level in zip(passes, rows_there, levels_there, strict=True):
        step, t = each, plan.times[each.texts, each.index]
        if stop_ids:
            before = first_stop(network.canvas, wanted, stop_ids)[rows // length] > rows % length
            step, rows, level = _without(each, rows, level, before, length)
            if len(rows) == 0:
                continue
            t = plan.times[step.texts, step.index]
        tokens = _reveal(network, step, rows, level, t, transform)
        network.put(rows, tokens)
        yield Step(step.index, step.texts, t, rows, tokens)


def _without(
    each: _Pass, rows: Tensor, level: Tensor, kept: Tensor, length: int
) -> tuple[_Pass, Tensor, Tensor]:
    """The pass without the rows that are behind a stop."""
    here = kept.cpu()
    left = each.rows[here]
    blank = int(here[: each.blank].sum())
    return (
        _Pass(each.index, left, (left // length).unique(), blank),
        rows[kept],
        level[kept],
    )


def _reveal(
    network: Network, each: _Pass, rows: Tensor, level: Tensor, t: Tensor, transform: Transform
) -> Tensor:
    """The tokens of one pass."""
    length, begun, rest = network.length, each.rows[: each.blank], each.rows[each.blank :]
    parts = []
    if len(begun):
        own = t[torch.searchsorted(each.texts, begun // length)]
        parts.append(network.blank_hidden(begun % length, own))
    if len(rest):
        texts = (rest // length).unique() if len(begun) else each.texts
        parts.append(network.hidden(rest, texts, t[torch.searchsorted(each.texts, texts)]))
    hidden = parts[0] if len(parts) == 1 else torch.cat(parts)
    text = network.text_of(rows) if transform.repetition_penalty != 1 else None
    return decode(network.denoiser, hidden, level, transform, text)
