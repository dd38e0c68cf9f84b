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
    """

    temperature: float
    nll: float
    nll_se: float
    entropy: float
    entropy_se: float


@dataclass(frozen=True)
class StepsNeeded:
    """The number of steps at which a ladder reaches some perplexity.

    Attributes:
        steps: The number, between rungs as a rule; at a bound the last or first rung.
        bound: "more than" where even the most steps do not reach it, "at most" where the fewest do.
    """

    steps: float
    bound: Literal["", "more than", "at most"] = ""


def control_at(points: Sequence[Point], entropy: float, entropy_se: float = 0.0) -> Point:
    """The teacher at a wanted entropy h: ln perplexity and temperature on the line between two.

    Between the neighbouring temperatures 0 and 1, w = (h - h_0) / (h_1 - h_0) and
    y(h) = (1 - w) y_0 + w y_1, of slope b = (y_1 - y_0) / (h_1 - h_0). Its variance is
    [(1 - w) s_0 + w s_1]^2 + b^2 [(1 - w) e_0 + w e_1]^2 + b^2 e^2, with s the errors of y, e_0 and
    e_1 those of the entropies and e that of h. Errors of both ends add up, as the same uniforms lie
    under both; that a text of low entropy also has a low NLL would make it smaller and is left out.

    Args:
        points: Measurements at two or more temperatures.
        entropy: The wanted entropy h, in nats.
        entropy_se: The standard error e of the wanted entropy: that of the student.

    Returns:
        The control: its error of the NLL counts all of the above, ``entropy_se`` is given back.

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
    return _between(cold, warm, entropy, entropy_se)


def _between(cold: Point, warm: Point, entropy: float, entropy_se: float) -> Point:
    width = warm.entropy - cold.entropy
    w, slope = (entropy - cold.entropy) / width, (warm.nll - cold.nll) / width
    own = abs(1 - w) * cold.nll_se + abs(w) * warm.nll_se
    ends = abs(1 - w) * cold.entropy_se + abs(w) * warm.entropy_se
    return Point(
        temperature=(1 - w) * cold.temperature + w * warm.temperature,
        nll=(1 - w) * cold.nll + w * warm.nll,
        nll_se=math.hypot(own, slope * ends, slope * entropy_se),
        entropy=entropy,
        entropy_se=entropy_se,
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
