"""Claims about flags and config files: one reader, one precedence, errors in words."""

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from transformers import TrainingArguments

from sdtt.cli.generate import COMMAND as GENERATE
from sdtt.cli.options import Given, command, kind_of, options_of, resolved


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Settings:
    """Every type of ours that a flag can hold."""

    data: Path = field(metadata={"help": "folder of texts"})
    rounds: int = field(default=5, metadata={"help": "rounds [1 or more]"})
    top_p: float | None = field(default=None, metadata={"help": "share kept"})
    divergence: Literal["reverse_kl", "jsd"] = field(
        default="reverse_kl", metadata={"help": "what the student lowers"}
    )
    steps: tuple[int, ...] = field(default=(4, 8), metadata={"help": "steps"})
    compile: bool = field(default=True, metadata={"help": "compile the model"})
    prompt: str | None = field(default=None, metadata={"help": "text to go on from"})
    force: bool = field(default=False, metadata={"help": "just do it", "flag_only": True})

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")


@dataclass
class Training(TrainingArguments):
    """A Trainer config with one field of its own and one given a new default."""

    decay: float = field(default=0.5, metadata={"help": "decay of the average, a share"})
    learning_rate: float = field(default=6e-5, metadata={"help": "peak learning rate"})


class Verb:
    """A verb that keeps what it receives."""

    def __init__(self):
        self.settings: Settings | None = None
        self.training: Given[Training] | None = None

        def fake(settings: Settings) -> None:
            """A verb of the tests."""
            self.settings = settings

        def fake_training(settings: Settings, training: Given[Training]) -> None:
            """A verb that trains."""
            self.settings, self.training = settings, training

        self.command = command(fake, example="sdtt fake --data D")
        self.training_command = command(fake_training, withhold={"output_dir"})


@pytest.fixture(scope="module")
def made_once():
    return Verb()


@pytest.fixture
def verb(made_once):
    made_once.settings = made_once.training = None
    return made_once


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return str(file)

    return write


# ---------------------------------------------------------------- precedence


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(invoke, verb, write):
    file = write("data: from-file\nrounds: 3\ntop_p: 0.5\n")
    result = invoke(verb.command, "fake", "--config", file, "--rounds", "2")
    assert result.exit_code == 0, result.output
    assert verb.settings == Settings(Path("from-file"), rounds=2, top_p=0.5)


def test_a_flag_can_take_back_an_optional_number_of_the_file(invoke, verb, write):
    file = write("data: d\ntop_p: 0.5\n")
    invoke(verb.command, "fake", "--config", file, "--top-p", "none")
    assert verb.settings.top_p is None


def test_a_flag_that_equals_the_default_still_wins_over_the_file(invoke, verb, write):
    file = write("data: d\nrounds: 3\ncompile: false\n")
    invoke(verb.command, "fake", "--config", file, "--rounds", "5", "--compile")
    assert (verb.settings.rounds, verb.settings.compile) == (5, True)


def test_a_required_option_may_come_from_the_file(invoke, verb, write):
    assert invoke(verb.command, "fake", "--config", write("data: d\n")).exit_code == 0


def test_a_missing_required_option_is_named_with_the_two_ways_to_give_it(invoke, verb):
    result = invoke(verb.command, "fake")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: --data is required (give it as a flag or in the --config file)\n"
    )


def test_a_repeated_flag_adds_to_several_values(invoke, verb):
    invoke(verb.command, "fake", "--data", "d", "--steps", "4,8", "--steps", "16")
    assert verb.settings.steps == (4, 8, 16)


def test_of_a_repeated_flag_of_one_value_the_last_counts(invoke, verb):
    invoke(verb.command, "fake", "--data", "d", "--rounds", "2", "--rounds", "3")
    assert verb.settings.rounds == 3


# ---------------------------------------------------------------- types


def test_every_type_is_read_the_same_from_a_flag_and_from_the_file(invoke, verb, write):
    flags = "--data d --rounds 7 --top-p 6e-5 --divergence jsd --steps 4,8,16 --no-compile"
    invoke(verb.command, "fake", *flags.split(), "--prompt", "a: b")
    from_flags = verb.settings
    file = write(
        "data: d\nrounds: 7\ntop-p: 6e-5\ndivergence: jsd\n"
        "steps: [4, 8, 16]\ncompile: no\nprompt: 'a: b'\n"
    )
    invoke(verb.command, "fake", "--config", file)
    assert verb.settings == from_flags
    assert from_flags == Settings(Path("d"), 7, 6e-5, "jsd", (4, 8, 16), False, "a: b")


@pytest.mark.parametrize("flag", ["--top-p", "--top_p"])
def test_dashes_and_underscores_are_the_same_in_a_flag(invoke, verb, flag):
    invoke(verb.command, "fake", "--data", "d", flag, "0.25")
    assert verb.settings.top_p == 0.25


def test_a_null_in_the_file_is_none_where_none_is_allowed(invoke, verb, write):
    invoke(verb.command, "fake", "--config", write("data: d\ntop_p: null\nprompt:\n"))
    assert (verb.settings.top_p, verb.settings.prompt) == (None, None)


def test_a_text_that_looks_like_another_type_stays_a_text(invoke, verb, write):
    invoke(verb.command, "fake", "--config", write("data: 0123\nprompt: no\n"))
    assert (verb.settings.data, verb.settings.prompt) == (Path("0123"), "no")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rounds", "five"], "--rounds must be a whole number, got 'five'"),
        (["--top-p", "nan"], "--top-p must be a number, got 'nan'"),
        (
            ["--steps", "4,"],
            "--steps must be a whole number, or several joined by commas, got '4,'",
        ),
        (["--data", ""], "--data must be a path, got ''"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (
            ["--divergence", "reverse-kl"],
            "--divergence must be one of reverse_kl, jsd, got 'reverse-kl'; "
            "did you mean 'reverse_kl'?",
        ),
    ],
)
def test_a_wrong_flag_is_refused_in_words(invoke, verb, flags, message):
    result = invoke(verb.command, "fake", "--data", "d", *flags)
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rounds: true", "'rounds' in {file}, line 2, must be a whole number, got 'true'"),
        ("rounds:", "'rounds' in {file}, line 2, must be a whole number, got nothing"),
        ("rounds: [1]", "'rounds' in {file}, line 2, must be a whole number, got ['1']"),
        ("compile: 1", "'compile' in {file}, line 2, must be true or false, got '1'"),
        ("top_p: much", "'top_p' in {file}, line 2, must be a number, got 'much'"),
        (
            "rounds: {a: 1}",
            "'rounds' in {file}, line 2, must be one value or a list of values, "
            "got something nested",
        ),
        ("force: true", "'force' cannot stand in {file}: it is a flag only (--force)"),
        ("divergnce: jsd", "unknown key 'divergnce' in {file}; did you mean 'divergence'?"),
        (
            "zzz: 1",
            "unknown key 'zzz' in {file}; the keys are "
            "data, rounds, top_p, divergence, steps, compile, prompt",
        ),
        ("data: e", "{file}, line 2: key 'data' stands twice, first on line 1"),
    ],
)
def test_a_wrong_line_of_the_file_is_refused_in_words(invoke, verb, write, line, message):
    file = write(f"data: d\n{line}\n")
    result = invoke(verb.command, "fake", "--config", file)
    assert (result.exit_code, result.stderr) == (2, f"error: {message.format(file=file)}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- data\n", "{file} must hold lines of 'key: value', got a list or one value"),
        (
            "data: d\nrounds: [1\n",
            "{file}, line 3: not valid YAML (expected ',' or ']', but got '<stream end>')",
        ),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_words(invoke, verb, write, text, message):
    file = write(text)
    result = invoke(verb.command, "fake", "--config", file)
    assert (result.exit_code, result.stderr) == (2, f"error: {message.format(file=file)}\n")


def test_a_missing_config_file_is_named(invoke, verb):
    result = invoke(verb.command, "fake", "--config", "nowhere.yaml")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --config nowhere.yaml: there is no such file\n",
    )


def test_a_union_is_read_by_its_narrowest_member():
    assert kind_of(int | float).read("4") == 4
    assert kind_of(str | bool).read("true") is True
    assert kind_of(list[str] | str | None).read("all-linear") == "all-linear"
    assert kind_of(list[str] | str | None).read("wandb,tensorboard") == ["wandb", "tensorboard"]
    assert kind_of(Colour).read("red") is Colour.RED
    assert kind_of(Colour | str).read("red") == "red"


@pytest.mark.parametrize("annotation", [dict, dict[str, int] | None, tuple[int, int], object])
def test_a_type_that_no_flag_can_hold_has_no_kind(annotation):
    assert kind_of(annotation) is None


# ---------------------------------------------------------------- Trainer configs


def test_help_shows_our_fields_and_one_line_for_those_of_the_trainer(invoke, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = invoke(verb.training_command, "fake", "--help").stdout
    assert "--decay" in shown
    assert "--learning-rate" in shown
    assert "--weight-decay" not in shown
    assert "fields of transformers.TrainingArguments, such as" in shown


def test_a_field_of_the_trainer_is_a_flag_and_a_key_though_help_hides_it(invoke, verb, write):
    file = write("data: d\nsave_strategy: no\nlogging_steps: 5\n")
    flags = "--weight-decay 0.1 --report-to none --bf16 --lr-scheduler-type cosine"
    result = invoke(verb.training_command, "fake", "--config", file, *flags.split())
    assert result.exit_code == 0, result.output
    assert verb.training.values == {
        "save_strategy": "no",
        "logging_steps": 5.0,
        "weight_decay": 0.1,
        "report_to": "none",
        "bf16": True,
        "lr_scheduler_type": "cosine",
    }


def test_a_misspelt_field_of_the_trainer_is_met_with_the_right_one(invoke, verb):
    result = invoke(verb.training_command, "fake", "--wieght-decay", "1")
    assert result.exit_code == 2
    assert "--weight-decay" in result.stderr
    assert "see 'sdtt fake --help'" in result.stderr


def test_a_choice_of_the_trainer_is_checked_at_the_border(invoke, verb):
    result = invoke(verb.training_command, "fake", "--data", "d", "--lr-scheduler-type", "cosin")
    assert result.exit_code == 2
    assert "did you mean 'cosine'?" in result.stderr


def test_the_verb_builds_a_given_config_with_what_it_supplies(invoke, verb, tmp_path):
    invoke(verb.training_command, "fake", "--data", "d", "--decay", "0.9")
    config = verb.training.make(output_dir=str(tmp_path), use_cpu=True)
    assert (config.decay, config.learning_rate, config.output_dir) == (0.9, 6e-5, str(tmp_path))


@pytest.mark.parametrize("name", ["output-dir", "output_dir"])
def test_a_withheld_field_is_no_flag(invoke, verb, name):
    result = invoke(verb.training_command, "fake", "--data", "d", f"--{name}", "x")
    assert (result.exit_code, "No such option" in result.stderr) == (2, True)


def test_a_withheld_field_is_no_key(invoke, verb, write):
    file = write("data: d\noutput_dir: x\n")
    result = invoke(verb.training_command, "fake", "--config", file)
    assert (result.exit_code, "unknown key 'output_dir'" in result.stderr) == (2, True)


# ---------------------------------------------------------------- the record of a run


def test_the_record_holds_all_of_ours_and_the_given_ones_of_the_trainer():
    given = Given(Training, {"weight_decay": 0.1, "hub_token": "secret", "decay": 0.9})
    assert resolved(Settings(Path("d"), force=True), given) == {
        "data": "d",
        "rounds": 5,
        "top_p": None,
        "divergence": "reverse_kl",
        "steps": [4, 8],
        "compile": True,
        "prompt": None,
        "learning_rate": 6e-5,
        "weight_decay": 0.1,
        "decay": 0.9,
    }


# ---------------------------------------------------------------- help


def test_help_names_required_options_defaults_choices_and_the_example(invoke, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    shown = invoke(verb.command, "fake", "--help").stdout
    assert "Usage: sdtt fake --data <path> [OPTIONS]" in shown
    assert "rounds [1 or more] (default: 5)" in shown
    assert "what the student lowers (one of reverse_kl, jsd; default: reverse_kl)" in shown
    assert "steps (default: 4,8)" in shown
    assert "--no-compile" in shown
    assert "--no-force" not in shown
    assert "Example: sdtt fake --data D" in shown


def test_help_of_generate_names_the_models_own_settings_before_the_defaults():
    shown = {option.name: option.help for option in GENERATE.params}
    own = "default: that of the model's generation_config.json"
    assert f"({own}, else 1.0)" in shown["temperature"]
    assert f"; {own}, else dilated)" in shown["sampler"]
    assert f"({own})" in shown["steps"]
    assert own not in shown["model"]


# ---------------------------------------------------------------- our own faults


def test_a_field_without_help_is_a_fault_of_ours():
    bare = dataclasses.make_dataclass("Bare", [("rounds", int, 1)])
    with pytest.raises(TypeError, match=r"Bare\.rounds has no help"):
        options_of(bare)


def test_a_field_that_no_flag_can_hold_is_a_fault_of_ours_unless_withheld():
    odd = dataclasses.make_dataclass("Odd", [("table", dict, field(metadata={"help": "h"}))])
    with pytest.raises(TypeError, match=r"Odd\.table cannot be a flag"):
        options_of(odd)
    assert options_of(odd, withhold={"table"}) == ()


def test_one_name_in_two_classes_is_a_fault_of_ours():
    @dataclass(frozen=True)
    class Other:
        rounds: int = field(default=1, metadata={"help": "rounds"})

    def fake(one: Settings, two: Other) -> None:
        """Takes both."""

    with pytest.raises(TypeError, match="field 'rounds' is in Settings and Other"):
        command(fake)
