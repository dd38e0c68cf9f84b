"""The forward process and its clock: schedules alpha(t), masking, time grids, stratified times."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """A decreasing alpha(t) from 1 at t = 0 to 0 at t = 1.

    Attributes:
        alpha: alpha(t), the chance that a token is still visible at time t.
        alpha_prime: Its derivative.
        time: Its inverse: the t at which a share alpha of the tokens is visible.
    """

    alpha: Callable[[Tensor], Tensor]
    alpha_prime: Callable[[Tensor], Tensor]
    time: Callable[[Tensor], Tensor]


SCHEDULES: dict[str, Schedule] = {
    "log_linear": Schedule(
        alpha=lambda t: 1 - t,
        alpha_prime=lambda t: -torch.ones_like(t),
        time=lambda alpha: 1 - alpha,
    ),
    "cosine": Schedule(
        alpha=lambda t: torch.cos(math.pi / 2 * t),
        alpha_prime=lambda t: -math.pi / 2 * torch.sin(math.pi / 2 * t),
        time=lambda alpha: 2 / math.pi * torch.arccos(alpha),
    ),
}


def is_masked(
    u: Float[Tensor, "B L"], t: Float[Tensor, " B"], schedule: Schedule
) -> Bool[Tensor, "B L"]:
    """Which tokens are MASK at time t: those with u < 1 - alpha(t).

    The uniform of a position fixes its whole life: it is revealed at the time tau with
    1 - alpha(tau) = u. So masks at different times, from the same u, are nested, and jointly have
    the law of the process.

    Args:
        u: One uniform a position, in [0, 1).
        t: The time of each text, in [0, 1].
        schedule: alpha(t).
    """
    return u < (1 - schedule.alpha(t))[:, None]


def revealed_in(u: Float[Tensor, "B L"], steps: Int[Tensor, " B"]) -> Int[Tensor, "B L"]:
    """The step, of N equal ones in the share that is visible, in which each position is revealed.

    floor((1 - u) N): the first step reveals what has the largest u. Given what is visible at any
    time, its order is random and so are the sizes of its steps.

    Args:
        u: One uniform a position, in [0, 1), as for ``is_masked``.
        steps: N of each text.
    """
    return ((1 - u) * steps[:, None]).floor().long().clamp_max(steps[:, None] - 1)


def mask(
    x: Int[Tensor, "B L"], masked: Bool[Tensor, "B L"], mask_token_id: int
) -> Int[Tensor, "B L"]:
    """``z_t``: the text x with MASK where ``masked`` says so [MDLM, eq. 3]."""
    return x.masked_fill(masked, mask_token_id)


def reveal_probability(alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """The chance that a token masked at t is visible at s < t [MDLM, eq. 7].

    (alpha_s - alpha_t) / (1 - alpha_t), whatever the network says.
    """
    return (alpha_s - alpha_t) / (1 - alpha_t)


def grid(steps: int) -> Float[Tensor, " {steps}+1"]:
    """The times 1, 1 - 1/steps, ..., 0 in float64; the last is exactly 0.

    Raises:
        ValueError: If steps is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.arange(steps, -1, -1, dtype=torch.float64) / steps


def pairs(times: Float[Tensor, " n"]) -> Iterator[tuple[Tensor, Tensor]]:
    """The steps (t, s) of a grid, s < t."""
    return pairwise(times)


def teacher_times(
    t: Float[Tensor, " B"], dt: float, teacher_steps: int
) -> Float[Tensor, "B {teacher_steps}+1"]:
    """The times t, t - dt, ..., t - k dt that a teacher visits, never below 0 [SDTT, Alg. 1].

    As printed in the paper the last times pass below 0 near t = 0; they are clamped here.

    Args:
        t: Where each text starts.
        dt: The size of a teacher step.
        teacher_steps: k, how many of them.
    """
    return (t[:, None] - dt * torch.arange(teacher_steps + 1).to(t)).clamp_min(0)


RELEASED_SMALLEST_TIME = 1e-3
"""No time of the released code lies below it, and its dt is (1 - 1e-3) / steps."""


def released_grid(
    t: Float[Tensor, " B"], dt: float, teacher_steps: int
) -> Float[Tensor, "B {teacher_steps}"]:
    """The times at which the released code of SDTT starts its teacher steps.

    t_i = max(w_i t + (1 - t) (t - k dt'), 1e-3) with w = 1, ..., 0: k weights evenly spaced, both
    ends among them, and dt' = (1 - 1e-3) dt. Meant was w_i t + (1 - w_i) (t - k dt'), without the
    last. So for t = 1/2, dt = 1/1024, k = 2 it is 0.749, 0.249 in place of 0.5, 0.499: the first
    time may lie above t, and the steps leave gaps. With k = 1 the weight is 1.

    Args:
        t: The time at which each text was masked.
        dt: 1 / sampling steps of the teacher.
        teacher_steps: k, how many steps.
    """
    end = t - teacher_steps * (1 - RELEASED_SMALLEST_TIME) * dt
    weight = torch.linspace(1, 0, teacher_steps, dtype=torch.float64).to(t)
    times = weight * t[:, None] + ((1 - t) * end)[:, None]
    return times.clamp_min(RELEASED_SMALLEST_TIME)


def nested_times(
    t: Float[Tensor, " B"],
    start: Float[Tensor, "B K"],
    end: Float[Tensor, "B K"],
    schedule: Schedule,
) -> Float[Tensor, "B K+1"]:
    """The contiguous times t, t'_1, ..., t'_K that reveal what K steps between any times reveal.

    Step i reveals a masked position with the chance r_i = (alpha(end_i) - alpha(start_i)) /
    (1 - alpha(start_i)), whatever share of the text is masked. Given that a position is masked at
    t, u / (1 - alpha(t)) is uniform; so let it still be masked after step i exactly where
    u < (1 - alpha(t)) (1 - r_0) ... (1 - r_i), and t'_(i+1) is the time at which that share is
    masked. Where every step starts at the end of the one before the product telescopes: t' = end.

    Args:
        t: The time at which each text was masked.
        start: Where each step starts, above 0; it may lie above t.
        end: Where it ends, at most its start.
        schedule: alpha(t).
    """
    stays = 1 - reveal_probability(schedule.alpha(start), schedule.alpha(end))
    share = (1 - schedule.alpha(t))[:, None] * stays.cumprod(1)
    return torch.cat([t[:, None], schedule.time(1 - share)], 1)


def released_teacher_times(
    t: Float[Tensor, " B"], dt: float, teacher_steps: int, schedule: Schedule
) -> Float[Tensor, "B {teacher_steps}+1"]:
    """The nested times of the released code's teacher: steps of dt' from ``released_grid``.

    Reproduced are its grid, the floor of the grid, dt' = (1 - 1e-3) dt, and the chance of a step to
    reveal a position, which is dt' / t_i, at most 1, under the log-linear schedule, the only one
    that it knows. Not reproduced: it masks a share (1 - 1e-3) t, draws t from [1e-3, 1], draws in
    low precision, and tells t_i to a teacher that is told a time (here: the nested time).

    Args:
        t: The time at which each text was masked.
        dt: 1 / sampling steps of the teacher.
        teacher_steps: k, how many steps.
        schedule: alpha(t).
    """
    start = released_grid(t, dt, teacher_steps)
    end = (start - (1 - RELEASED_SMALLEST_TIME) * dt).clamp_min(0)
    return nested_times(t, start, end, schedule)


TimeGrid = Callable[[Tensor, float, int, Schedule], Tensor]

TIME_GRIDS: dict[str, TimeGrid] = {
    "paper": lambda t, dt, teacher_steps, _: teacher_times(t, dt, teacher_steps),
    "released": released_teacher_times,
}
"""The k + 1 decreasing times of a teacher's steps, by name: (t, dt, k, schedule) -> B x (k + 1)."""


def stratified_times(
    u: Float[Tensor, " B"], strata: Int[Tensor, " B"], count: int, smallest: float = 0.0
) -> Float[Tensor, " B"]:
    """One time in each of ``count`` equal strata of [smallest, 1], to lower the variance.

    Each t alone is uniform when its stratum is ("antithetic", MDLM sec. 4).

    Args:
        u: A uniform for each text.
        strata: Which stratum each text has, in 0 .. count - 1.
        count: How many strata there are: the texts of the whole update.
        smallest: The smallest time.
    """
    return smallest + (1 - smallest) * (strata + u) / count
