"""First-hitting sampling: the process in continuous time, one pass for each token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from sdtt.diffusion.categorical import Transform
from sdtt.diffusion.denoiser import Denoiser
from sdtt.sampling.ancestral import schedule_of
from sdtt.sampling.reveal import Plan, Step, carry_out, free_positions, ranks


@dataclass(frozen=True)
class FirstHittingSettings:
    """How many tokens a pass reveals.

    Attributes:
        tokens_per_pass: n; with 1 there is no discretisation of time at all.
        schedule: alpha(t), by name: it says which times the steps name, and changes nothing else.

    Raises:
        ValueError: If one lies outside its range.
    """

    tokens_per_pass: int = 1
    schedule: str = "log_linear"

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.tokens_per_pass < 1:
            raise ValueError(f"tokens_per_pass must be at least 1, got {self.tokens_per_pass}")
        schedule_of(self.schedule)


def plan_first_hitting(
    free: Bool[Tensor, "B L"], u: Float64[Tensor, "B L"], settings: FirstHittingSettings
) -> Plan:
    """Position i is revealed at the time tau_i with 1 - alpha(tau_i) = u_i; n of them in a pass."""
    rank = ranks(u, free)
    when = torch.where(free, rank // settings.tokens_per_pass, -1)
    passes = int(when.max()) + 1 if when.numel() else 0
    # the network is asked when the first of the group is due
    hits = u.masked_fill(~free, 0.0).sort(1, descending=True).values
    hits = hits[:, :: settings.tokens_per_pass][:, :passes]
    return Plan(when, schedule_of(settings.schedule).time(1 - hits), told=hits)


def first_hitting(
    denoiser: Denoiser,
    z: Int[Tensor, "B L"],
    settings: FirstHittingSettings,
    u: Float64[Tensor, "B L"],
    v: Float64[Tensor, "B L"],
    *,
    transform: Transform,
    attention_mask: Bool[Tensor, "B L"] | None = None,
    stop_ids: Sequence[int] = (),
) -> Iterator[Step]:
    """The reverse process in continuous time [Zheng et al. 2024, arXiv 2409.02908, sec. 4].

    Nothing happens between two reveals, so the network runs only when a token is due: one pass for
    each token, L at most, and no error of discretisation. It is the limit of ``ancestral`` for many
    steps, and from the same uniforms draws the same text. In groups of n, n tokens that follow each
    other in time are drawn from one pass, as independent.

    Args:
        denoiser: p(x_i | z).
        z: The canvas, MASK where a token is wanted.
        settings: Tokens of a pass, schedule.
        u: Uniforms that say when each position is revealed.
        v: Uniforms that say what it becomes.
        transform: The change of the law before a draw.
        attention_mask: True where a token is real.
        stop_ids: See ``reveal.carry_out``.

    Yields:
        The steps, in order; step k reveals the k-th group of each text.
    """
    plan = plan_first_hitting(free_positions(denoiser, z, attention_mask), u, settings)
    yield from carry_out(
        denoiser, z, plan, v,
        transform=transform, attention_mask=attention_mask, stop_ids=stop_ids,
    )  # fmt: skip
