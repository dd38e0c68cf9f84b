"""The ancestral sampler of the reverse process, reveal-first, and fixed counts in its order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from sdtt.diffusion.categorical import Transform
from sdtt.diffusion.denoiser import Denoiser
from sdtt.diffusion.noise import SCHEDULES, Schedule, grid
from sdtt.sampling.reveal import Plan, Step, carry_out, free_positions, ranks


@dataclass(frozen=True)
class AncestralSettings:
    """How the process is cut into steps.

    Attributes:
        steps: T, the steps of the time grid; each costs one pass at most.
        counts: "process" reveals a binomial number of positions in each step, as the process
            does. "even" reveals equal numbers (to within one), "cosine" few at first and many at
            the end: after step k of T a share cos(pi k / 2T) is still masked (MaskGIT, 2202.04200).
            Both take the positions in random order.
        schedule: alpha(t), by name; with fixed counts it only says which times the steps name.

    Raises:
        ValueError: If one lies outside its range.
    """

    steps: int = 64
    counts: Literal["process", "even", "cosine"] = "process"
    schedule: str = field(default="log_linear")

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        check_steps(self.steps)
        if self.counts not in ("process", "even", "cosine"):
            raise ValueError(f"unknown counts {self.counts!r}; there are process, even, cosine")
        schedule_of(self.schedule)


def check_steps(steps: int) -> None:
    """Refuses a number of steps below 1.

    Raises:
        ValueError: If it is.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def schedule_of(name: str) -> Schedule:
    """The schedule of a name.

    Raises:
        ValueError: If there is none.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; there are {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def reveal_steps(u: Float64[Tensor, "B L"], steps: int, schedule: Schedule) -> Int[Tensor, "B L"]:
    """In which of the steps of the process each position is revealed.

    A position is revealed at the time tau with 1 - alpha(tau) = u, so in the step from t to s with
    1 - alpha(s) <= u < 1 - alpha(t): independently of all others, with the probability
    (alpha(s) - alpha(t)) / (1 - alpha(t)) where it is still masked at t [MDLM, eq. 7].

    Args:
        u: One uniform a position.
        steps: T uniform steps of the time grid from 1 to 0.
        schedule: alpha(t).
    """
    masked_at = (1 - schedule.alpha(grid(steps)[1:])).flip(0)  # ascending, the first is 0
    return steps - torch.searchsorted(masked_at, u.contiguous(), right=True)


def still_masked(total: Int[Tensor, "B 1"], steps: int, counts: str) -> Int[Tensor, "B {steps}+1"]:
    """How many of the free positions are masked after 0, 1, ..., T steps of fixed counts."""
    share = grid(steps)
    if counts == "cosine":
        share = torch.cos(torch.pi / 2 * (1 - share))
        share[-1] = 0
    return torch.floor(total * share + 1e-9).long()


def fixed_steps(rank: Int[Tensor, "B L"], masked: Int[Tensor, "B T"]) -> Int[Tensor, "B L"]:
    """The step of each position, of which ``rank`` others are revealed before it.

    Args:
        rank: From 0.
        masked: How many are masked after 0, 1, ..., T steps.
    """
    revealed = masked[:, :1] - masked[:, 1:]
    return torch.searchsorted(revealed, rank.contiguous(), right=True)


def plan_ancestral(
    free: Bool[Tensor, "B L"], u: Float64[Tensor, "B L"], settings: AncestralSettings
) -> Plan:
    """Who is revealed when: in the order of u, the largest first."""
    steps, schedule, told = settings.steps, schedule_of(settings.schedule), None
    if settings.counts == "process":
        when = reveal_steps(u, steps, schedule)
        times = grid(steps)[:-1].expand(len(u), -1)
        told = 1 - schedule.alpha(times)
    else:
        total = free.sum(1, keepdim=True)
        masked = still_masked(total, steps, settings.counts)
        when = fixed_steps(ranks(u, free), masked)
        share = masked[:, :-1].double() / total.clamp_min(1)
        times = schedule.time(1 - share)
    return Plan(torch.where(free, when, -1), times, told)


def ancestral(
    denoiser: Denoiser,
    z: Int[Tensor, "B L"],
    settings: AncestralSettings,
    u: Float64[Tensor, "B L"],
    v: Float64[Tensor, "B L"],
    *,
    transform: Transform,
    attention_mask: Bool[Tensor, "B L"] | None = None,
    stop_ids: Sequence[int] = (),
) -> Iterator[Step]:
    """The usual reverse process in T steps, from the 2L uniforms of each text.

    Which positions a step reveals does not depend on the network, so they are drawn first; the
    network runs only over the texts that reveal something, and only the revealed rows are projected
    to the vocabulary, where tokens are drawn in float64. Exactly the law of the sampler that
    projects and draws everything [MDLM, eq. 7]. Visible positions of z stay; what is left in the
    last step is drawn like the rest.

    Args:
        denoiser: p(x_i | z).
        z: The canvas, MASK where a token is wanted.
        settings: Steps, counts, schedule.
        u: Uniforms that say when each position is revealed.
        v: Uniforms that say what it becomes.
        transform: The change of the law before a draw.
        attention_mask: True where a token is real.
        stop_ids: See ``reveal.carry_out``.

    Yields:
        The steps that reveal something, in order.
    """
    plan = plan_ancestral(free_positions(denoiser, z, attention_mask), u, settings)
    yield from carry_out(
        denoiser, z, plan, v,
        transform=transform, attention_mask=attention_mask, stop_ids=stop_ids,
    )  # fmt: skip
