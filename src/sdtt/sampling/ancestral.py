"""The ancestral sampler of the reverse process, reveal-first."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdtt.diffusion.categorical import Transform, draw
from sdtt.diffusion.denoiser import Denoiser, hidden_of_rows
from sdtt.diffusion.noise import SCHEDULES, Schedule, grid


@dataclass(frozen=True)
class Step:
    """What one step of a sampler revealed.

    Attributes:
        index: Which of the steps, from 0.
        t: The time at which the network was asked.
        rows: Flat indices into B*L of the revealed positions.
        tokens: What they became.
    """

    index: int
    t: float
    rows: Int[Tensor, " N"]
    tokens: Int[Tensor, " N"]


def reveal_steps(u: Float[Tensor, "B L"], steps: int, schedule: Schedule) -> Int[Tensor, "B L"]:
    """In which of the steps each position is revealed.

    A position is revealed at the time tau with 1 - alpha(tau) = u, so in the step from t to s with
    1 - alpha(s) <= u < 1 - alpha(t): independently of all others, with the probability
    (alpha(s) - alpha(t)) / (1 - alpha(t)) where it is still masked at t [MDLM, eq. 7].

    Args:
        u: One uniform a position, float64.
        steps: T uniform steps of the time grid from 1 to 0.
        schedule: alpha(t).
    """
    masked_at = (1 - schedule.alpha(grid(steps)[1:])).flip(0)  # ascending, the first is 0
    return steps - torch.searchsorted(masked_at, u.contiguous(), right=True)


def ancestral(
    denoiser: Denoiser,
    z: Int[Tensor, "B L"],
    u: Float[Tensor, "B L"],
    v: Float[Tensor, "B L"],
    *,
    steps: int,
    transform: Transform,
    schedule: Schedule = SCHEDULES["log_linear"],
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
        u: Uniforms that say when each position is revealed, float64.
        v: Uniforms that say what it becomes, float64.
        steps: T.
        transform: The change of the law before a draw, by ``categorical.transform``.
        schedule: alpha(t).

    Yields:
        The steps that reveal something, in order.
    """
    free = (z == denoiser.mask_token_id).flatten().nonzero().squeeze(-1).cpu()
    when = reveal_steps(u, steps, schedule).flatten()[free]
    rows_by_time = free[when.argsort(stable=True)]
    counts = torch.bincount(when, minlength=steps).tolist()
    times = grid(steps)
    canvas = z.flatten().clone()
    for index, rows in enumerate(rows_by_time.split(counts)):
        if len(rows) == 0:
            continue
        on_device = rows.to(z.device)
        t = times[index].expand(len(z)).float().to(z.device)
        hidden = hidden_of_rows(denoiser, canvas.view_as(z), on_device, t)
        tokens = draw(transform(denoiser.logits(hidden)), v.flatten()[rows].to(v.device))
        canvas[on_device] = tokens
        yield Step(index, float(times[index]), on_device, tokens)
