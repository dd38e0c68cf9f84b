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

from sdtt.diffusion.categorical import Transform, level_device
from sdtt.diffusion.denoiser import Denoiser
from sdtt.sampling.network import Network, decode


@dataclass(frozen=True)
class Step:
    """What one pass of a sampler revealed.

    Attributes:
        index: Which of the sampler's steps, from 0.
        texts: The texts that took part, indices into B.
        t: The time of the schedule at which the network was asked, for each of these texts.
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
        told: What a denoiser is told of each: 1 - alpha, the share that the process has masked by
            then. None where steps follow no process: then it counts the MASKs that there are.
    """

    when: Int[Tensor, "B L"]
    times: Float64[Tensor, "B T"]
    told: Float64[Tensor, "B T"] | None = None

    def told_of(self, texts: Int[Tensor, " K"], step: int) -> Float64[Tensor, " K"] | None:
        """What a denoiser is told of some texts in a step."""
        return None if self.told is None else self.told[texts, step]


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
        told = plan.told_of(step.texts, step.index)
        tokens = _reveal(network, step, rows, level, told, transform)
        network.put(step.rows, rows, tokens)
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
    network: Network,
    each: _Pass,
    rows: Tensor,
    level: Tensor,
    told: Tensor | None,
    transform: Transform,
) -> Tensor:
    """The tokens of one pass."""
    begun = torch.arange(len(rows)) < each.blank
    hidden = network.ask(each.rows, each.texts, told, begun)
    text = network.text_of(rows) if transform.repetition_penalty != 1 else None
    return decode(network.denoiser, hidden, level, transform, text)
