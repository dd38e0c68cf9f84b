"""Which positions of a continuation are masked, and what each set counts in its NELBO."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from sdtt.diffusion.uniforms import uniforms

MOST_EXACT = 16
"""Tokens of which all sets are enumerated at most: 65,535 sets."""


@dataclass(frozen=True)
class Noise:
    """How the NELBO of a continuation is computed.

    Attributes:
        samples: Sets of masked positions that are drawn for a continuation; 1, or an even number.
        exact_tokens: Continuations of up to so many tokens are computed exactly, by enumerating
            their 2^K - 1 sets. None: those where that takes no more passes than ``samples``.
        seed: Of the draws; a draw is a function of the seed and the pair.

    Raises:
        ValueError: If a number is out of its range.
    """

    samples: int = 32
    exact_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.samples < 1 or (self.samples > 1 and self.samples % 2):
            raise ValueError(f"noise samples must be 1 or an even number, got {self.samples}")
        if self.exact_tokens is not None and not 0 <= self.exact_tokens <= MOST_EXACT:
            raise ValueError(f"exact_tokens must lie in [0, {MOST_EXACT}], got {self.exact_tokens}")

    def is_exact(self, tokens: int) -> bool:
        """Whether a continuation of so many tokens is computed exactly."""
        if self.exact_tokens is None:
            return tokens <= MOST_EXACT and 2**tokens - 1 <= self.samples
        return tokens <= self.exact_tokens

    def sets(self, context: Sequence[int], continuation: Sequence[int]) -> "MaskSets":
        """The sets of a pair."""
        if self.is_exact(len(continuation)):
            return every_set(len(continuation))
        return drawn_sets(len(continuation), self.samples, self.seed, name(context, continuation))


@dataclass(frozen=True)
class MaskSets:
    """Sets M of masked positions of a continuation of K tokens.

    The NELBO is the sum over sets of weight * sum over i in M of -log p(x_i | all that is visible).

    Attributes:
        masked: Which positions each set masks.
        weights: Of each set.
        exact: Whether these are all sets, or drawn ones.
    """

    masked: Bool[Tensor, "S K"]
    weights: Float64[Tensor, " S"]
    exact: bool

    def estimate(self, sums: Float64[Tensor, " S"]) -> tuple[float, float]:
        """The NELBO in nats, and its standard error by the draws.

        The sets are drawn one a stratum; the error comes from the differences of neighbouring
        strata ("collapsed" ones), so that it is rather too large. It is 0 where all sets are
        there, nan for a single draw.

        Args:
            sums: The sum of the cross-entropies under each set, in nats.
        """
        terms = self.weights * sums
        if self.exact:
            return terms.sum().item(), 0.0
        if len(terms) == 1:
            return terms.sum().item(), math.nan
        return terms.sum().item(), (terms[0::2] - terms[1::2]).square().sum().sqrt().item()


def every_set(length: int) -> MaskSets:
    """All 2^K - 1 sets but the empty one, that of all positions last.

    A set of m positions has the weight B(m, K - m + 1) = (m - 1)! (K - m)! / K!, with B the Beta
    function: the integral over t of t^(m - 1) (1 - t)^(K - m).

    Args:
        length: K.
    """
    number = torch.arange(1, 2**length)
    masked = (number[:, None] >> torch.arange(length)) & 1 == 1
    size = masked.sum(1).double()
    whole = torch.full_like(size, length)
    log_weight = size.lgamma() + (whole - size + 1).lgamma() - (whole + 1).lgamma()
    return MaskSets(masked, log_weight.exp(), exact=True)


def drawn_sets(length: int, samples: int, seed: int, own: int) -> MaskSets:
    """Sets by Monte Carlo: one t in each of n equal strata of [0, 1], 1 + floor(K t) positions.

    Given t each position is masked with probability t, and the sum counts 1/t; integrated over t
    given the number m of masked positions, m is uniform on 1 .. K, the set uniform among those of m
    positions, and its sum counts K/m: the same mean with less variance [LLaDA, arXiv 2502.09992,
    eq. 6].

    Args:
        length: K.
        samples: n.
        seed: Of the draws.
        own: The name of the text, so that it gets the same sets in any batch and order.
    """
    names = [(own, sample) for sample in range(samples)]
    u = uniforms(seed, "likelihood/sets", names, 1 + length)
    t = (torch.arange(samples) + u[:, 0]) / samples
    size = (1 + (length * t).long()).clamp_max(length)
    rank = u[:, 1:].argsort(1).argsort(1)
    return MaskSets(rank < size[:, None], length / size.double() / samples, exact=False)


def name(context: Sequence[int], continuation: Sequence[int]) -> int:
    """A number that names a pair by what it holds."""
    text = f"{','.join(map(str, context))}|{','.join(map(str, continuation))}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
