"""Students are compared with the teacher at their own entropy, by hand."""

import math

import pytest

from sdtt.report.cells import read_cells
from sdtt.report.matched import beside, teacher_of


def compared(made, student, teacher=None):
    cells = read_cells([*(teacher or made.temperatures()), student])
    return beside(cells, "teacher", cells[-1])


def test_the_control_lies_between_the_temperatures_at_the_students_entropy(made):
    found = compared(made, made.student(0.2))
    assert found.control.temperature == pytest.approx(0.9)
    assert found.control.nll == pytest.approx(3.5)
    assert found.ratio == pytest.approx(math.exp(-0.2))


def test_the_error_of_the_ratio_is_that_of_both(made):
    found = compared(made, made.student(0.2))
    assert found.ratio_se == pytest.approx(math.exp(-0.2) * math.hypot(0.01, 0.01))


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [
        (0.043, "better"),
        (0.042, "within the noise"),
        (-0.042, "within the noise"),
        (-0.043, "worse"),
    ],
)
def test_nothing_is_said_within_three_standard_errors(made, gain, outcome):
    # 3 * 0.01 * sqrt 2 = 0.0424
    assert compared(made, made.student(gain)).outcome == outcome


@pytest.mark.parametrize(
    "change",
    [{"steps": 4}, {"sampler": "ancestral"}, {"top_p": 0.9}, {"draw_dtype": "float32"}],
)
def test_a_teacher_drawn_otherwise_is_no_control(made, change):
    assert compared(made, made.student(2.0, **change)).outcome == "not matched"


def test_an_entropy_beyond_the_temperatures_is_not_matched(made):
    far = made.perplexity("student", 2.0, 3.7)
    assert compared(made, far).control is None


def test_a_teacher_at_one_temperature_is_no_control(made):
    found = compared(made, made.student(2.0), [made.perplexity(entropy=3.9)])
    assert found.outcome == "not matched"


def test_the_teacher_is_the_only_denoiser_that_was_not_taught(made):
    cells = read_cells([*made.levels(), made.student(0.0), made.perplexity()])
    assert teacher_of(cells, None) == "teacher"


def test_a_student_can_be_named_the_teacher(made):
    assert teacher_of(read_cells([made.student(0.0), made.perplexity()]), "student") == "student"


def test_two_possible_teachers_of_a_student_are_refused_by_their_names(made):
    cells = read_cells([made.perplexity("first"), made.perplexity("second"), made.student(0.0)])
    with pytest.raises(ValueError, match=r"could be the teacher \(first, second\): name it"):
        teacher_of(cells, None)


def test_several_models_without_a_student_need_no_teacher(made):
    assert teacher_of(read_cells([made.perplexity("a"), made.perplexity("b")]), None) is None


def test_an_unknown_teacher_is_met_with_the_nearest_name(made):
    with pytest.raises(ValueError, match="'techer': there are teacher; did you mean 'teacher'"):
        teacher_of(read_cells([made.perplexity()]), "techer")
