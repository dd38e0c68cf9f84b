"""The tables of perplexity hold the numbers of the records, and of controls by hand."""

import dataclasses
import math

import pytest

from sdtt.report.cells import read_cells
from sdtt.report.quality import quality_tables
from sdtt.report.suite import Suite


def tables(records, teacher="teacher"):
    return {table.title: table for table in quality_tables(Suite(read_cells(records), teacher))}


def rows(table):
    return [dict(zip(table.head, (cell.text for cell in row), strict=True)) for row in table.rows]


def row(table, model):
    return next(found for found in rows(table) if found["model"] == model)


def test_a_students_row_holds_its_control_ratio_and_what_may_be_said(made):
    table = tables([*made.temperatures(), made.student(0.2)])["Perplexity and entropy"]
    found = row(table, "student")
    assert found["perplexity"] == "27.1 ± 0.27"  # e^3.3
    assert found["entropy"] == "3.900 ± 0.000"
    assert found["control"] == "33.1 (T 0.900)"  # e^3.5
    assert found["ratio"] == "0.819 ± 0.012"
    assert found["the student is"] == "better"


def test_rows_without_a_control_and_missing_values_are_dashes(made):
    table = tables([*made.temperatures(), made.student(0.2), *made.levels()])
    found = row(table["Perplexity and entropy"], "real text")
    assert (found["perplexity"], found["control"], found["steps"]) == ("20.1 ± 0.20", "–", "–")


def test_rows_come_as_teacher_students_autoregressive_text(made):
    records = [*made.levels(), made.student(0.2), *made.temperatures()]
    names = [found["model"] for found in rows(tables(records)["Perplexity and entropy"])]
    assert names == ["teacher", "student", "ar", "real text"]


def test_other_temperatures_stand_in_the_folded_table_only(made):
    found = tables(made.temperatures())
    assert len(found["Perplexity and entropy"].rows) == 1
    folded = found["Every temperature and top-p"]
    assert (folded.folded, len(folded.rows)) == (True, 3)


def test_a_model_measured_cooled_only_stands_in_the_main_table(made):
    cooled = made.perplexity(draw=made.draw_of(temperature=0.9))
    (found,) = rows(tables([cooled])["Perplexity and entropy"])
    assert found["drawn at"] == "T 0.9"


def test_trigrams_and_seconds_join_the_draw_they_were_measured_on(made):
    share = {"trigrams": 0.271, "trigrams_se": 0.004}
    known = made.record(
        "readability", "teacher", share, made.draw_of(), settings={"reference": "r"}
    )
    timed = made.samples("teacher", made.draw_of(), "t", seconds=0.25)
    other = made.perplexity(draw=made.draw_of(steps=4))
    with_both, without = rows(
        tables([made.perplexity(), other, known, timed])["Perplexity and entropy"]
    )
    assert (with_both["trigrams %"], with_both["seconds a sample"]) == ("27.1 ± 0.4", "0.25")
    assert (without["trigrams %"], without["seconds a sample"]) == ("–", "–")


def test_student_cooled_teacher_and_another_order_stand_at_one_entropy(made):
    confident = made.temperatures(4.2, sampler="confidence", entropy_bound=0.5)
    table = tables([*made.temperatures(), *confident, made.student(0.2)])["At one entropy"]
    found = {(line["model"], line["sampler"]): line for line in rows(table)}
    assert {line["at entropy"] for line in found.values()} == {"3.900"}
    assert found["student", "dilated"]["perplexity"] == "27.1 ± 0.27"
    assert found["teacher", "dilated"]["perplexity"] == "33.1 ± 0.33"
    other = found["teacher", "confidence, entropy bound 0.5"]
    assert other["perplexity"] == "40.4 ± 0.40"  # e^3.7
    assert other["student's ratio to it"].startswith(f"{math.exp(-0.4):.3f}")
    assert other["the student is"] == "better"


def test_who_was_not_measured_around_that_entropy_is_named_not_shown(made):
    single = made.perplexity(draw=made.draw_of("ancestral"))
    table = tables([*made.temperatures(), single, made.student(0.2)])["At one entropy"]
    assert "ancestral" not in {found["sampler"] for found in rows(table)}
    assert "Not measured at temperatures around that entropy: teacher, ancestral at 8 steps." in (
        table.notes
    )


def test_draws_of_other_precision_stand_in_a_table_of_their_own(made):
    single = made.perplexity("student", 2.0, 3.9, made.draw_of(draw_dtype="float32"))
    found = tables([*made.temperatures(), single])
    assert rows(found["Perplexity and entropy: draws in float64"])[0]["model"] == "teacher"
    (other,) = rows(found["Perplexity and entropy: draws in float32"])
    assert (other["model"], other["the student is"]) == ("student", "not matched")


@pytest.mark.parametrize(
    ("of_student", "words"),
    [
        ("float32", "networks in float32"),
        ("bfloat16", "networks in bfloat16 (student) and float32 (teacher)"),
    ],
)
def test_the_types_of_the_networks_are_named_with_their_models(made, of_student, words):
    drawn = made.draw_of()
    samples = [made.samples("teacher", drawn, "t"), made.samples("student", drawn, "s")]
    samples[1] = dataclasses.replace(samples[1], settings={"dtype": of_student})
    table = tables([*made.temperatures(), made.student(0.2), *samples])["Perplexity and entropy"]
    assert f"; {words}." in "\n".join(table.notes)
    clocks = "Seconds a sample are of networks in several types, so they do not compare."
    assert (clocks in table.notes) == (of_student == "bfloat16")
    assert [row["the student is"] for row in rows(table)][-1] == "better"  # it has its control


def test_the_settings_stand_below_the_table(made):
    notes = "\n".join(tables(made.temperatures())["Perplexity and entropy"].notes)
    for words in ("judge gpt2-large", "draws in float64", "64 tokens a sample", "seed 0", "256"):
        assert words in notes
    assert "Counted: 3,000 tokens in 6 s." in notes
    assert "sdtt 0.1.0" in notes


@pytest.mark.parametrize("change", [{"steps": 4}, {"seed": 1}])
def test_seconds_of_two_machines_are_said_not_to_compare(made, change):
    draws = [made.draw_of(), made.draw_of(**change)]
    times = [
        made.record("samples", "teacher", {"seconds_per_sample": 1.0}, draw, environment={"cpu": i})
        for i, draw in enumerate(draws)
    ]
    cells = [made.perplexity(draw=draw) for draw in draws]
    notes = tables([*cells, *times])["Perplexity and entropy"].notes
    assert any("several machines" in note for note in notes)
    notes = tables([*cells, times[0]])["Perplexity and entropy"].notes
    assert not any("several machines" in note for note in notes)
