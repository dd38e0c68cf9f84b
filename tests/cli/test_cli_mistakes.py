"""What is easily typed wrong around a training or an evaluation, and what is said."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from sdtt.cli import app
from sdtt.cli.run_folder import RunFolder
from sdtt.cli.train import check_output

SHAPE = ["--preset", "tiny", "--length", "16", "--vocab-size", "280", "--use-cpu"]
SHORT = ["--per-device-train-batch-size", "4", "--warmup-steps", "1", "--save-steps", "2"]


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return SimpleNamespace(code=result.exit_code, err=result.stderr)


def refused(*words):
    result = run(*words)
    assert result.code == 2, result.err
    assert result.err.startswith("error: ") or "\nerror: " in result.err
    return result.err


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "data" / "a.txt"
    file.parent.mkdir()
    file.write_text("The cat sat on the mat and the dog lay by the door.\n" * 200)
    return file


def test_a_refused_resume_leaves_the_record_of_the_run(text, tmp_path):
    words = ("pretrain", "--data", text, "--output", tmp_path / "run", *SHAPE, *SHORT)
    assert run(*words, "--max-steps", "2").code == 0
    more = ("--max-steps", "4", "--resume", "--override-on-resume", "max_steps")
    kept = text.read_text()
    text.write_text(kept.replace("cat", "cow"))  # of which the checkpoint alone knows
    assert "cannot resume" in refused(*words, *more)
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert record["max_steps"] == 2
    text.write_text(kept)
    longer = run(*words, *more)
    assert longer.code == 0, longer.err


def test_a_name_to_override_that_is_no_setting_is_refused_before_anything_is_read(text, tmp_path):
    for verb in ("pretrain", "distill --model nothing"):
        words = (*verb.split(), "--data", text.parent / "none", "--output", tmp_path / "run")
        line = refused(*words, "--use-cpu", "--override-on-resume", "seed,learning_rat")
        assert "names no setting: 'learning_rat'; did you mean learning_rate?" in line


def test_a_command_that_failed_before_the_first_update_may_be_corrected(text, tmp_path):
    words = ("pretrain", "--data", text, "--output", tmp_path / "run", *SHAPE, *SHORT)
    law = ("--lr-scheduler-type", "cosine_with_min_lr")
    assert run(*words, *law, "--max-steps", "2").code != 0
    assert not (tmp_path / "run" / "run.yaml").exists()
    corrected = run(*words, "--max-steps", "2")
    assert corrected.code == 0, corrected.err


@pytest.mark.parametrize("output", ["data", "data/run"])
def test_an_output_within_the_data_is_refused(text, tmp_path, output):
    words = ("--data", text.parent, "--output", tmp_path / output)
    line = refused("pretrain", *words, *SHAPE, *SHORT)
    assert f"--output {tmp_path / output} lies in --data {text.parent}" in line
    line = refused("distill", "--model", "teacher", *words, "--use-cpu")
    assert "choose another --output" in line
    assert sorted(text.parent.iterdir()) == [text]


@pytest.mark.parametrize(
    ("pattern", "output", "lies"),
    [
        ("data/*", "data/run", True),
        ("data/**/*.jsonl", "data/run", True),
        ("*/*.jsonl", "data", True),
        ("**/*.jsonl", "data/runs/x", True),
        ("dat[a-c]/?un/*.jsonl", "data/run", True),
        ("dat[!a]/*.jsonl", "data", False),
        ("data/*.txt", "data/run", False),
        ("data[1/*.txt", "data/run", False),
        ("data/*", "run", False),
    ],
)
def test_an_output_that_a_pattern_finds_is_refused(tmp_path, monkeypatch, pattern, output, lies):
    monkeypatch.chdir(tmp_path)
    settings = RunFolder(Path(output))
    if not lies:
        check_output(settings, [pattern])
        return
    with pytest.raises(ValueError, match="choose another --output"):
        check_output(settings, [pattern])
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="choose another --output"):
        check_output(RunFolder(tmp_path / output), [f"~/{pattern}"])


def test_a_vocabulary_of_another_size_than_the_tokenizers_is_said_to_be_unused(text, tmp_path):
    words = ("--data", text, "--output", tmp_path / "run", *SHAPE, *SHORT, "--max-steps", "1")
    result = run("pretrain", *words, "--tokenizer", "student")
    assert result.code == 0, result.err
    assert "--vocab-size 280 is not used: the tokenizer of student has " in result.err


def test_a_model_that_is_not_there_is_named_before_its_tokenizer(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--model", "runs/teacher", "--data", text, "--output", tmp_path / "run", "--use-cpu")
    line = refused("distill", *words)
    assert "there is no folder runs/teacher" in line
    assert "--tokenizer" not in line


def test_a_folder_to_begin_from_that_is_not_there_is_not_looked_for_elsewhere(text, tmp_path):
    words = ("--init-from", "runs/start", "--data", text, "--output", tmp_path / "run")
    line = refused("pretrain", *words, "--use-cpu")
    assert "there is no model folder runs/start" in line


def test_a_causal_model_where_a_masked_one_is_wanted_is_said_to_be_one():
    line = refused("generate", "--model", "judge")
    assert "its model_type is 'sdtt_causal', and a masked one is wanted" in line
    assert "'sdtt generate --autoregressive'" in line
    line = refused("generate", "--model", "student", "--autoregressive")
    assert "its model_type is 'mdlm', and a causal one is wanted" in line


@pytest.mark.parametrize(
    ("judge", "says"),
    [("student", "its model_type is 'mdlm'"), ("./nowhere", "there is no model folder ./nowhere")],
)
def test_a_judge_that_is_none_is_refused_before_anything_is_drawn(tmp_path, judge, says):
    words = ("--model", "student", "--steps", "2", "--num-samples", "2", "--judge", judge)
    assert says in refused("evaluate", *words, "--output", tmp_path / "out")
    assert not list((tmp_path / "out").glob("samples*"))


def test_a_package_that_a_setting_needs_is_no_fault_of_ours(text, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_clearml_available", bool)
    words = ("--data", text, "--output", tmp_path / "run", *SHAPE, *SHORT)
    line = refused("pretrain", *words, "--report-to", "clearml")
    assert "clearml" in line


def test_low_precision_without_an_accelerator_names_the_flag(text, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda **_: None)
    words = [word for word in SHAPE if word != "--use-cpu"]
    line = refused("pretrain", "--data", text, "--output", tmp_path / "run", *words, "--bf16")
    assert "--use-cpu" in line


@pytest.mark.parametrize("name", ["buffer", "lanes", "validation"])
@pytest.mark.parametrize("verb", ["pretrain", "distill"])
def test_what_is_said_of_a_stream_without_one_is_refused(text, tmp_path, verb, name):
    words = (verb, "--data", text, "--output", tmp_path / "run", "--use-cpu", "--model")
    line = refused(*words, {"pretrain": "mdlm"}.get(verb, "teacher"), f"--stream-{name}", "7")
    assert f"--stream-{name} 7 is of a stream: give --stream too, or leave it out" in line


def test_a_share_of_decay_under_a_law_that_has_none_is_refused(text, tmp_path):
    words = ("pretrain", "--data", text, "--output", tmp_path / "run", *SHAPE, *SHORT)
    line = refused(*words, "--decay-share", "0.5", "--lr-scheduler-type", "linear")
    assert "--decay-share 0.5 is of the law warmup_stable_decay" in line


def test_a_run_that_holds_what_does_nothing_is_loaded_and_goes_on(text, tmp_path):
    run_file = tmp_path / "run" / "run.yaml"
    words = ("pretrain", "--data", text, "--output", tmp_path / "run", *SHAPE, *SHORT)
    words += ("--lr-scheduler-type", "linear", "--max-steps", "2")
    assert run(*words).code == 0
    saved = yaml.safe_load(run_file.read_text())
    again = run("pretrain", "--config", run_file, "--output", tmp_path / "again")
    assert again.code == 0, again.err  # defaults are written out there
    run_file.write_text(yaml.safe_dump(saved | {"stream_buffer": 9}))
    resumed = run("pretrain", "--config", run_file, "--resume")
    assert resumed.code == 0, resumed.err
