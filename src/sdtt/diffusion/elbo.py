"""The negative evidence lower bound (NELBO) of a text, in nats per token, and bits per byte."""

import math
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdtt.diffusion.denoiser import Denoiser, follows_order
from sdtt.diffusion.noise import Schedule, is_masked, mask, revealed_in
from sdtt.diffusion.tiled import tiled_cross_entropy

SMALLEST_TIME = 1e-3
"""t is drawn from [1e-3, 1] in training, as published; the bound below it is not counted."""


def nelbo_weight(t: Float[Tensor, " B"], schedule: Schedule) -> Float[Tensor, " B"]:
    """-alpha'(t) / (1 - alpha(t)): what a masked token's cross-entropy counts [MDLM, eq. 10].

    1/t for the log-linear schedule.
    """
    return -schedule.alpha_prime(t) / (1 - schedule.alpha(t))


def nelbo_sum(
    denoiser: Denoiser,
    x: Int[Tensor, "B L"],
    t: Float[Tensor, " B"],
    u: Float[Tensor, "B L"],
    schedule: Schedule,
    steps: int | None = None,
) -> Float[Tensor, ""]:
    """One draw of the NELBO of each text, in nats, summed over the texts.

    nelbo_weight(t) * sum over the masked positions of -log p(x_i | z_t); with t uniform its mean
    over t and u is the NELBO of the text, an upper bound of -log p(x).

    Args:
        denoiser: p(x_i | z).
        x: Clean texts.
        t: The time of each text.
        u: The uniforms that mask them.
        schedule: alpha(t); the bound does not depend on it, its variance does.
        steps: Of a denoiser whose law follows the order of revelation: in how many steps the
            visible tokens were revealed, as ``revealed_in`` says; one by one if None.
    """
    masked = is_masked(u, t, schedule).to(x.device)
    rows = masked.flatten().nonzero().squeeze(-1)
    z = mask(x, masked, denoiser.mask_token_id)
    order = {}
    if follows_order(denoiser):
        if steps is None:
            when = u.argsort(1, descending=True).argsort(1)
        else:
            when = revealed_in(u, torch.full((len(x),), steps))
        order = {"revealed": when.to(x.device)}
    told = (1 - schedule.alpha(t)).float().to(x.device)
    hidden = denoiser.hidden(z, rows, t=told, **order)
    weights = nelbo_weight(t, schedule).float().to(x.device)[rows // x.shape[1]]
    return tiled_cross_entropy(
        hidden, denoiser.head, x.flatten()[rows], weights, excluded_ids=denoiser.excluded_ids
    )


@torch.no_grad()
def exact_nelbo(denoiser: Denoiser, x: Int[Tensor, " L"]) -> float:
    """The NELBO of one short text in nats, by enumerating its 2^L - 1 sets of masked positions.

    sum over sets M of B(|M|, L - |M| + 1) * sum over i in M of -log p(x_i | x outside M), with B
    the Beta function: the integral over t of t^(|M| - 1) (1 - t)^(L - |M|). With an exact denoiser
    it is -log p(x). A denoiser that is told the time counts its MASKs; one whose law follows the
    order of revelation takes all that is visible for one step (``nelbo_sum`` tells it an order).

    Args:
        denoiser: p(x_i | z).
        x: One clean text; the cost is 2^L rows of the network.
    """
    length = x.shape[0]
    total = 0.0
    for size in range(1, length + 1):
        # B(m, n) = Gamma(m) Gamma(n) / Gamma(m + n)
        weight = math.exp(
            math.lgamma(size) + math.lgamma(length - size + 1) - math.lgamma(length + 1)
        )
        chosen = torch.tensor(list(combinations(range(length), size)), device=x.device)
        masked = torch.zeros(len(chosen), length, dtype=torch.bool, device=x.device)
        masked.scatter_(1, chosen, True)
        z = mask(x.expand(len(chosen), -1), masked, denoiser.mask_token_id)
        rows = masked.flatten().nonzero().squeeze(-1)
        log_law = denoiser.logits(denoiser.hidden(z, rows)).double().log_softmax(-1)
        tokens = x.expand(len(chosen), -1).flatten()[rows]
        total -= weight * log_law.gather(-1, tokens[:, None]).sum().item()
    return total


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Nats a token, turned into bits for each UTF-8 byte of the text.

    Args:
        nats_per_token: For instance the NELBO.
        bytes_per_token: Of the same text; it makes tokenizers comparable.
    """
    return nats_per_token / bytes_per_token / math.log(2)
