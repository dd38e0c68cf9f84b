"""The analytic sampler of SEDD, for denoisers whose scores are not normalised."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from sdtt.diffusion.categorical import Transform, level_device
from sdtt.diffusion.denoiser import Denoiser
from sdtt.diffusion.noise import grid, pairs, reveal_probability
from sdtt.sampling.ancestral import check_steps, schedule_of
from sdtt.sampling.network import Network, decode, tiles
from sdtt.sampling.reveal import Step, first_stop, free_positions


@dataclass(frozen=True)
class AnalyticSettings:
    """How the process is cut into steps.

    Attributes:
        steps: T, the steps of the time grid; each costs one pass for every text with a MASK left.
        schedule: alpha(t), by name.

    Raises:
        ValueError: If one lies outside its range.
    """

    steps: int = 64
    schedule: str = "log_linear"

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        check_steps(self.steps)
        schedule_of(self.schedule)


def total_score(denoiser: Denoiser, hidden: Float[Tensor, "N D"]) -> Float64[Tensor, " N"]:
    """R = sum_x exp(logits_x) of each row, in float64: 1 for a denoiser that is normalised.

    A denoiser says ``unnormalised_scores = True`` where exp(logits) estimates p(x_i | z) without
    summing to 1: for SEDD, whose network gives the ratios s(x) = p(z with x_i) / p(z), these are
    s(x) (1 - alpha_t) / alpha_t. Other logits hold only up to a constant, so r = 1.
    """
    if not getattr(denoiser, "unnormalised_scores", False):
        return torch.ones(len(hidden), dtype=torch.float64)
    no_draw = torch.empty(len(hidden), dtype=torch.float64)
    sums = [logits.double().logsumexp(-1) for logits, _, _ in tiles(denoiser, hidden, no_draw)]
    return torch.cat(sums).exp().cpu()


def analytic(
    denoiser: Denoiser,
    z: Int[Tensor, "B L"],
    settings: AnalyticSettings,
    u: Float64[Tensor, "B L"],
    v: Float64[Tensor, "B L"],
    *,
    transform: Transform,
    attention_mask: Bool[Tensor, "B L"] | None = None,
    stop_ids: Sequence[int] = (),
) -> Iterator[Step]:
    """Tau-leaping by the analytic reverse step of SEDD [Lou et al. 2024, arXiv 2310.16834, sec. 4].

    With log-linear or any other noise e^{-sigma} = alpha, a masked position of ratios s(x) becomes
    x in the step from t to s < t with the probability s(x) (alpha_s / alpha_t - 1): so it is
    revealed with r rho, where rho = (alpha_s - alpha_t) / (1 - alpha_t) is the chance in the
    process and r the sum of s(x) (1 - alpha_t) / alpha_t, and takes x in proportion to s(x). In the
    last step what is still masked is drawn from the normalised ratios.

    With r = 1 this is the ancestral law, and from the same uniforms the same text: a position is
    revealed in the step in which its chance to be still masked falls to u.

    Unlike the other samplers it must ask for all masked rows in each step, for r decides who is
    revealed, and it waits for the device once a step.

    Args:
        denoiser: Ratios, or p(x_i | z).
        z: The canvas, MASK where a token is wanted.
        settings: Steps, schedule.
        u: Uniforms that say when each position is revealed.
        v: Uniforms that say what it becomes.
        transform: The change of the law before a draw; it does not change r.
        attention_mask: True where a token is real.
        stop_ids: See ``reveal.carry_out``.

    Yields:
        Every step in which something is masked, also where it reveals nothing.
    """
    network = Network(denoiser, z, attention_mask)
    schedule, length = schedule_of(settings.schedule), z.shape[1]
    free = free_positions(denoiser, z, attention_mask)
    masked, wanted = free.clone(), free.to(z.device)
    chance_masked = torch.ones_like(u)  # of each position still to be masked, given the canvas
    last = settings.steps - 1
    for index, (t, s) in enumerate(pairs(grid(settings.steps))):
        if stop_ids:
            stop = first_stop(network.canvas, wanted, stop_ids).cpu()
            masked = masked & (torch.arange(length) < stop[:, None])
        rows = masked.flatten().nonzero().squeeze(-1)
        if len(rows) == 0:
            return
        texts = (rows // length).unique()
        times = t.expand(len(texts))
        begun = network.blank_texts(free)[rows // length] & (index == 0)
        told = 1 - schedule.alpha(times)
        hidden = network.ask(rows, texts, told, begun)
        rho = reveal_probability(schedule.alpha(t), schedule.alpha(s))
        revealed = (total_score(denoiser, hidden) * rho).clamp_max(1) if index < last else 1.0
        chance_masked.view(-1)[rows] *= 1 - revealed
        now = u.flatten()[rows] >= chance_masked.flatten()[rows]
        chosen = rows[now]
        there = chosen.to(z.device)
        text = network.text_of(there) if transform.repetition_penalty != 1 else None
        level = v.flatten()[chosen].to(level_device(z.device))
        tokens = decode(denoiser, hidden[now.to(z.device)], level, transform, text)
        network.put(chosen, there, tokens)
        masked.view(-1)[chosen] = False
        yield Step(index, texts, times, there, tokens)
