"""The report's folder: whole files, whose numbers are those of the records."""

import csv

import pytest

from sdtt.evaluation.records import Sample, read_samples, write_samples
from sdtt.report.cells import read_cells, read_runs
from sdtt.report.evaluation import write_report
from sdtt.report.replay import samples_of
from sdtt.report.suite import Suite


def test_the_folder_holds_page_markdown_numbers_and_figures_and_nothing_half_written(reported):
    names = {path.name for path in reported.iterdir()} - {"records.jsonl", "samples"}
    assert names == {"report.html", "report.md", "tables.csv", "figures"}
    figures = {path.name for path in (reported / "figures").iterdir()}
    for name in ("perplexity_steps", "frontier", "best_of"):
        assert {f"{name}.svg", f"{name}.png", f"{name}.csv"} <= figures
    assert not any(name.startswith(".") for name in figures)


def test_tables_csv_has_a_row_a_value_with_all_settings(reported):
    with (reported / "tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = [
        r
        for r in rows
        if (r["metric"], r["model"], r["name"]) == ("perplexity", "student", "nll")
        and r["draw.steps"] == "8"
    ]
    assert (float(row["value"]), float(row["standard_error"])) == (pytest.approx(3.3), 0.01)
    known = {"draw.sampler": "dilated", "draw.draw_dtype": "float64", "taught_steps": "16"}
    known |= {"settings.judge": "gpt2-large", "settings.window": "64", "seeds": "0"}
    assert {name: row[name] for name in known} == known
    ratios = [r for r in rows if (r["metric"], r["name"]) == ("control", "ratio")]
    assert {r["draw.steps"] for r in ratios} == {"4", "8", "16"}
    assert sum(r["name"] == "nll_of_2" for r in rows) == 3  # best of 2, of three models


def test_the_markdown_shows_the_table_of_the_records(reported):
    text = (reported / "report.md").read_text("utf-8")
    assert "27.1 ± 0.27" in text
    assert "(figures/perplexity_steps.png)" in text


def test_a_name_full_of_markup_stays_a_name_in_markdown(made, tmp_path):
    made.write(tmp_path, [made.perplexity("a|b*c*\n<b>")])
    write_report([tmp_path], tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert r"a\|b\*c\* \<b\>" in text
    assert "<b>" not in text.replace(r"\<b\>", "")


def test_a_folder_without_records_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="it is not the --output of an evaluation"):
        write_report([tmp_path], tmp_path)


def test_the_page_stays_small_and_says_how_many_samples_it_leaves_out(made, tmp_path):
    draws = [made.draw_of(steps=steps) for steps in (4, 8)]
    records = [made.samples("teacher", draw, f"{draw['steps']}") for draw in draws]
    for record in records:
        texts = [Sample(text="x" * 1000) for _ in range(9)]
        write_samples(tmp_path / record.result["file"], texts)
    suite = Suite(read_cells(records), None)
    for cell in suite.cells:
        cell.result["file"] = str(tmp_path / cell.result["file"])
    found = samples_of(suite, budget=3_100)
    assert [len(draw["samples"]) for draw in found.draws] == [2, 1]  # each one before any two
    assert "5 of the first 4 samples of the draws are left out for size." in found.notes
    assert sum(len(draw["samples"]) for draw in samples_of(suite).draws) == 8


def test_samples_whose_file_is_gone_are_named(made, tmp_path):
    made.write(tmp_path, [made.samples("teacher", made.draw_of(), "t")])
    (tmp_path / "samples/t.jsonl").unlink()
    found = samples_of(Suite(read_cells(read_runs([tmp_path])), None))
    assert (list(found.draws), found.notes) == (
        [],
        ["The files of samples are not there of: teacher."],
    )


def test_a_page_without_samples_says_why_where_it_is_read(made, tmp_path):
    made.write(tmp_path, [made.samples("teacher", made.draw_of(), "t"), made.perplexity()])
    (tmp_path / "samples/t.jsonl").unlink()
    write_report([tmp_path], tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "The files of samples are not there" in page.partition('id="about"')[2]


def test_tokens_of_a_sample_survive_its_file(tmp_path):
    sample = Sample(text="a b", tokens=["a", " b"], revealed=[1, 0])
    write_samples(tmp_path / "samples.jsonl", [sample])
    assert read_samples(tmp_path / "samples.jsonl") == [sample]


def test_a_report_of_two_runs_compares_across_them(made, tmp_path):
    teacher = made.write(tmp_path / "a", made.temperatures())
    student = made.write(tmp_path / "b", [made.student(0.2)])
    write_report([teacher, student], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert "better than its control at 8 steps" in text
