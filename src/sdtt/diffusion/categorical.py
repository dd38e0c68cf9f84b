"""Exact draws from logits in float64, and transforms of a law: temperature, nucleus."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Transform = Callable[[Tensor], Tensor]


def draw(logits: Float[Tensor, "N V"], v: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """One token a row: the inverse distribution function of softmax(logits) at v, in float64.

    Low precision loses rare tokens and so lowers the entropy of what is drawn (Zheng et al. 2024);
    float64 on the few rows that are drawn costs little. A token of probability 0 is never drawn.

    Args:
        logits: Log-probabilities up to a constant; -inf is probability 0.
        v: A float64 uniform in [0, 1) for each row.
    """
    if logits.device.type == "mps":  # has no float64
        return draw(logits.cpu(), v.cpu()).to(logits.device)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    total = cumulative[:, -1]
    # strictly below the total, or rounding could step past the last token
    level = torch.minimum(v.to(total) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, level[:, None], right=True).squeeze(-1)


def temperature(logits: Float[Tensor, "N V"], value: float) -> Float[Tensor, "N V"]:
    """The law proportional to p^(1 / value); at 0 all mass on the likeliest tokens."""
    if value == 0:
        likeliest = logits == logits.amax(-1, keepdim=True)
        return torch.zeros_like(logits).masked_fill(~likeliest, float("-inf"))
    return logits / value


def top_p(logits: Float[Tensor, "N V"], mass: float) -> Float[Tensor, "N V"]:
    """The nucleus: the fewest likeliest tokens whose probabilities reach ``mass``; others -inf.

    Holtzman et al. 2020 (arXiv 1904.09751). The likeliest token always stays.
    """
    ordered, order = logits.double().sort(dim=-1, descending=True, stable=True)
    law = ordered.softmax(-1)
    before = law.cumsum(-1) - law
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= mass)
    return logits.masked_fill(outside, float("-inf"))


def transform(value: float = 1.0, mass: float = 1.0) -> Transform:
    """The change of a law that a sampler applies before it draws: temperature, then nucleus.

    Args:
        value: Temperature, at least 0.
        mass: Nucleus, in (0, 1]; 1 keeps every token.

    Raises:
        ValueError: If either lies outside its range.
    """
    if not value >= 0 or value == float("inf"):
        raise ValueError(f"temperature must be a finite number of at least 0, got {value}")
    if not 0 < mass <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {mass}; 1 keeps every token")

    def apply(logits: Tensor) -> Tensor:
        if value != 1:
            logits = temperature(logits, value)
        return top_p(logits, mass) if mass < 1 else logits

    return apply
