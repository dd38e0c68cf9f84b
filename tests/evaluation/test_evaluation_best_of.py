import math
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from sdtt.evaluation.best_of import best_of, number_within
from sdtt.evaluation.diversity import standard_error

SCORES = [4.1, 3.2, 5.0, 3.9, 4.4, 3.3, 4.8]
TIED = [4.1, 3.2, 4.1, 3.2, 4.4, 3.2, 4.8]
REPORTED = [4.0, 3.9, 5.5, 3.1, 4.6, 3.5, 4.2]
ENTROPIES = [3.8, 3.1, 4.0, 3.6, 3.9, 3.3, 3.7]


def of(scores, n, **options):
    """The one entry of the curve of n; entropies do not matter where they are not given."""
    entropies = options.pop("entropies", scores)
    (chosen,) = best_of(scores, entropies, seconds=1.0, numbers=[n], **options).curve
    return chosen


# ---------------------------------------------------------------- the expectation


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7])
def test_the_best_of_n_is_the_mean_over_every_subset(n):
    chosen = of(SCORES, n, entropies=ENTROPIES, reported=REPORTED)
    best = [min(each, key=SCORES.__getitem__) for each in combinations(range(7), n)]
    for found, values in (
        (chosen.score, SCORES), (chosen.nll, REPORTED), (chosen.entropy, ENTROPIES)
    ):  # fmt: skip
        assert found == pytest.approx(np.mean([values[index] for index in best]), rel=1e-13)


def test_its_expectation_over_candidates_is_that_of_the_best_of_n_new_texts():
    # (score, NLL of another judge) of a text, and its chance
    law = {(1.0, 5.0): 0.2, (2.0, 3.0): 0.5, (3.0, 4.0): 0.3}

    def chance(texts):
        return math.prod(law[text] for text in texts)

    due = sum(chance(pair) * min(pair)[1] for pair in product(law, repeat=2))
    found = 0.0
    for texts in product(law, repeat=4):
        scores, reported = zip(*texts, strict=True)
        found += chance(texts) * of(scores, 2, reported=reported).nll
    assert found == pytest.approx(due, rel=1e-13)


def test_the_best_of_all_candidates_is_the_one_of_least_score():
    chosen = of(SCORES, 7, entropies=ENTROPIES, reported=REPORTED)
    assert (chosen.score, chosen.nll, chosen.entropy) == pytest.approx((3.2, 3.9, 3.1))


def test_candidates_of_one_score_are_chosen_evenly_whatever_their_order():
    first = of([2.0, 1.0, 1.0], 3, reported=[9.0, 4.0, 6.0])
    other = of([1.0, 2.0, 1.0], 3, reported=[6.0, 9.0, 4.0])
    assert first.nll == other.nll == 5.0


def test_weights_of_a_thousand_candidates_lose_no_precision():
    # the least of n out of 1..N is (N + 1) / (n + 1) in expectation
    scores = [float(score) for score in range(1, 1025)]
    for n in (1, 64, 512, 1024):
        assert of(scores, n).score == pytest.approx(1025 / (n + 1), rel=1e-11)


# ---------------------------------------------------------------- its error


def test_of_one_text_the_error_is_the_standard_error_of_the_mean():
    chosen = of(SCORES, 1, entropies=ENTROPIES, reported=REPORTED)
    assert chosen.score_se == pytest.approx(standard_error(SCORES), rel=1e-12)
    assert chosen.nll_se == pytest.approx(standard_error(REPORTED), rel=1e-12)
    assert chosen.entropy_se == pytest.approx(standard_error(ENTROPIES), rel=1e-12)


@pytest.mark.parametrize("n", [2, 4, 6])
@pytest.mark.parametrize("scores", [SCORES, TIED], ids=["apart", "tied"])
def test_the_error_is_that_of_leaving_each_candidate_out(scores, n):
    def without(values, index):
        return [*values[:index], *values[index + 1 :]]

    left = [
        of(without(scores, index), n, reported=without(REPORTED, index)).nll for index in range(7)
    ]
    due = math.sqrt(6 / 7 * np.square(left - np.mean(left)).sum())
    assert of(scores, n, reported=REPORTED).nll_se == pytest.approx(due, rel=1e-12)


def test_the_error_is_the_spread_over_new_candidates():
    draws = np.random.default_rng(0).exponential(size=(500, 64))
    found = [of(scores, 4) for scores in draws.tolist()]
    spread = np.std([each.score for each in found])
    error = math.sqrt(np.mean([each.score_se**2 for each in found]))
    assert error == pytest.approx(spread, rel=0.1)


def test_of_all_candidates_the_error_is_not_known():
    assert math.isnan(of(SCORES, 7).score_se)


# ---------------------------------------------------------------- the curve


def test_n_are_the_powers_of_two_up_to_half_of_the_candidates():
    curve = best_of(SCORES[:6] * 3, ENTROPIES[:6] * 3, seconds=1.0).curve
    assert [chosen.n for chosen in curve] == [1, 2, 4, 8]


def test_a_chosen_text_takes_the_seconds_of_all_candidates():
    curve = best_of(SCORES, ENTROPIES, seconds=0.5, numbers=[4, 1, 2]).curve
    assert [(chosen.n, chosen.seconds) for chosen in curve] == [(1, 0.5), (2, 1.0), (4, 2.0)]


def test_scoring_takes_its_time_where_there_is_a_choice():
    curve = best_of(SCORES, ENTROPIES, seconds=0.5, seconds_scoring=0.25, numbers=[1, 2]).curve
    assert [chosen.seconds for chosen in curve] == [0.5, 1.5]


def test_a_scorer_that_also_reports_is_named_and_reports_its_own_scores():
    own = best_of(SCORES, ENTROPIES, seconds=1.0)
    other = best_of(SCORES, ENTROPIES, seconds=1.0, reported=REPORTED)
    assert (own.chosen_by_judge, other.chosen_by_judge) == (True, False)
    assert [chosen.nll for chosen in own.curve] == [chosen.score for chosen in own.curve]
    assert [replace(a, nll=0, nll_se=0) for a in own.curve] == [
        replace(a, nll=0, nll_se=0) for a in other.curve
    ]


# ---------------------------------------------------------------- a budget


@pytest.mark.parametrize(
    ("budget", "seconds", "scoring", "n"),
    [
        (1.0, 0.1, 0.0, 10),
        (0.3, 0.1, 0.0, 3),  # 0.3 / 0.1 is less than 3 in floating point
        (0.99, 0.1, 0.0, 9),
        (1.0, 0.1, 0.1, 5),
        (1.0, 1.0, 0.5, 1),  # a single text is not scored
        (0.9, 1.0, 0.0, 0),
        (0.0, 1.0, 0.0, 0),
    ],
)
def test_a_budget_pays_for_so_many_texts(budget, seconds, scoring, n):
    assert number_within(budget, seconds, scoring) == n


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: best_of([], [], seconds=1.0), "there are no candidates to choose from"),
        (lambda: best_of([1.0, 2.0], [1.0], seconds=1.0), "2 scores, but 1 entropies"),
        (lambda: of([1.0], 1, reported=[1.0, 2.0]), "1 scores, but 2 reported"),
        (lambda: of([1.0, math.nan], 1), "scores: candidate 1 has nan"),
        (lambda: of([1.0], 1, reported=[math.inf]), "reported: candidate 0 has inf"),
        (lambda: of([1.0, 2.0], 3), r"n must lie in 1\.\.2, the number of candidates, got 3"),
        (lambda: of([1.0, 2.0], 0), "got 0; draw more"),
        (lambda: best_of([1.0], [1.0], seconds=-1.0), "seconds must be a finite number .* got -1"),
        (lambda: of([1.0], 1, seconds_scoring=math.nan), "seconds_scoring must be .* got nan"),
        (lambda: number_within(1.0, 0.0), "a text that takes 0 seconds cannot be paid for"),
        (lambda: number_within(-1.0, 1.0), "budget must be a finite number of at least 0"),
    ],
)
def test_what_cannot_be_is_refused_in_words(call, says):
    with pytest.raises(ValueError, match=says):
        call()
