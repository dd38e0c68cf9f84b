"""Best of n: the quality of the best of n texts under a scorer, against the seconds that n take."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Chosen:
    """The text that a scorer likes best of n, in expectation.

    Attributes:
        n: Texts to choose from.
        seconds: That a chosen text takes: those of its n candidates, and of scoring them.
        score: Its NLL a token under the scorer that chose it, in nats: too good by the choice.
        score_se: The standard error; nan where n is the number of all candidates.
        nll: Its NLL a token under the judge that reports, in nats.
        nll_se: Its standard error.
        entropy: Its unigram entropy, in nats: what is likely may also be monotonous.
        entropy_se: Its standard error.
    """

    n: int
    seconds: float
    score: float
    score_se: float
    nll: float
    nll_se: float
    entropy: float
    entropy_se: float


@dataclass(frozen=True)
class BestOf:
    """The best of n for several n.

    Attributes:
        candidates: Texts that were scored.
        chosen_by_judge: Whether the scorer that chooses is also the judge that reports, so that
            ``nll`` is ``score``, and says what the choice maximises rather than quality.
        curve: One entry for each n, ascending.
    """

    candidates: int
    chosen_by_judge: bool
    curve: tuple[Chosen, ...]


def best_of(
    scores: Sequence[float],
    entropies: Sequence[float],
    *,
    seconds: float,
    seconds_scoring: float = 0.0,
    reported: Sequence[float] | None = None,
    numbers: Sequence[int] | None = None,
) -> BestOf:
    """What the text of least score among n is expected to measure, for several n.

    The candidates are N independent texts. Of all subsets of n of them, the share
    w_k = C(N - k, n - 1) / C(N, n) has the candidate of rank k for its best, so
    U = sum_k w_k f_(k) is the mean of f of the best over every subset: it has no noise of
    resampling, and its expectation is that of the best of n new texts, for any f: the score, the
    NLL under another judge, the entropy. Candidates of one score share their weights evenly. The
    standard error is that of the jackknife over candidates, sqrt((N - 1) / N sum_i (U_i - mean)^2)
    with U_i the same without candidate i: it is too large rather than too small, and a rough one
    where n is near N.

    Args:
        scores: The mean NLL a token of each candidate under the scorer that chooses, in nats.
        entropies: The unigram entropy of each, in nats.
        seconds: That one candidate takes, in batches such as they would be drawn in.
        seconds_scoring: That the scorer takes for one; where n = 1 nothing is scored.
        reported: NLL of each under a judge that did not choose; the scores themselves if None.
        numbers: Values of n; if None the powers of two up to N / 2.

    Raises:
        ValueError: If there is no candidate, lists differ in length, a number is not finite, n is
            not in 1..N, or seconds are negative.

    Source: U-statistics, Hoeffding (1948); their jackknife, Efron and Stein (1981). The motive is
    that of fast sampling in SDTT, sec. 1: more texts in the time of one.
    """
    s, h = _finite("scores", scores), _finite("entropies", entropies)
    nll = s if reported is None else _finite("reported", reported)
    candidates = len(s)
    if numbers is None:
        numbers = [2**power for power in range(max(candidates // 2, 1).bit_length())]
    _check(candidates, {"entropies": len(h), "reported": len(nll)}, numbers)
    _check_seconds(seconds=seconds, seconds_scoring=seconds_scoring)
    curve = []
    for n in sorted(set(numbers)):
        cost = n * seconds + (n * seconds_scoring if n > 1 else 0.0)
        measured = [_mean_of_best(s, values, n) for values in (s, nll, h)]
        curve.append(Chosen(n, cost, *measured[0], *measured[1], *measured[2]))
    return BestOf(candidates, reported is None, tuple(curve))


def number_within(budget: float, seconds: float, seconds_scoring: float = 0.0) -> int:
    """How many texts a budget of seconds pays for, scored where there are two or more.

    Args:
        budget: Seconds, such as those of one text of an autoregressive model.
        seconds: That one candidate takes.
        seconds_scoring: That the scorer takes for one.

    Returns:
        The largest n that ``best_of`` says takes no more than the budget; 0 if even one text does.

    Raises:
        ValueError: If a text takes no time, or a number is negative or not finite.
    """
    _check_seconds(budget=budget, seconds=seconds, seconds_scoring=seconds_scoring)
    if seconds == 0:
        raise ValueError("a text that takes 0 seconds cannot be paid for: measure its seconds")
    # a hair more, so that a budget of exactly n texts pays for n in floating point
    several = math.floor(budget / (seconds + seconds_scoring) * (1 + 1e-12))
    return several if several >= 2 else int(budget * (1 + 1e-12) >= seconds)


def weights_of_ranks(candidates: int, n: int) -> Float64[np.ndarray, " N"]:
    """C(N - k, n - 1) / C(N, n) for k = 1..N: how often rank k is the best of n out of N.

    Args:
        candidates: N.
        n: Texts to choose from, in 1..N.
    """
    ranks = np.arange(1, candidates)
    ratios = np.maximum(candidates - ranks - n + 1, 0) / (candidates - ranks)  # w_(k+1) / w_k
    return n / candidates * np.cumprod(np.concatenate([[1.0], ratios]))


def _mean_of_best(
    scores: Float64[np.ndarray, " N"], values: Float64[np.ndarray, " N"], n: int
) -> tuple[float, float]:
    """U, and its standard error by the jackknife."""
    candidates = len(scores)
    f = _ranked(scores, values)
    mean = float(weights_of_ranks(candidates, n) @ f)
    if n == candidates:
        return mean, math.nan
    # without rank i: those before it keep their ranks, those behind move up by one
    w = weights_of_ranks(candidates - 1, n)
    before = np.concatenate([[0.0], np.cumsum(w * f[:-1])])
    behind = np.concatenate([[0.0], np.cumsum((w * f[1:])[::-1])])[::-1]
    without = before + behind
    for rank, f_of_others in _without_tied(scores, values, f):
        without[rank] = w @ f_of_others
    variance = (candidates - 1) / candidates * ((without - without.mean()) ** 2).sum()
    return mean, math.sqrt(variance)


def _without_tied(
    scores: Float64[np.ndarray, " N"],
    values: Float64[np.ndarray, " N"],
    f: Float64[np.ndarray, " N"],
) -> Iterator[tuple[int, Float64[np.ndarray, " _"]]]:
    """Of each rank that shares its score: ``f`` without it, whose value leaves the mean too."""
    order = np.argsort(scores, kind="stable")
    _, firsts, sizes = np.unique(scores[order], return_index=True, return_counts=True)
    for first, size in zip(firsts[sizes > 1], sizes[sizes > 1], strict=True):
        tied = slice(first, first + size)
        own = values[order[tied]]
        for place, value in enumerate(own):
            others = f.copy()
            others[tied] = (own.sum() - value) / (size - 1)
            yield first + place, np.delete(others, first + place)


def _ranked(
    scores: Float64[np.ndarray, " N"], values: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """The values in the order of the scores; those of one score become their mean."""
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=values) / sizes
    return np.repeat(means, sizes)


def _finite(name: str, values: Sequence[float]) -> Float64[np.ndarray, " N"]:
    found = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        raise ValueError(f"{name}: candidate {wrong[0]} has {found[wrong[0]]}")
    return found


def _check(candidates: int, lengths: Mapping[str, int], numbers: Sequence[int]) -> None:
    if candidates == 0:
        raise ValueError("there are no candidates to choose from")
    for name, length in lengths.items():
        if length != candidates:
            raise ValueError(f"{candidates} scores, but {length} {name}: one a candidate is wanted")
    for n in numbers:
        if not 1 <= n <= candidates:
            raise ValueError(
                f"n must lie in 1..{candidates}, the number of candidates, got {n}; draw more"
            )


def _check_seconds(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
