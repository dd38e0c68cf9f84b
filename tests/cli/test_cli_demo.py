"""Claims about `sdtt demo`, each on a pair of random weights and in the shortest time."""

import json
import shutil
from types import SimpleNamespace

import pytest
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner

from sdtt.cli import app

pytestmark = pytest.mark.usefixtures("pair")


def run(*words):
    result = CliRunner().invoke(app, ["demo", "--minutes", "0.001", *map(str, words)])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def reported(output):
    """The report and the metrics of a demo."""
    return (output / "report.md").read_text(), json.loads((output / "metrics.json").read_text())


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("the small cat saw a red bird sing in the tree. " * 300)
    return file


def test_the_demo_distills_the_shipped_teacher_on_what_it_writes(tmp_path):
    output = tmp_path / "demo"
    result = run("--output", output)
    assert result.code == 0, result.err
    assert result.out.strip() == str(output / "report.md")
    report, metrics = reported(output)
    assert "This is data-free distillation: no text was read." in report
    assert "16 texts that the teacher itself wrote (dilated order, 32 steps" in report
    assert "The judge is the causal model shipped beside the pair" in report
    assert "autoregressive" not in report
    assert "real text" not in report
    assert metrics.keys().isdisjoint({"ar", "data"})
    assert "teacher_validation_nelbo" not in metrics["settings"]
    for steps in ("4", "16"):
        AutoModelForMaskedLM.from_pretrained(output / "distill/students" / steps)
    assert (output / "ladder.png").is_file()
    assert not (output / "judge").exists()


def test_the_demo_measures_in_the_order_of_the_process_and_in_the_dilated_one(tmp_path):
    output = tmp_path / "demo"
    assert run("--output", output).code == 0
    report, metrics = reported(output)
    assert list(metrics["teacher"]) == ["64", "16", "8", "4"]
    assert list(metrics["students"]) == ["1", "2"]
    for rows in metrics["students"].values():
        assert list(rows) == ["16", "8", "4"]
        for steps in ("8", "4"):
            control = rows[steps]["control"]
            assert abs(control["entropy"] - rows[steps]["entropy"]) <= 0.02
            assert control["sampler"] == rows[steps]["sampler"] == "ancestral"
    dilated = metrics["dilated"]
    assert list(dilated["students"]) == ["2"]
    for row in (*dilated["teacher"].values(), *dilated["students"]["2"].values()):
        assert row["sampler"] == "dilated"
    assert "### In the dilated order" in report


def test_a_demo_on_text_shows_the_real_text_and_the_bound(pair, texts, tmp_path):
    output = tmp_path / "demo"
    result = run("--output", output, "--data", texts, "--model", pair / "student")
    assert result.code == 0, result.err
    report, metrics = reported(output)
    assert "data-free" not in report
    assert f"texts of {texts}." in report
    assert "| real text" in report
    assert metrics["data"]["num_samples"] > 0
    assert metrics["settings"]["teacher_validation_nelbo"] > 0
    assert metrics["settings"]["model"] == str(pair / "student")


def test_where_no_judge_is_shipped_one_is_trained_and_the_report_says_so(pair, tmp_path):
    shutil.rmtree(pair / "judge")
    (pair.parents[2] / ".git").rmdir()
    output = tmp_path / "demo"
    result = run("--output", output)
    assert result.code == 0, result.err
    report, _ = reported(output)
    assert "a causal model of" in report
    assert "was trained on the same texts for 5 updates" in report


def test_a_damaged_teacher_is_named_before_anything_is_written(pair, tmp_path):
    (pair / "teacher/model.safetensors").write_bytes(b"")
    result = run("--output", tmp_path / "demo")
    assert result.code == 2
    assert "model.safetensors of the shipped teacher is damaged" in result.err
    assert not (tmp_path / "demo").exists()


def test_overwriting_a_demo_spares_the_model_that_the_next_one_starts_from(pair, tmp_path):
    model = tmp_path / "demo/distill/students/4"
    shutil.copytree(pair / "student", model)
    result = run("--output", tmp_path / "demo", "--overwrite", "--model", model)
    assert result.code == 2
    assert "--overwrite would delete" in result.err
    assert (model / "config.json").is_file()


def test_a_typo_in_the_data_spares_the_earlier_demo_and_leaves_no_record(texts, tmp_path):
    output = tmp_path / "demo"
    output.mkdir()
    (output / "report.md").write_text("the earlier one")
    result = run("--output", output, "--overwrite", "--data", tmp_path / "text.txt")
    assert result.code == 2
    assert (output / "report.md").read_text() == "the earlier one"
    assert not (output / "run.yaml").exists()
    corrected = run("--output", output, "--overwrite", "--data", texts)
    assert corrected.code == 0, corrected.err


def test_a_demo_that_fails_before_it_trains_may_be_corrected(tmp_path, monkeypatch):
    output = tmp_path / "demo"
    with monkeypatch.context() as broken:
        broken.setattr("sdtt.cli.demo._own_text", lambda *_: 1 / 0)
        assert run("--output", output).code != 0
    assert not (output / "run.yaml").exists()


def test_an_earlier_demo_is_refused_without_an_option_that_the_demo_lacks(tmp_path):
    output = tmp_path / "demo"
    output.mkdir()
    (output / "report.md").write_text("the earlier one")
    result = run("--output", output)
    assert result.code == 2
    assert "already holds a run (report.md); give --overwrite to delete it, or" in result.err
