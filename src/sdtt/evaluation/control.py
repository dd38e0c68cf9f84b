"""The matched-entropy control: is a student more than its teacher at a lower temperature?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sdtt.evaluation.diversity import diversity

TOLERANCE = 0.02
"""Nats within which two entropies count as equal."""

SLOPE = 0.7
"""The first guess of d entropy / d temperature, in nats; measured on small models."""


@dataclass(frozen=True)
class Match:
    """A temperature at which texts have a wanted entropy.

    Attributes:
        temperature: The temperature.
        entropy: Mean unigram entropy of a text there, in nats.
        samples: The texts, as token ids.
    """

    temperature: float
    entropy: float
    samples: list[list[int]]


def match_entropy(
    sample_at: Callable[[float], Any],
    entropy: float,
    *,
    lowest: float = 0.3,
    highest: float = 1.5,
    tolerance: float = TOLERANCE / 4,
    most: int = 12,
) -> Match:
    """The temperature at which the teacher's texts have the student's entropy, by bisection.

    With the same uniforms at every temperature the entropy is a nearly smooth function of it, so
    the bracket is cut where the line through its ends meets the wanted entropy (in the middle
    while an end is unknown, after a first guess). It stops at ``tolerance`` or after ``most``
    temperatures; the closest one is kept.

    Args:
        sample_at: Texts (B, L) of the teacher at a temperature.
        entropy: The wanted mean unigram entropy of a text, in nats.
        lowest: The lowest temperature looked at.
        highest: The highest.
        tolerance: Nats of difference that are close enough.
        most: The largest number of temperatures.

    Raises:
        ValueError: If no temperature comes within ``TOLERANCE``.
    """
    seen: dict[float, float] = {}
    best: Match | None = None
    value = 1.0
    for _ in range(most):
        samples = sample_at(value).tolist()
        seen[value] = diversity(samples).entropy
        if best is None or abs(seen[value] - entropy) < abs(best.entropy - entropy):
            best = Match(value, seen[value], samples)
        if abs(best.entropy - entropy) <= tolerance:
            return best
        below = max((t for t, h in seen.items() if h < entropy), default=lowest)
        above = min((t for t, h in seen.items() if h >= entropy), default=highest)
        value = _cut(below, above, entropy, seen)
    assert best is not None
    if abs(best.entropy - entropy) > TOLERANCE:
        raise ValueError(
            f"no temperature gives the entropy {entropy:.3f} within {TOLERANCE}; the closest is "
            f"{best.entropy:.3f} at temperature {best.temperature:.3f}"
        )
    return best


def _cut(below: float, above: float, entropy: float, seen: dict[float, float]) -> float:
    """Where to look next, strictly between a temperature that is too low and one too high."""
    if below in seen and above in seen:
        share = (entropy - seen[below]) / (seen[above] - seen[below])
    elif len(seen) == 1:  # entropy moves by about SLOPE nats for each unit of temperature
        (here, at), width = next(iter(seen.items())), above - below
        share = (here + (entropy - at) / SLOPE - below) / width
    else:
        share = 0.5
    return below + min(max(share, 0.1), 0.9) * (above - below)
