"""The summary claims nothing beyond the errors."""

from sdtt.report.cells import read_cells
from sdtt.report.suite import Suite
from sdtt.report.summary import summary


def said(records):
    return summary(Suite(read_cells(records), "teacher"))


def test_a_student_beyond_three_errors_is_better_by_its_ratio(made):
    assert said([*made.temperatures(), made.student(0.2)]) == [
        "student, dilated: better than its control at 8 steps. Its perplexity is 0.819 ± 0.012"
        " times its control's at 8 steps."
    ]


def test_a_student_within_the_errors_has_won_nothing(made):
    assert said([*made.temperatures(), made.student(0.04)]) == [
        "student, dilated: nowhere better than its control at the same entropy; within the noise"
        " at 8 steps."
    ]


def test_where_a_student_loses_is_said_beside_where_it_wins(made):
    few = made.temperatures(5.0, steps=4)
    loses = made.perplexity("student", 5.0, 3.9, made.draw_of(steps=4))
    (sentence,) = said([*made.temperatures(), *few, made.student(0.2), loses])
    assert "better than its control at 8 steps; worse than it at 4 steps" in sentence


def test_a_student_without_a_control_is_called_neither(made):
    (sentence,) = said([made.perplexity(), made.student(3.0)])
    assert sentence == "student, dilated: without a control at 8 steps."


def lambada(made, accuracy):
    return [
        made.record("lambada", model, {"accuracy": right, "accuracy_se": 0.01})
        for model, right in (("teacher", 0.3), ("student", accuracy))
    ]


def test_a_difference_in_lambada_within_three_errors_is_noise(made):
    assert said(lambada(made, 0.34))[0].endswith("teacher 30.0 %: a difference within the noise.")
    assert said(lambada(made, 0.35))[0].endswith("teacher 30.0 %: higher.")
    assert said(lambada(made, 0.25))[0].endswith("teacher 30.0 %: lower.")


def test_the_autoregressive_time_is_beside_the_steps_that_take_less(made):
    (sentence,) = [line for line in said(made.whole()) if line.startswith("Latency")]
    assert sentence == (
        "Latency (batch 1, eager): ar takes 1.0 s a sample; teacher takes less at 8 and 4 steps"
        " (0.80 s at 8, 1.25 times as fast)."
    )


def test_a_time_within_the_spread_of_the_runs_is_no_win(made):
    ar = made.latency("ar", None, 1.0, spread=0.2)
    (sentence,) = said([ar, made.latency("teacher", 8, 0.9, spread=0.15)])
    assert sentence.endswith(
        "takes 1.0 s a sample; no number of steps measured is faster in every run."
    )
    (sentence,) = said([ar, made.latency("teacher", 8, 0.7, spread=0.05)])
    assert "teacher takes less at 8 steps" in sentence


def test_times_of_texts_of_two_lengths_do_not_compare(made):
    found = said([made.latency("ar", None, 8.0, length=1024), made.latency("teacher", 8, 0.5)])
    assert not any("takes less" in sentence for sentence in found)


def test_a_sampler_that_counts_no_steps_is_better_at_none(made):
    law = {"sampler": "first_hitting", "steps": None}
    (sentence,) = said([*made.temperatures(**law), made.student(0.2, **law)])
    assert sentence.startswith(
        "student, first hitting: better than its control. Its perplexity is "
    )
    assert sentence.endswith(" times its control's.")


def test_without_students_nothing_is_compared(made):
    assert said([made.perplexity()]) == [
        "One model was measured; nothing here compares a student with its teacher."
    ]
