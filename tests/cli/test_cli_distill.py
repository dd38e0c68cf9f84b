"""Claims about where a distillation starts, and about the plan as flags."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from sdtt.cli import app
from sdtt.cli.distill import COMMAND, continued
from sdtt.cli.options import Given, command, resolved
from sdtt.models.formats import hub
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


def put_on_hub(cache, name, config):
    """Lays out the config of a model as the hub's library does when it has fetched it."""
    place = cache / f"models--{name.replace('/', '--')}"
    folder = place / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs/main").write_text("a" * 40)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    """An empty cache of the hub, no network, and a folder without models."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_a_student_on_the_hub_goes_on_from_its_own_steps(empty_hub, capsys):
    put_on_hub(empty_hub, "me/student", {"model_type": "mdlm", "sdtt_sampling_steps": 32})
    assert continued(given(), Path("me/student")).values == {"start_steps": 32}
    assert "me/student is a student of 32 steps" in capsys.readouterr().err


def test_a_plan_of_another_shape_asks_the_hub_nothing(empty_hub):
    put_on_hub(empty_hub, "me/student", {"model_type": "mdlm", "sdtt_sampling_steps": 32})
    assert continued(given(), Path("me/student"), ask_hub=False).values == {}


@pytest.mark.usefixtures("empty_hub")
@pytest.mark.parametrize(
    ("name", "values"),
    [("sdtt-kld-round7", {"start_steps": 8}), ("mdlm-owt", {}), ("sdtt-kld-round9", {})],
)
def test_a_release_goes_on_from_the_steps_of_its_round_and_is_not_fetched(
    name, values, monkeypatch
):
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("the hub is asked"))
    assert continued(given(), Path(name)).values == values


@pytest.mark.usefixtures("empty_hub")
def test_a_dry_run_of_a_release_plans_from_its_steps():
    words = ["--model", "sdtt-kld-round5", "--data", "absent", "--output", "o", "--rounds", "2"]
    words += ["--dry-run", "--shape", "tiny", "--probe-updates", "0", "--json"]
    result = CliRunner().invoke(app, ["distill", *words])
    assert result.exit_code == 0, result.stderr
    steps = [stage["student_steps"] for stage in json.loads(result.stdout)["stages"]]
    assert steps == [16, 8]


@pytest.mark.parametrize("values", [{"start_steps": 64}, {"ladder": [64, 8]}])
def test_a_start_at_the_students_steps_needs_no_word(student, capsys, values):
    assert continued(given(**values), student).values == values
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("values", [{"start_steps": 1024}, {"ladder": [1024, 256]}])
def test_another_start_is_kept_and_named(student, capsys, values):
    assert continued(given(**values), student).values == values
    assert "64 steps, but the first teacher takes 1024" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config", [None, "{}", "[]", "not json", '{"sdtt_sampling_steps": "many"}']
)
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
