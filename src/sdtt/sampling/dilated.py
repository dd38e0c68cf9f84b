"""Dilated order: a step reveals positions that lie far from each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from sdtt.diffusion.categorical import Transform
from sdtt.diffusion.denoiser import Denoiser
from sdtt.sampling.ancestral import check_steps, schedule_of
from sdtt.sampling.reveal import Plan, Step, carry_out, free_positions, rank_of_free


@dataclass(frozen=True)
class DilatedSettings:
    """How the positions are spread over the steps.

    Attributes:
        steps: N. A text with fewer free positions than N takes as many passes as it has.
        stratified: Instead of one residue, a step takes one position at random out of each run of
            N neighbours: between the dilated and the random order.
        schedule: alpha(t), by name: it says which times the steps name, and changes nothing else.

    Raises:
        ValueError: If one lies outside its range.
    """

    steps: int = 64
    stratified: bool = False
    schedule: str = "log_linear"

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        check_steps(self.steps)
        schedule_of(self.schedule)


def residue_order(
    u: Float64[Tensor, "B L"], free: Bool[Tensor, "B L"], count: Int[Tensor, "B 1"]
) -> Int[Tensor, "B L"]:
    """For each text a random permutation: the step of residue j, from the u of its j-th free place.

    Args:
        u: Uniforms.
        free: Where a token is wanted.
        count: N of each text, at most its free places; entries of residues from N on mean nothing.
    """
    place = (~free).long().argsort(dim=1, stable=True)  # the free ones first
    beyond = torch.arange(u.shape[1]) >= count
    order = u.gather(1, place).masked_fill(beyond, 2.0).argsort(dim=1, stable=True)
    return places_of(order)


def places_of(order: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """The inverse of a permutation: at which place of the order each index stands."""
    step = torch.arange(order.shape[1]).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, step)


def refined_order(
    u: Float64[Tensor, "B L"], free: Bool[Tensor, "B L"], steps: int, parts: int
) -> Int[Tensor, "B L"]:
    """When each position is revealed by a dilated order whose every step is cut into some parts.

    The j-th free position of a text belongs to the step of the residue j modulo N, and within it
    to the part of the residue j // N modulo ``parts``; both orders are random. So parts of one step
    lie ``parts`` N places apart: they are steps of a dilated order that is finer by that factor.

    Args:
        u: Uniforms: those of the first N free positions make the order of the steps, the lower bits
            of the first ``parts`` that of the parts.
        free: Where a token is wanted.
        steps: N; of a text with fewer free positions, as many as it has.
        parts: Into how many parts a step is cut.

    Returns:
        step * parts + part, in 0 .. N * parts - 1; entries that are not free mean nothing.
    """
    total = free.sum(1, keepdim=True)
    count = total.clamp(1, steps)
    place = rank_of_free(free)
    step = residue_order(u, free, count).gather(1, place % count)
    # the bits below 2^-26 decide nothing above, as good as independent of those that do
    lower = residue_order((u * 2**26).frac(), free, total.clamp(1, parts))
    part = lower.gather(1, place // count % total.clamp(1, parts))
    return step * parts + part


def plan_dilated(
    free: Bool[Tensor, "B L"], u: Float64[Tensor, "B L"], settings: DilatedSettings
) -> Plan:
    """The free position of rank j is revealed in the step of the residue j modulo N."""
    total = free.sum(1, keepdim=True)
    count = total.clamp(1, settings.steps)  # N of each text
    rank = rank_of_free(free)
    order = residue_order(u, free, count)
    if settings.stratified:
        run = rank // count
        # by u within each run of N neighbours; keys of different runs lie apart
        within = places_of((run + u).masked_fill(~free, torch.inf).argsort(dim=1)) - run * count
        # the last run may be short: which steps take from it is random too, by the lower bits of
        # the uniforms, which the order above does not depend on
        short = run == total // count
        other = residue_order((u * 2**26).frac(), free, count)
        when = torch.where(short, other.gather(1, within.clamp_min(0)), within)
    else:
        when = order.gather(1, rank % count)
    when = torch.where(free, when, -1)
    steps = int(when.max()) + 1 if when.numel() else 0
    revealed = torch.zeros(len(u), steps + 1, dtype=torch.float64)
    revealed.scatter_add_(1, when + 1, free.double())  # before step s: those of step s - 1
    masked_share = 1 - revealed.cumsum(1)[:, :-1] / total.clamp_min(1)
    return Plan(when, schedule_of(settings.schedule).time(1 - masked_share))


def dilated(
    denoiser: Denoiser,
    z: Int[Tensor, "B L"],
    settings: DilatedSettings,
    u: Float64[Tensor, "B L"],
    v: Float64[Tensor, "B L"],
    *,
    transform: Transform,
    attention_mask: Bool[Tensor, "B L"] | None = None,
    stop_ids: Sequence[int] = (),
) -> Iterator[Step]:
    """Step s reveals the positions whose rank is r_s modulo N [DUS, arXiv 2506.19037].

    r is a random permutation of 0 .. N - 1 for each text, and ranks count the free positions, so
    prompts and infilled spans take no turn. What a step draws as independent is N places apart:
    with a factorised denoiser the error of a step is the dependence among its tokens, and distant
    tokens hardly depend. At N = L every step reveals one token, and the law is exact for an exact
    denoiser. On a Markov chain the only error is that of the first step, whose N-spaced tokens
    are drawn as independent; later ones are separated by visible tokens.

    Args:
        denoiser: p(x_i | z).
        z: The canvas, MASK where a token is wanted.
        settings: Steps, stratified or not, schedule.
        u: Uniforms: those of the first N free positions make the permutation.
        v: Uniforms that say what each position becomes.
        transform: The change of the law before a draw.
        attention_mask: True where a token is real.
        stop_ids: See ``reveal.carry_out``.

    Yields:
        The steps that reveal something, in order.
    """
    plan = plan_dilated(free_positions(denoiser, z, attention_mask), u, settings)
    yield from carry_out(
        denoiser, z, plan, v,
        transform=transform, attention_mask=attention_mask, stop_ids=stop_ids,
    )  # fmt: skip
