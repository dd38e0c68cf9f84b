import math

import pytest

from sdtt.evaluation.frontier import Point, StepsNeeded, control_at, steps_needed

COLD = Point(temperature=0.8, nll=4.0, nll_se=0.02, entropy=3.0, entropy_se=0.01)
WARM = Point(temperature=1.0, nll=4.4, nll_se=0.04, entropy=3.2, entropy_se=0.01)
HOT = Point(temperature=1.1, nll=5.4, nll_se=0.04, entropy=3.3, entropy_se=0.02)
POINTS = [WARM, HOT, COLD]  # in no order


def test_between_two_temperatures_ln_perplexity_and_temperature_lie_on_a_line_over_entropy():
    control = control_at(POINTS, 3.05)  # a quarter of the way from 3.0 to 3.2
    assert (control.nll, control.temperature) == (pytest.approx(4.1), pytest.approx(0.85))
    assert control.entropy == 3.05


def test_the_neighbours_are_those_around_the_wanted_entropy():
    control = control_at(POINTS, 3.24)  # 0.4 of the way from 3.2 to 3.3
    assert (control.nll, control.temperature) == (pytest.approx(4.8), pytest.approx(1.04))


@pytest.mark.parametrize("point", POINTS)
def test_at_a_measured_entropy_the_control_is_what_was_measured(point):
    control = control_at(POINTS, point.entropy)
    assert control.nll == pytest.approx(point.nll)
    assert control.temperature == pytest.approx(point.temperature)


def test_the_error_of_the_line_counts_both_ends_and_their_entropies_through_the_slope():
    # slope 2, so an entropy's error of 0.01 counts 0.02; three quarters of the way to the cold end
    cold, warm = math.hypot(0.02, 0.02), math.hypot(0.04, 0.02)
    control = control_at(POINTS, 3.05)
    assert control.slope == pytest.approx(2)
    assert control.nll_se == pytest.approx(0.75 * cold + 0.25 * warm)


def test_the_difference_counts_the_students_own_entropy_too():
    control = control_at(POINTS, 3.05)
    student = Point(temperature=1, nll=4, nll_se=0.03, entropy=3.05, entropy_se=0.02)
    assert control.difference_se(student) == pytest.approx(math.hypot(0.03, 0.04, control.nll_se))


def test_what_nll_and_entropy_share_by_chance_is_no_error():
    shared = Point(1, nll=4, nll_se=0.06, entropy=3, entropy_se=0.03, covariance=0.06 * 0.03)
    assert shared.residual_se(2.0) == pytest.approx(0, abs=1e-8)
    assert shared.residual_se(0.0) == pytest.approx(0.06)
    half = Point(1, nll=4, nll_se=0.06, entropy=3, entropy_se=0.03, covariance=0.0009)
    assert half.residual_se(2.0) == pytest.approx(0.06)


def test_the_error_does_not_shrink_between_two_ends_that_share_their_uniforms():
    exact = [Point(1, 4, 0.1, 3, 0), Point(2, 4, 0.1, 4, 0)]
    assert control_at(exact, 3.5).nll_se == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("entropy", "nll", "temperature"), [(2.98, 3.96, 0.78), (3.32, 5.6, 1.12)], ids=["low", "high"]
)
def test_a_little_beyond_the_ends_the_line_goes_on(entropy, nll, temperature):
    control = control_at(POINTS, entropy)
    assert control.nll == pytest.approx(nll)
    assert control.temperature == pytest.approx(temperature)


def test_beyond_an_end_the_errors_grow():
    assert control_at(POINTS, 2.98).nll_se > control_at(POINTS, 3.0).nll_se


@pytest.mark.parametrize("entropy", [2.979, 3.321, math.nan])
def test_an_entropy_farther_beyond_the_temperatures_is_refused(entropy):
    with pytest.raises(ValueError, match=r"beyond 3\.000 to 3\.300, measured at .* 0\.8 to 1\.1"):
        control_at(POINTS, entropy)


def test_one_temperature_makes_no_control():
    with pytest.raises(ValueError, match="two or more temperatures, got 1"):
        control_at([WARM], 3.2)


def test_entropies_that_do_not_rise_with_temperature_are_refused():
    with pytest.raises(ValueError, match=r"must rise .* 3.200 at 1 and 3.100 at 1.2"):
        control_at([*POINTS[:1], COLD, Point(1.2, 5, 0.1, 3.1, 0.1)], 3.1)


LADDER = {64: 4.0, 2: 6.0, 8: 5.0, 16: 5.0, 32: 4.2}


def test_between_two_rungs_ln_perplexity_is_linear_in_the_logarithm_of_steps():
    assert steps_needed(LADDER, 5.5).steps == pytest.approx(4)  # half way from 2 to 8
    assert steps_needed(LADDER, 4.1).steps == pytest.approx(32 * math.sqrt(2))


@pytest.mark.parametrize(("nll", "steps"), [(6.0, 2), (5.0, 8), (4.0, 64)])
def test_a_rung_is_met_at_its_own_steps_the_fewest_if_there_are_several(nll, steps):
    needed = steps_needed(LADDER, nll)
    assert (needed.steps, needed.bound) == (pytest.approx(steps), "")


def test_beyond_the_ladder_only_a_bound_is_known():
    assert steps_needed(LADDER, 3.99) == StepsNeeded(64, "more than")
    assert steps_needed(LADDER, 6.01) == StepsNeeded(2, "at most")


def test_a_ladder_without_rungs_is_refused():
    with pytest.raises(ValueError, match="no rung"):
        steps_needed({}, 4.0)
