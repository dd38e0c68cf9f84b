"""The report of a pair says what its records say, each claim against a control by hand."""

import json
import math

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from sdtt.report.axes import DOTS_PER_INCH
from sdtt.report.pair import (
    pair_table,
    read_records,
    summary,
    trigrams_table,
    write_pair_report,
)
from sdtt.report.pair_compare import best, compare, comparisons
from sdtt.report.pair_figure import SIZE, plot_pair
from sdtt.report.pair_records import read_pair

LENGTH = 64
NLL = {
    "random": {64: 4.0, 32: 4.1, 16: 4.4, 8: 5.0, 4: 6.0, 2: 7.0},
    "dilated": {64: 4.0, 32: 4.05, 16: 4.2, 8: 4.5, 4: 5.0, 2: 5.5},
}
STUDENT = "student of round 2, 16 steps"


def record(who, nll, order=None, steps=None, **more):
    name = {"student": STUDENT, "text": "real text"}.get(who, who)
    return {
        "who": who,
        "name": name,
        "student_steps": 16 if who == "student" else None,
        "order": order,
        "steps": steps,
        "temperature": 1.0,
        "top_p": 1.0,
        "draws": "float64",
        "seed": 0,
        "num_samples": 256,
        "nll": nll,
        "nll_se": 0.01,
        "entropy": 4.0,
        "entropy_se": 0.0,
        "trigrams": 0.3,
        "trigrams_se": 0.01,
        "seconds_per_sample": 0.1 * (steps or 1),
        "length": LENGTH,
        **more,
    }


def teacher():
    """Cooled by 0.2 the teacher loses 0.2 nats of entropy and 1 nat of NLL: a slope of 5."""
    return [
        record("teacher", nll + 5 * (t - 1), order, steps, temperature=t, entropy=4.0 + (t - 1),
               trigrams=0.3 - (t - 1))
        for order, ladder in NLL.items()
        for steps, nll in ladder.items()
        for t in (0.8, 1.0, 1.1)
    ]  # fmt: skip


def student(gain, order="random", steps=(64, 32, 16, 8, 4, 2), **more):
    """Students whose NLL lies ``gain`` below the teacher's at 0.1 nats less of entropy."""
    settings = {"entropy": 3.9} | more
    return [record("student", NLL[order][s] - 0.5 - gain, order, s, **settings) for s in steps]


def levels():
    ar = record("autoregressive", 3.5, steps=LENGTH)
    text = record("text", 3.0, trigrams=0.45, seconds_per_sample=None)
    return [ar, ar | {"top_p": 0.95, "nll": 3.2}, text]


def cells(table):
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
    return [(name, order, rest) for name, order, *rest in lines]


def row(table, name, order=""):
    return next(rest for n, o, rest in cells(table) if (n, o) == (name, order))


def one(records):
    return comparisons(read_pair(records))[0]


def test_a_student_is_beside_the_teacher_at_its_own_entropy():
    found = one([*teacher(), *student(0.2, steps=[8])])
    assert found.control.point.temperature == pytest.approx(0.9)
    assert found.control.point.nll == pytest.approx(4.5)
    assert found.ratio == pytest.approx(math.exp(-0.2))
    assert found.outcome == "better"


def test_a_student_that_is_only_colder_has_gained_nothing():
    found = one([*teacher(), *student(0.0, steps=[8])])
    assert found.student.nll < NLL["random"][8]  # although its perplexity is the lower one
    assert found.outcome == "within the noise"


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [
        (0.043, "better"),
        (0.042, "within the noise"),
        (-0.042, "within the noise"),
        (-0.043, "worse"),
    ],
)
def test_nothing_is_said_within_three_standard_errors(gain, outcome):
    # 0.01 of each, 3 * 0.01 * sqrt 2 = 0.0424
    assert one([*teacher(), *student(gain, steps=[8])]).outcome == outcome


def test_the_error_of_the_ratio_counts_that_of_the_students_entropy_through_the_slope():
    found = one([*teacher(), *student(0.2, steps=[8], entropy_se=0.01)])
    assert found.ratio_se == pytest.approx(found.ratio * math.hypot(0.01, 0.01, 5 * 0.01))


def test_an_unknown_error_claims_nothing():
    found = one([*teacher(), *student(2.0, steps=[8], nll_se=None)])
    assert found.outcome == "within the noise"


def test_an_entropy_beyond_the_temperatures_is_not_matched():
    found = one([*teacher(), *student(2.0, steps=[8], entropy=3.7)])
    assert (found.control, found.outcome) == (None, "not matched")


def test_controls_are_drawn_as_the_student_is():
    records = [*teacher(), *student(0.2, steps=[8], draws="float32")]
    assert one(records).outcome == "not matched"
    records += [r | {"draws": "float32", "nll": r["nll"] - 1} for r in teacher()]
    assert one(records).control.point.nll == pytest.approx(3.5)


def test_the_steps_needed_are_those_of_the_control_at_the_students_entropy():
    # at 3.9 nats the random control is 5.5, 4.5 at 4, 8 steps; the student is at 5.0 with 2
    records = [*teacher(), *student(1.5, steps=[2])]
    found = one(records)
    assert found.needed.steps == pytest.approx(4 * math.sqrt(2))
    assert found.saved == pytest.approx(2 * math.sqrt(2))


def test_the_control_of_the_best_is_the_best_order_of_the_teacher():
    pair = read_pair([*teacher(), *student(1.1, steps=[8])])
    # random 4.5, dilated 4.0 at the entropy of the student, which is at 3.4
    found = best(pair, 8)
    assert found.control.order == "dilated"
    assert found.difference == pytest.approx(-0.6)
    assert best(pair, 4) is None


def test_the_best_student_is_the_one_furthest_below_its_control_not_the_coldest():
    cold = [r | {"name": "cold"} for r in student(-0.6, steps=[8], entropy=3.8)]
    cold[0]["nll"] = 3.6  # its control: dilated at 0.8, 3.5
    good = student(0.2, "dilated", steps=[8])  # 3.8, its control 4.0
    found = best(read_pair([*teacher(), *cold, *good]), 8)
    assert found.student.name == STUDENT


def test_a_model_that_was_taught_no_number_of_steps_is_not_the_best_student():
    other = [r | {"name": "other", "student_steps": None} for r in student(2.0, steps=[8])]
    found = best(read_pair([*teacher(), *other, *student(0.2, "dilated", steps=[8])]), 8)
    assert found.student.name == STUDENT


def test_seeds_of_a_cell_are_averaged_and_their_errors_combined():
    first = record("teacher", 4.0, "random", 8)
    second = first | {"seed": 1, "nll": 4.2, "entropy": 4.1, "nll_se": 0.02, "trigrams": 0.5}
    (cell,) = read_pair([first, second]).cells
    assert (cell.nll, cell.entropy, cell.trigrams) == pytest.approx((4.1, 4.05, 0.4))
    assert cell.nll_se == pytest.approx(math.hypot(0.01, 0.02) / 2)
    assert cell.spread == pytest.approx(0.1 * math.sqrt(2))
    assert cell.seeds == 2


def test_the_same_seed_twice_is_refused():
    with pytest.raises(ValueError, match="the seed 0 comes twice"):
        read_pair([*teacher(), teacher()[0]])


def test_records_of_two_lengths_or_without_a_teacher_are_refused():
    with pytest.raises(ValueError, match=r"one length belong together, got \[32, 64\]"):
        read_pair([*teacher(), record("student", 4.0, "random", 8, length=32)])
    with pytest.raises(ValueError, match="need a teacher"):
        read_pair(student(0.1))


def test_a_broken_line_is_refused_with_its_number(tmp_path):
    path = tmp_path / "records.jsonl"
    whole = json.dumps(record("text", 3.0))
    path.write_text(f"{whole}\n\n{whole[:20]}")
    with pytest.raises(ValueError, match="jsonl:3 is not JSON"):
        read_records(path)
    path.write_text(f'{whole}\n{{"who": "text", "name": "real text"}}')
    with pytest.raises(ValueError, match="jsonl:2: the record has no 'nll'"):
        read_records(path)
    path.write_text(f"{whole}\n")
    assert read_records(path) == [record("text", 3.0)]


def test_the_table_has_teacher_student_control_and_ratio_by_order_with_steps_descending():
    float32 = record("teacher", 4.2, "random", 64, draws="float32", entropy=3.95)
    table = pair_table(read_pair([*teacher(), float32, *student(0.2), *levels()]))
    assert row(table, "model", "order") == [f"{s} steps" for s in (64, 32, 16, 8, 4, 2)]
    assert row(table, "teacher", "random")[3] == "148 / 4.00"
    assert row(table, "teacher", "dilated")[3] == "90.0 / 4.00"
    assert row(table, "teacher, float32 draws", "random")[0] == "66.7 / 3.95"
    assert row(table, STUDENT, "random")[3] == "73.7 / 3.90"
    assert row(table, "its control", "random")[3] == "90.0 (T 0.90)"
    assert row(table, "ratio", "random")[3] == "0.819 ± 0.012, better"
    assert row(table, "autoregressive, 64 passes")[0] == "33.1 / 4.00"
    assert row(table, "autoregressive, top-p 0.95, 64 passes")[0] == "24.5 / 4.00"
    assert row(table, "real text")[0] == "20.1 / 4.00"


def test_the_control_shares_the_weights_of_its_trigrams():
    table = trigrams_table(read_pair([*teacher(), *student(0.2), *levels()]))
    assert row(table, STUDENT, "random")[0] == "30.0 ± 1.0"
    assert row(table, "its control", "random")[0] == "40.0"  # half way from 0.5 to 0.3
    assert row(table, "real text")[0] == "45.0 ± 1.0"


def test_the_summary_names_where_a_student_wins_loses_and_ties():
    records = [*teacher(), *student(0.2, steps=[8, 4]), *student(-0.2, steps=[64])]
    records += [*student(0.0, steps=[32]), *student(0.2, steps=[2], entropy=3.0)]
    assert summary(read_pair(records))[0] == (
        "Student of round 2, 16 steps, random order: better than its control at 8 and 4 steps; "
        "worse at 64 steps; within the noise at 32 steps; without a control at 2 steps."
    )


def test_the_summary_holds_a_student_in_random_order_against_the_dilated_control():
    text = " ".join(summary(read_pair([*teacher(), *student(0.2, steps=[8])])))
    assert "random order: better than its control at 8 steps" in text
    assert "best order (dilated, T 0.90) 54.6 at the same entropy (3.90 nats)" in text
    assert "a ratio of 1.350 ± 0.019, worse." in text
    assert "times as many" not in text


def test_the_summary_says_how_many_steps_the_best_student_saves():
    # at 8 dilated steps the student is at 3.6; the control is at 3.55 in 32 steps, 3.7 in 16
    text = " ".join(summary(read_pair([*teacher(), *student(0.4, "dilated", steps=[8])])))
    needed = 16 * 2 ** (0.1 / 0.15)
    assert f"needs {needed:.3g} steps to get there: {needed / 8:.1f} times as many." in text
    beyond = " ".join(summary(read_pair([*teacher(), *student(1.0, "dilated", steps=[8])])))
    assert "needs more than 64 steps to get there: more than 8.0 times as many." in beyond


def test_the_best_are_compared_at_an_eighth_of_the_length_or_fewer_only():
    text = summary(read_pair([*teacher(), *student(0.4, "dilated", steps=[16])]))
    assert "No student was measured beside a control at 8 steps or fewer." in text


def test_the_summary_says_how_far_the_teacher_falls_from_an_eighth_to_all_steps():
    assert summary(read_pair(teacher()))[-1] == (
        "The teacher's perplexity in random order falls from 148 at 8 steps to 54.6 at 64, 2.72 "
        "times lower; its entropy goes from 4.00 to 4.00 nats."
    )
    flat = [r | {"nll": r["nll"] - 0.97} if r["steps"] == 8 else r for r in teacher()]
    assert summary(read_pair(flat))[-1].startswith("No fall of the teacher's")


def test_the_report_folder_holds_three_whole_files_and_starts_with_the_summary(tmp_path):
    records = [*teacher(), *student(0.2), *student(0.1, "dilated"), *levels()]
    path = write_pair_report(records, tmp_path / "pair")
    assert {p.name for p in path.parent.iterdir()} == {"table.md", "pair.png", "pair.svg"}
    text = path.read_text("utf-8")
    assert text.startswith("* " + summary(read_pair(records))[0])
    assert pair_table(read_pair(records)) in text
    assert "One seed a cell." in text
    pixels = imread(path.parent / "pair.png")
    assert pixels.shape[1::-1] == tuple(round(DOTS_PER_INCH * inches) for inches in SIZE)
    assert "<text" not in (path.parent / "pair.svg").read_text("utf-8")  # outlines: no font needed


def test_the_figure_names_every_model_and_tells_the_teachers_time(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    pair = read_pair([*teacher(), *student(0.2), *student(0.1, "dilated"), *levels()])
    plot_pair(pair, tmp_path / "pair.png")
    above, below = figures[0].axes[:2]
    names = {"teacher", "student of round 2,\n16 steps", "autoregressive", "real text"}
    for axes in (above, below):
        assert names <= {text.get_text() for text in axes.texts}
    dilated = compare(pair, pair.of("student")[-1], ["dilated"])
    hollow = [line for line in above.lines if line.get_markerfacecolor() == "none"]
    assert len(hollow) == 12
    assert math.exp(dilated.control.point.nll) in [line.get_ydata()[0] for line in hollow]
    (top,) = above.child_axes
    labels = [top.xaxis.get_major_formatter()(steps) for steps in (2, 16, 64)]
    assert labels == ["0.20", "1.6", "6.4"]
