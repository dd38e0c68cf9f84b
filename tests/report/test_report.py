"""The report says what the metrics say, and no more."""

import copy
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from sdtt.report.axes import DOTS_PER_INCH, spread
from sdtt.report.demo import write_report
from sdtt.report.figures import SIZE, plot_ladder
from sdtt.report.ladder import read_ladder
from sdtt.report.tables import gains, ladder_table, settings_table, verdict

STEPS = ["4", "64", "16", "8", "32"]  # in no order, as a dictionary may hold them
TEACHER = {"64": 117.2, "32": 126.4, "16": 144.4, "8": 221.1, "4": 387.3}
STUDENT = {"64": 131.2, "32": 133.6, "16": 118.4, "8": 151.3, "4": 255.2}
CONTROL = {"64": 103.1, "32": 111.7, "16": 127.6, "8": 189.4, "4": 341.5}


def cell(perplexity: float, entropy: float, **more: Any) -> dict[str, Any]:
    return {"perplexity": perplexity, "entropy": entropy, "distinct_2": 0.5, **more}


def measured() -> dict[str, Any]:
    """Two rounds of a length of 64, as JSON holds them; the last student wins at few steps."""
    first = {s: cell(TEACHER[s] * 1.01, 3.84, control=cell(TEACHER[s], 3.84)) for s in STEPS}
    control = {s: cell(CONTROL[s], 3.81, temperature=0.93) for s in STEPS}
    last = {s: cell(STUDENT[s], 3.80, control=control[s]) for s in STEPS}
    return {
        "teacher": {s: cell(TEACHER[s], 3.85) for s in STEPS},
        "students": {"2": last, "1": first},
        "ar": cell(58.2, 3.86),
        "data": cell(17.44, 3.93),
        "settings": {
            "length": 64,
            "command": "sdtt demo --seed 7",
            "distil": {"lr": 6e-5, "student_steps": [32, 16]},
        },
    }


def with_errors(error: float) -> dict[str, Any]:
    metrics = measured()
    for line in metrics["students"].values():
        for entry in line.values():
            entry["perplexity_se"] = entry["control"]["perplexity_se"] = error
    return metrics


def rows(table: str) -> dict[str, list[str]]:
    """The cells of each row, by the name in the first column; a repeated name keeps the last."""
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
    return {first: rest for first, *rest in lines}


def test_the_table_shows_the_metrics_with_steps_descending():
    table = rows(ladder_table(measured()))
    assert table["perplexity / entropy"] == [f"{s} steps" for s in (64, 32, 16, 8, 4)]
    assert table["teacher"] == [
        "117 / 3.85",
        "126 / 3.85",
        "144 / 3.85",
        "221 / 3.85",
        "387 / 3.85",
    ]
    assert table["student, round 2"][2:] == ["118 / 3.80", "151 / 3.80", "255 / 3.80"]
    assert table["its control"][3] == "189 / 3.81 (T 0.93)"
    assert table["autoregressive, 64 passes"][0] == "58.2 / 3.86"
    assert table["real text"][0] == "17.4 / 3.93"


def test_students_come_by_round_each_above_its_control():
    names = [line.split("|")[1].strip() for line in ladder_table(measured()).splitlines()[2:]]
    control = "its control"
    assert names[:5] == ["teacher", "student, round 1", control, "student, round 2", control]


def test_ten_rounds_are_ordered_as_numbers():
    metrics = measured()
    metrics["students"] = {str(r): metrics["students"]["1"] for r in range(10, 0, -1)}
    assert list(read_ladder(metrics).students) == list(range(1, 11))


def test_gains_are_ratios_and_entropy_differences_to_the_control():
    gain = next(gain for gain in gains(with_errors(3.0)) if (gain.round, gain.steps) == (2, 8))
    assert (gain.student_perplexity, gain.control_perplexity) == (151.3, 189.4)
    assert gain.ratio == pytest.approx(151.3 / 189.4)
    assert gain.entropy_difference == pytest.approx(-0.01)
    assert gain.standard_error == pytest.approx(3 * math.sqrt(2))


def test_the_verdict_names_where_the_last_student_wins_and_by_what_factor():
    text = verdict(measured())
    assert text.startswith("The last student (round 2) beats its control at 16, 8 and 4 steps.")
    assert "Most at 4 steps: its judge perplexity is 255 against 342" in text
    assert "1.34 times lower" in text
    assert "chance is not ruled out" in text


def test_the_verdict_does_not_hide_where_the_last_student_loses():
    assert "At 64 and 32 steps its control has the lower perplexity." in verdict(measured())


def test_the_verdict_turns_when_the_students_perplexity_is_above_the_controls():
    metrics = measured()
    for entry in metrics["students"]["2"].values():
        entry["perplexity"] = 1.1 * entry["control"]["perplexity"]
    text = verdict(metrics)
    assert "(round 2) does not beat its control at 16 steps or fewer." in text
    assert "No student beats its control there" in text


def test_the_verdict_claims_nothing_within_the_noise():
    assert "beats its control at 8 and 4 steps" in verdict(with_errors(5.0))
    text = verdict(with_errors(100.0))
    assert "does not beat its control" in text
    assert "that is noise" in text


def test_a_win_between_one_and_two_standard_errors_is_noise():
    by_steps = {gain.steps: gain for gain in gains(with_errors(12.0)) if gain.round == 2}
    assert by_steps[8].outcome == "within the noise"  # 25.3 apart, standard error 17.0
    assert by_steps[4].outcome == "better"  # 63.2 apart


def test_a_student_that_is_only_a_little_colder_than_its_control_has_won_nothing():
    metrics = with_errors(3.0)
    for entry in metrics["students"]["2"].values():
        cooler = math.exp(7 * -0.019)  # what the same law loses in perplexity by 0.019 nats
        entry |= {"perplexity": cooler * entry["control"]["perplexity"], "entropy": 3.81 - 0.019}
    assert {gain.outcome for gain in gains(metrics) if gain.round == 2} == {"within the noise"}
    assert "does not beat its control" in verdict(metrics)


@pytest.mark.parametrize(("error", "says"), [(0.1, "falls from"), (3.0, "not fall with steps bey")])
def test_a_fall_of_the_teacher_within_the_noise_is_none(error, says):
    metrics = measured()
    metrics["teacher"] = {
        steps: cell(value, 3.85, perplexity_se=error)
        for steps, value in (("4", 122.0), ("64", 120.0))
    }
    for line in metrics["students"].values():
        for steps in ("8", "16", "32"):
            del line[steps]
    assert says in verdict(metrics)


def test_the_verdict_claims_nothing_where_entropies_differ():
    metrics = measured()
    for entry in metrics["students"]["2"].values():
        entry["entropy"] = entry["control"]["entropy"] - 0.03
    text = verdict(metrics)
    assert "does not beat its control" in text
    assert "entropies are more than 0.02 nats apart" in text


def test_an_entropy_difference_of_exactly_the_tolerance_still_counts_as_matched():
    metrics = measured()
    for entry in metrics["students"]["2"].values():
        entry["entropy"], entry["control"]["entropy"] = 3.80, 3.82
    assert verdict(metrics).startswith("The last student (round 2) beats")


def test_winning_at_many_steps_only_is_not_the_claim():
    metrics = measured()
    for steps, entry in metrics["students"]["2"].items():
        entry["perplexity"] = entry["control"]["perplexity"] * (0.5 if int(steps) > 16 else 2)
    assert "does not beat its control at 16 steps or fewer" in verdict(metrics)


def test_the_verdict_names_an_earlier_student_that_wins_where_the_last_does_not():
    metrics = measured()
    metrics["students"]["3"] = copy.deepcopy(metrics["students"]["1"])
    text = verdict(metrics)
    assert "(round 3) does not beat its control" in text
    assert "An earlier one does: that of round 2 at 4 steps" in text


def test_the_verdict_says_how_far_the_teacher_falls():
    assert "falls from 387 at 4 steps to 117 at 64, 3.3 times lower" in verdict(measured())
    flat = measured()
    flat["teacher"]["64"]["perplexity"] = 400.0
    assert "does not fall with steps: 387 at 4 steps, 400 at 64" in verdict(flat)


def test_a_missing_control_is_said_and_breaks_nothing(tmp_path: Path):
    metrics = measured()
    for line in metrics["students"].values():
        for entry in line.values():
            del entry["control"]
    assert gains(metrics) == []
    assert "was not measured beside a control" in verdict(metrics)
    assert "its control" not in ladder_table(metrics)
    plot_ladder(metrics, tmp_path / "ladder.png")


def test_a_student_measured_at_few_steps_only_leaves_its_other_cells_blank():
    metrics = measured()
    metrics["students"] = {"1": {"8": metrics["students"]["2"]["8"]}}
    assert rows(ladder_table(metrics))["student, round 1"] == ["", "", "", "151 / 3.80", ""]


def test_metrics_without_a_teacher_are_refused_in_words():
    with pytest.raises(ValueError, match="need the cells of a 'teacher'"):
        read_ladder({"students": {}})


def test_settings_are_flat_and_a_bar_in_them_stays_in_its_cell():
    metrics = measured() | {"settings": {"a": {"b": [1, 2], "c": {"lr": 6e-5}}, "d": "x|y"}}
    lines = settings_table(metrics).splitlines()[2:]
    cells = [" ".join(line.split()) for line in lines]
    assert cells == ["| a.b | 1, 2 |", "| a.c.lr | 6e-05 |", r"| d | x\|y |"]


def test_the_figure_has_its_size_and_shows_every_kind_of_line(tmp_path: Path):
    plot_ladder(measured(), tmp_path / "ladder.png")
    pixels = imread(tmp_path / "ladder.png")
    assert pixels.shape[1::-1] == tuple(round(DOTS_PER_INCH * inches) for inches in SIZE)
    rgb = (255 * pixels[..., :3]).round().astype(int)
    colours = set(np.unique(rgb @ [0x10000, 0x100, 1]).tolist())
    teacher, first, last, level = 0x000000, 0x56B4E9, 0xD55E00, 0x666666
    assert {teacher, first, last, level} <= colours


def test_drawing_leaves_matplotlibs_settings_as_they_were(tmp_path: Path):
    before = dict(mpl.rcParams)
    plot_ladder(measured(), tmp_path / "ladder.png")
    assert dict(mpl.rcParams) == before


def test_vector_output_carries_truetype_fonts(tmp_path: Path):
    plot_ladder(measured(), tmp_path / "ladder.pdf")
    assert b"/FontFile2" in (tmp_path / "ladder.pdf").read_bytes()


def test_labels_keep_their_order_their_room_and_the_axes():
    wanted, room = [-0.1, 0.5, 0.5, 0.51, 0.52, 0.9], [0.1, 0.1, 0.2, 0.1, 0.1, 0.1]
    places = spread(wanted, room)
    gaps = [b - a for a, b in pairwise(places)]
    least = [(a + b) / 2 for a, b in pairwise(room)]
    assert all(gap >= need - 1e-12 for gap, need in zip(gaps, least, strict=True))
    assert places[0] == pytest.approx(0.05)  # wanted below the axes
    assert places[-1] == pytest.approx(0.9)  # free to stand where it wants


def test_the_report_puts_the_verdict_first_and_holds_the_samples(tmp_path: Path):
    samples = {"teacher, 64 steps": ["Once *upon* a time.\nThe end."], "student": [""]}
    path = write_report(measured(), samples, tmp_path / "demo")
    title, first, figure, *_ = path.read_text("utf-8").split("\n\n")
    assert title.startswith("# ")
    assert first == verdict(measured())
    assert "(ladder.png)" in figure
    text = path.read_text("utf-8")
    assert ladder_table(measured()) in text
    assert "> Once \\*upon\\* a time.  \n> The end." in text
    assert "> (nothing)" in text
    assert "    sdtt demo --seed 7" in text


def test_the_report_folder_holds_three_whole_files(tmp_path: Path):
    write_report(measured(), {}, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.md", "ladder.png", "metrics.json"}
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8")) == measured()
