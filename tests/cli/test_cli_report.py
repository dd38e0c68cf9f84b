"""`sdtt report`: runs are words without a flag, and a report that is there is kept."""

import json

import pytest

from sdtt.cli.report import COMMAND

RECORD = {
    "version": 1,
    "metric": "perplexity",
    "model": "teacher",
    "kind": "diffusion",
    "result": {"perplexity": 20.0, "nll": 3.0, "entropy": 4.0},
    "draw": {"sampler": "dilated", "steps": 4, "length": 64, "draw_dtype": "float64"},
}


@pytest.fixture
def runs(tmp_path):
    """Two runs of one teacher and one other model."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        line = json.dumps(RECORD | {"model": name, "taught_steps": {"second": 4}.get(name)})
        (tmp_path / name / "records.jsonl").write_text(line + "\n")
    return [tmp_path / "first", tmp_path / "second"]


def test_the_first_run_gets_the_report_of_all(invoke, runs):
    result = invoke(COMMAND, "fake", *map(str, runs))
    assert (result.exit_code, result.stdout) == (0, f"{runs[0] / 'report.html'}\n"), result.stderr
    text = (runs[0] / "report.md").read_text("utf-8")
    assert "first" in text
    assert "second" in text


def test_a_report_that_is_there_is_kept_unless_it_may_be_replaced(invoke, runs):
    page = runs[0] / "report.html"
    page.write_text("mine")
    result = invoke(COMMAND, "fake", str(runs[0]))
    assert (result.exit_code, page.read_text()) == (2, "mine")
    assert "is there already; give --overwrite or another --output" in result.stderr
    invoke(COMMAND, "fake", str(runs[0]), "--overwrite", "--title", "Ours")
    assert "<h1>Ours</h1>" in page.read_text("utf-8")


def test_runs_may_come_from_the_config_file(invoke, runs, tmp_path):
    config = tmp_path / "report.yaml"
    config.write_text(f"runs: [{runs[0]}, {runs[1]}]\noutput: {tmp_path / 'report'}\n")
    result = invoke(COMMAND, "fake", "--config", str(config))
    assert result.stdout == f"{tmp_path / 'report' / 'report.html'}\n", result.stderr


def test_a_report_of_nothing_is_refused_with_the_way_to_say_of_what(invoke):
    result = invoke(COMMAND, "fake")
    assert result.exit_code == 2
    assert "RUNS is required (give it as words or in the --config file)" in result.stderr


def test_an_empty_list_of_runs_is_refused_in_one_line(invoke, tmp_path):
    config = tmp_path / "report.yaml"
    config.write_text("runs: []\n")
    result = invoke(COMMAND, "fake", "--config", str(config))
    assert result.exit_code == 2
    assert "RUNS is empty: name a folder of an evaluation, or several" in result.stderr


def test_a_named_teacher_that_was_not_measured_is_refused(invoke, runs):
    result = invoke(COMMAND, "fake", str(runs[0]), "--teacher", "firts")
    assert "did you mean 'first'?" in result.stderr
