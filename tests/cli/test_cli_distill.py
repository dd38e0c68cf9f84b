"""Claims about where a distillation starts, and about the plan as flags."""

import json

import pytest

from sdtt.cli.distill import COMMAND, continued
from sdtt.cli.options import Given, command, resolved
from sdtt.training.sdtt_config import SDTTConfig


@pytest.fixture
def student(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"sdtt_sampling_steps": 64}))
    return tmp_path


def given(**values):
    return Given(SDTTConfig, values)


def test_a_student_goes_on_from_its_own_steps(student):
    assert continued(given(rounds=2), student).values == {"rounds": 2, "start_steps": 64}


def test_a_student_that_goes_on_says_so(student, capsys):
    continued(given(), student)
    assert "is a student of 64 steps: --start-steps 64" in capsys.readouterr().err


@pytest.mark.parametrize("values", [{"start_steps": 64}, {"ladder": [64, 8]}])
def test_a_start_at_the_students_steps_needs_no_word(student, capsys, values):
    assert continued(given(**values), student).values == values
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("values", [{"start_steps": 1024}, {"ladder": [1024, 256]}])
def test_another_start_is_kept_and_named(student, capsys, values):
    assert continued(given(**values), student).values == values
    assert "64 steps, but the first teacher takes 1024" in capsys.readouterr().err


@pytest.mark.parametrize("config", [None, "{}", "not json", '{"sdtt_sampling_steps": "many"}'])
def test_a_model_that_says_nothing_starts_at_the_default(tmp_path, config):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert continued(given(), tmp_path).values == {}


def test_the_steps_of_a_student_are_part_of_the_resolved_config(student):
    assert resolved(continued(given(), student))["start_steps"] == 64


def test_ladders_and_lists_are_flags(invoke):
    seen = []

    def fake(training: Given[SDTTConfig]) -> None:
        """Notes."""
        seen.append(training.values)

    words = ["--ladder", "1024,256,64", "--steps-per-round", "10,20", "--time-grid", "released"]
    words += ["--round-learning-rates", "1e-4,5e-5", "--reset-ema", "--jsd-beta", "0.3"]
    result = invoke(command(fake), "fake", *words)
    assert result.exit_code == 0, result.stderr
    assert seen == [
        {
            "ladder": [1024, 256, 64],
            "steps_per_round": [10, 20],
            "time_grid": "released",
            "round_learning_rates": [1e-4, 5e-5],
            "reset_ema": True,
            "jsd_beta": 0.3,
        }
    ]


def test_one_number_of_updates_is_a_number(invoke, tmp_path):
    seen = []

    def fake(training: Given[SDTTConfig]) -> None:
        """Notes."""
        seen.append(training.values["steps_per_round"])

    file = tmp_path / "run.yaml"
    for text in ("10", "[10]", "[10, 20]"):
        file.write_text(f"steps_per_round: {text}\n")
        assert invoke(command(fake), "fake", "--config", str(file)).exit_code == 0
    assert seen == [10, [10], [10, 20]]


def test_the_number_of_updates_follows_from_the_plan_and_is_no_flag():
    assert "--max-steps" not in {flag for option in COMMAND.params for flag in option.opts}
