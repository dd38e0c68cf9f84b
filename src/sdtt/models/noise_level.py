"""How noisy a text is: the level sigma = -log alpha that a network is told."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST_VISIBLE = 1e-3
"""Of the published log-linear noise: the share of tokens that is still visible at t = 1."""


def masked_share(
    z: Int[Tensor, "B L"],
    mask_token_id: int,
    attention_mask: Bool[Tensor, "B L"] | Int[Tensor, "B L"] | None = None,
) -> Float[Tensor, " B"]:
    """The share of MASK among the real tokens of each text: an estimate of 1 - alpha(t).

    Args:
        z: Token ids.
        mask_token_id: The id of MASK.
        attention_mask: True or 1 where a token is real.
    """
    real = torch.ones_like(z) if attention_mask is None else attention_mask.to(z)
    masked = ((z == mask_token_id) * real).sum(1)
    return masked / real.sum(1).clamp_min(1)


def log_linear_level(share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """sigma(t) = -log(1 - (1 - 1e-3) t) of the published noise, at the time t = share.

    Its 1 - alpha is (1 - 1e-3) t, so that sigma ends at 6.9.
    """
    return -torch.log1p(-(1 - LEAST_VISIBLE) * share)


def geometric_level(
    share: Float[Tensor, " B"], sigma_min: float, sigma_max: float
) -> Float[Tensor, " B"]:
    """sigma_min^(1 - t) sigma_max^t at the time t at which the process has masked a share.

    That is the sigma with 1 - e^-sigma = share; before t = 0 and after t = 1 it stays at its ends.
    """
    return (-torch.log1p(-share)).clamp(sigma_min, sigma_max)
