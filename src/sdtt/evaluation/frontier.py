"""The teacher's frontier: what it scores at any entropy, between the temperatures measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from sdtt.evaluation.control import TOLERANCE


@dataclass(frozen=True)
class Point:
    """What texts drawn at one temperature measure.

    Attributes:
        temperature: The temperature.
        nll: Mean NLL of a token under the judge, in nats: the logarithm of the perplexity.
        nll_se: Its standard error.
        entropy: Mean unigram entropy of a text, in nats.
        entropy_se: Its standard error.
        covariance: Of the two means: texts of low entropy have a low NLL too. 0 where unknown,
            which makes errors too large.
    """

    temperature: float
    nll: float
    nll_se: float
    entropy: float
    entropy_se: float
    covariance: float = 0.0

    def residual_se(self, slope: float) -> float:
        """The standard error of nll - slope * entropy."""
        variance = self.nll_se**2 + (slope * self.entropy_se) ** 2 - 2 * slope * self.covariance
        return math.sqrt(max(variance, 0.0)) if not math.isnan(variance) else math.nan


@dataclass(frozen=True)
class Matched:
    """The teacher at a wanted entropy, on the line between two temperatures.

    Attributes:
        temperature: Between the two.
        nll: ln perplexity there.
        nll_se: The standard error of the line there, the entropy taken as given.
        entropy: The wanted one.
        slope: d nll / d entropy of the line.
    """

    temperature: float
    nll: float
    nll_se: float
    entropy: float
    slope: float

    def difference_se(self, student: Point) -> float:
        """The standard error of the student's NLL less this: its own entropy counts as well."""
        return math.hypot(student.residual_se(self.slope), self.nll_se)


@dataclass(frozen=True)
class StepsNeeded:
    """The number of steps at which a ladder reaches some perplexity.

    Attributes:
        steps: The number, between rungs as a rule; at a bound the last or first rung.
        bound: "more than" where even the most steps do not reach it, "at most" where the fewest do.
    """

    steps: float
    bound: Literal["", "more than", "at most"] = ""


def control_at(points: Sequence[Point], entropy: float) -> Matched:
    """The teacher at a wanted entropy h: ln perplexity and temperature on the line between two.

    Between the neighbouring temperatures 0 and 1, w = (h - h_0) / (h_1 - h_0) and
    y(h) = (1 - w) y_0 + w y_1, of slope b = (y_1 - y_0) / (h_1 - h_0). Its error is
    (1 - w) s_0 + w s_1, with s the errors of y - b h at both ends, where covariances are taken into
    account. They add up, as the same uniforms lie under both.

    Args:
        points: Measurements at two or more temperatures.
        entropy: The wanted entropy h, in nats.

    Raises:
        ValueError: If h lies more than ``TOLERANCE`` beyond the entropies measured, there are fewer
            than two temperatures, or entropy does not rise with temperature.
    """
    ordered = sorted(points, key=lambda point: point.temperature)
    if len(ordered) < 2:
        raise ValueError(f"a control needs two or more temperatures, got {len(ordered)}")
    for cold, warm in pairwise(ordered):
        if not cold.entropy < warm.entropy:
            raise ValueError(
                f"entropy must rise with temperature: it is {cold.entropy:.3f} at "
                f"{cold.temperature:g} and {warm.entropy:.3f} at {warm.temperature:g}"
            )
    lowest, highest = ordered[0], ordered[-1]
    # a hair more, so that a distance of exactly the tolerance passes in floating point
    if not lowest.entropy - TOLERANCE - 1e-9 <= entropy <= highest.entropy + TOLERANCE + 1e-9:
        raise ValueError(
            f"the entropy {entropy:.3f} lies beyond {lowest.entropy:.3f} to {highest.entropy:.3f}, "
            f"measured at temperatures {lowest.temperature:g} to {highest.temperature:g}"
        )
    pairs = list(pairwise(ordered))
    cold, warm = next((pair for pair in pairs if entropy <= pair[1].entropy), pairs[-1])
    width = warm.entropy - cold.entropy
    w, slope = (entropy - cold.entropy) / width, (warm.nll - cold.nll) / width
    return Matched(
        temperature=(1 - w) * cold.temperature + w * warm.temperature,
        nll=(1 - w) * cold.nll + w * warm.nll,
        nll_se=abs(1 - w) * cold.residual_se(slope) + abs(w) * warm.residual_se(slope),
        entropy=entropy,
        slope=slope,
    )


def steps_needed(ladder: Mapping[int, float], nll: float) -> StepsNeeded:
    """The fewest steps at which a ladder reaches a perplexity: what a student saves is beside it.

    Between the first rung that reaches it and the one before, ln perplexity is linear in ln steps.

    Args:
        ladder: ln perplexity, in nats, by number of steps; for a fair answer all at one entropy.
        nll: The ln perplexity to reach.

    Raises:
        ValueError: If there is no rung.
    """
    if not ladder:
        raise ValueError("the ladder has no rung")
    rungs = sorted(ladder)
    first = next((i for i, steps in enumerate(rungs) if ladder[steps] <= nll), None)
    if first is None:
        return StepsNeeded(rungs[-1], "more than")
    if first == 0:
        # at equality the fewest steps are the answer, not a bound of it
        return StepsNeeded(rungs[0], "" if ladder[rungs[0]] == nll else "at most")
    few, many = rungs[first - 1], rungs[first]
    w = (ladder[few] - nll) / (ladder[few] - ladder[many])
    return StepsNeeded(math.exp((1 - w) * math.log(few) + w * math.log(many)))
