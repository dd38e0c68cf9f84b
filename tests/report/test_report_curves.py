"""A figure is drawn where its records are there, and its data file holds their numbers."""

import csv
import dataclasses
import io
import math

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from sdtt.report.axes import short_number
from sdtt.report.cells import read_cells
from sdtt.report.curves import drawings
from sdtt.report.drawing import as_csv
from sdtt.report.plotting import draw
from sdtt.report.suite import Suite


def drawn(records):
    return {drawing.name: drawing for drawing in drawings(Suite(read_cells(records), "teacher"))}


def data(drawing):
    return list(csv.DictReader(io.StringIO(as_csv(drawing))))


def points(drawing, series, panel="perplexity"):
    """x and value of the plain points of one series."""
    chosen = [row for row in data(drawing) if (row["series"], row["panel"]) == (series, panel)]
    plain = [row for row in chosen if not row["line"].endswith("control")]
    return [(row[drawing.label], float(row["value"])) for row in plain]


def test_all_records_give_all_figures(made):
    names = "perplexity_steps frontier perplexity_seconds mauve_steps lambada_rounds latency_steps"
    assert list(drawn(made.whole())) == [*names.split(), "best_of"]


def test_one_number_of_steps_gives_no_figure_over_steps(made):
    assert "perplexity_steps" not in drawn([made.perplexity(), *made.levels()])


def test_perplexity_over_steps_holds_plain_draws_controls_and_levels(made):
    figure = drawn(made.whole())["perplexity_steps"]
    expected = [("4.0", math.exp(5)), ("8.0", math.exp(4)), ("16.0", math.exp(3.8))]
    assert points(figure, "teacher") == [(x, pytest.approx(y)) for x, y in expected]
    assert points(figure, "ar") == [("", pytest.approx(math.exp(3.5)))]
    controls = [row for row in data(figure) if row["line"] == "dilated, control"]
    assert [float(row["value"]) for row in controls] == pytest.approx(
        [math.exp(4.5), math.exp(3.5), math.exp(3.3)]
    )
    entropies = points(figure, "student", "entropy of a text (nats)")
    assert [y for _, y in entropies] == [3.9, 3.9, 3.9]


def test_the_data_file_holds_the_errors_of_the_records(made):
    rows = data(drawn(made.whole())["mauve_steps"])
    assert {(row["value"], row["standard_error"]) for row in rows} == {("0.7", "0.01")}


def test_the_frontier_has_a_panel_a_number_of_steps_and_a_point_a_temperature(made):
    figure = drawn(made.whole())["frontier"]
    assert [panel.title for panel in figure.panels] == ["16 steps", "8 steps", "4 steps"]
    curve = points(figure, "teacher", "8 steps")
    assert [float(x) for x, _ in curve] == pytest.approx([3.8, 4.0, 4.1])
    assert [y for _, y in curve] == pytest.approx([math.exp(y) for y in (3.0, 4.0, 4.5)])


def test_a_draw_that_counts_no_steps_is_a_level_of_its_own_name(made):
    draw = made.draw_of("confidence", None, entropy_bound=0.5)
    records = [*made.whole(), made.perplexity(nll=3.6, draw=draw)]
    figure = drawn(records)["perplexity_steps"]
    expected = [("", pytest.approx(math.exp(3.6)))]
    assert points(figure, "teacher, confidence, entropy bound 0.5") == expected


def test_perplexity_over_seconds_takes_the_time_of_the_same_draw(made):
    figure = drawn(made.whole())["perplexity_seconds"]
    assert [float(x) for x, _ in points(figure, "teacher")] == [0.04, 0.08, 0.16]
    assert [float(x) for x, _ in points(figure, "ar")] == [0.64]


def test_times_of_two_machines_are_two_figures(made):
    records = made.whole()
    elsewhere = [
        made.record(r.metric, r.model, r.result, r.draw, environment={"device": "cuda"})
        for r in records
        if r.metric == "samples" and r.model == "teacher"
    ]
    kept = [r for r in records if (r.metric, r.model) != ("samples", "teacher")]
    names = list(drawn([*kept, *elsewhere]))
    assert {"perplexity_seconds", "perplexity_seconds_2"} <= set(names)


def test_lambada_goes_over_the_rounds_with_the_autoregressive_model_as_a_level(made):
    figure = drawn(made.whole())["lambada_rounds"]
    accuracy = "LAMBADA accuracy (%)"
    rounds = points(figure, "teacher and students", accuracy)
    assert rounds == [("teacher", pytest.approx(30)), ("16 steps", pytest.approx(32))]
    assert points(figure, "ar", accuracy) == [("", pytest.approx(40))]


def test_draws_of_two_precisions_are_two_figures(made):
    single = [
        made.perplexity(nll=nll, draw=made.draw_of(steps=steps, draw_dtype="float32"))
        for steps, nll in ((4, 4.8), (8, 3.9))
    ]
    found = drawn([*made.whole(), *single])
    assert found["perplexity_steps_2"].title.endswith(": draws in float32")
    values = [y for _, y in points(found["perplexity_steps_2"], "teacher")]
    assert values == pytest.approx([math.exp(4.8), math.exp(3.9)])


def test_a_figure_shows_teacher_student_and_levels_in_their_colours(made, tmp_path):
    draw(drawn(made.whole())["perplexity_steps"], [tmp_path / "figure.png"])
    pixels = imread(tmp_path / "figure.png")
    rgb = (255 * pixels[..., :3]).round().astype(int)
    colours = set(np.unique(rgb @ [0x10000, 0x100, 1]).tolist())
    assert {0x111111, 0xD55E00, 0x666666} <= colours


def test_a_dollar_in_a_name_is_drawn_and_matplotlib_is_left_as_it_was(made, tmp_path):
    before = dict(mpl.rcParams)
    records = [made.perplexity("a$_b", draw=made.draw_of(steps=s)) for s in (4, 8)]
    (figure,) = drawings(Suite(read_cells(records), None))
    draw(figure, [tmp_path / "figure.svg"])
    svg = (tmp_path / "figure.svg").read_text("utf-8")
    assert "<text" not in svg  # outlines: no font is needed to read it
    assert dict(mpl.rcParams) == before


def best_of(made, model, nll, taught=None, **how):
    entries = [{"n": n, "seconds": 0.1 * n, "nll": nll - 0.1 * n, "nll_se": 0.01} for n in (1, 2)]
    draw = made.draw_of(**how)
    return made.record("best_of", model, {"curve": entries}, draw, taught_steps=taught)


def test_best_of_n_is_drawn_of_plain_texts_of_the_last_student_in_the_best_sampler(made):
    found = [
        best_of(made, "teacher", 4.0),
        best_of(made, "teacher", 5.0, sampler="ancestral"),
        best_of(made, "teacher", 3.0, temperature=0.8),
        best_of(made, "round-1", 4.2, taught=16),
        best_of(made, "round-2", 4.4, taught=8),
    ]
    rows = data(drawn(found)["best_of"])
    assert {row["series"] for row in rows} == {"teacher", "round-2"}
    assert {round(float(row["value"]), 6) for row in rows} == {3.9, 3.8, 4.3, 4.2}


def test_large_numbers_are_short_beside_an_axis():
    numbers = [0.5, 2000, 250_000, 2.5e6]
    assert [short_number(each) for each in numbers] == ["0.5", "2,000", "0.25M", "2.5M"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "under the scorer that chose it, against"),
        ({"chosen_by_judge": False}, "under the judge, which had no part in the choice, against"),
    ],
)
def test_the_caption_of_the_best_of_n_says_whose_likelihood_it_is(made, settings, words):
    one = dataclasses.replace(best_of(made, "teacher", 4.0), settings=settings)
    assert words in drawn([one])["best_of"].caption
