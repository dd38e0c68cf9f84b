"""Claims about the shipped models on the command line: each verb takes their names."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import constants
from transformers import AutoModelForMaskedLM, BloomConfig, BloomForCausalLM
from typer.testing import CliRunner

import sdtt
from sdtt.cli import app
from sdtt.evaluation.records import read_folder
from sdtt.models.checkpoints import load_model, load_tokenizer_of

pytestmark = pytest.mark.usefixtures("pair")

SMALL = ["--per-device-train-batch-size", "2", "--warmup-steps", "0", "--use-cpu"]


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def refused(*words):
    """The one line of a command that must fail with exit code 2."""
    result = run(*words)
    assert result.code == 2, (result.out, result.err)
    (line,) = [line for line in result.err.splitlines() if line.startswith("error:")]
    return line


def records(*words):
    result = run("generate", *words, "--json")
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("the small cat saw a red bird sing in the tree. " * 60)
    return file


# ---------------------------------------------------------------- generate


def test_generate_takes_the_shipped_student_if_no_model_is_named(pair):
    assert records() == [r | {"model": "student"} for r in records("--model", pair / "student")]
    assert records("--model", "teacher")[0]["ids"] != records()[0]["ids"]


def test_generate_samples_as_the_folder_says_where_the_flags_do_not():
    (own,) = records()
    assert (own["sampler"], own["steps"], own["temperature"]) == ("ancestral", 4, 1.0)
    (given,) = records("--steps", "3", "--temperature", "0.5")
    assert (given["sampler"], given["steps"], given["temperature"]) == ("ancestral", 3, 0.5)
    (other,) = records("--sampler", "first_hitting")
    assert (other["sampler"], other.get("steps")) == ("first_hitting", None)


def test_command_function_and_method_follow_the_folder_alike():
    model, tokenizer = load_model("student"), load_tokenizer_of("student")
    (record,) = records("--no-optimize")
    assert sdtt.generate(model, tokenizer) == [record["text"]]
    assert model.generate().sequences.tolist() == [record["ids"]]


@pytest.mark.usefixtures("cuda_wheel")
def test_a_torch_that_was_built_for_cuda_runs_on_a_machine_without_a_gpu(tmp_path):
    assert records()[0]["text"]
    assert records("--model", "judge", "--autoregressive")[0]["text"]
    words = ("--num-samples", "2", "--judge", "judge", "--metrics", "perplexity")
    result = run("evaluate", "--model", "student", "--output", tmp_path / "e", *words)
    assert result.code == 0, result.err
    (record,) = [each for each in read_folder(tmp_path / "e") if each.metric == "perplexity"]
    assert "cuda" not in record.environment["device"]


@pytest.mark.parametrize("model", [(), ("--model", "judge", "--autoregressive")], ids=str)
def test_generate_computes_in_float32_where_bfloat16_is_emulated(processor, model):
    processor(multiplies_halves=False)
    assert records(*model)[0]["dtype"] == "float32"
    assert records(*model, "--no-optimize")[0]["dtype"] == "bfloat16"


def test_a_folder_says_how_texts_are_made(tmp_path):
    model = load_model("student")
    model.generation_config.update(max_length=9, num_return_sequences=2, forced_tokens=[[0, 33]])
    model.save_pretrained(tmp_path)
    load_tokenizer_of("student").save_pretrained(tmp_path)
    found = records("--model", str(tmp_path))
    assert [(len(one["ids"]), one["ids"][0]) for one in found] == [(9, 33)] * 2
    assert (found[0]["length"], found[0]["force"]) == (9, ["0=33"])
    (alone,) = records("--model", str(tmp_path), "--num-samples", "1", "--length", "5")
    assert len(alone["ids"]) == 5
    freed = records("--model", str(tmp_path), "--prompt", "The", "--force", "")
    assert all(one["text"].startswith("The") for one in freed)


def test_each_record_names_its_prompt(tmp_path):
    (tmp_path / "prompts").write_text("one\x0cline\ntwo\n")
    found = records("--prompts", str(tmp_path / "prompts"), "--max-new-tokens", "2")
    assert [one["prompt"] for one in found] == ["one\x0cline", "two"]
    (tmp_path / "prompts").write_text("\ufeffone\n")
    assert records("--prompts", str(tmp_path / "prompts"))[0]["prompt"] == "one"
    (tmp_path / "prompts").write_bytes(b"a\xff")
    line = refused("generate", "--prompts", str(tmp_path / "prompts"))
    assert "prompts is no UTF-8 text at its byte 1" in line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--length", "0"), "length must be at least 1, got 0"),
        (("--max-new-tokens", "0"), "it takes no --max-new-tokens"),
        (("--infill", ""), "it takes no --infill"),
        (("--sampler", "dilated"), "--autoregressive has no sampler"),
    ],
)
def test_what_no_causal_model_has_is_refused_though_it_be_the_default(flags, says):
    assert says in refused("generate", "--autoregressive", "--model", "judge", *flags)


def test_generate_takes_a_name_on_the_hub(pair, tmp_path, monkeypatch):
    place = tmp_path / "hub/models--me--student-16"
    shutil.copytree(pair / "student", place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs/main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert records("--model", "me/student-16")[0]["ids"] == records()[0]["ids"]


def test_what_is_wrong_with_a_config_is_not_said_of_the_tokenizer(pair, tmp_path):
    folder = shutil.copytree(pair / "student", tmp_path / "own")
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "bf16"}
    (folder / "config.json").write_text(json.dumps(config))
    line = refused("generate", "--model", folder)
    assert "dtype must be the name of a type of torch's" in line
    assert "tokenizer" not in line


def test_a_causal_model_that_names_no_length_wants_one(pair, tmp_path):
    tokenizer = load_tokenizer_of(pair / "judge")
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "n_layer": 1, "n_head": 2}
    BloomForCausalLM(BloomConfig(**shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    words = ("generate", "--model", tmp_path, "--autoregressive")
    assert "does not say how long its texts are: give --length" in refused(*words)
    assert run(*words, "--length", "3").code == 0


def test_a_place_is_not_forced_twice():
    assert "--force names place 0 twice" in refused("generate", "--force", "0=5,0=6")


def test_generate_refuses_what_does_not_go_with_the_folder():
    line = refused("generate", "--threshold", "0.9")
    assert "threshold=0.9 is no setting of the sampler 'ancestral'" in line


def test_a_text_longer_than_the_model_is_refused_in_one_line():
    assert refused("generate", "--length", "49") == "error: length 49 is more than the model's 48"


@pytest.mark.parametrize("prompt", ["你好", "🦜", "\x01\x1b[31m\x7f", "é\u0301ß\r\n\t", "[MASK]"])
def test_a_prompt_of_unseen_characters_is_bytes_and_comes_back(prompt):
    (record,) = records("--prompt", prompt)
    assert record["text"].startswith(prompt)


def test_a_prompt_that_is_no_text_is_refused_in_one_line():
    assert "is no UTF-8 text at its character 1" in refused("generate", "--prompt", "a\udcffb")


def test_a_missing_or_damaged_file_is_one_line_with_a_way_out(pair):
    (pair / "student/tokenizer.json").write_text("{}")
    assert "tokenizer.json of the shipped student is damaged; 'git checkout" in refused("generate")
    (pair / "student/tokenizer.json").unlink()
    assert "lacks its file" in refused("generate")


# ---------------------------------------------------------------- the other verbs


def test_evaluate_measures_the_pair_by_name(tmp_path):
    words = ("--model", "student,teacher", "--judge", "judge", "--steps", "4")
    result = run("evaluate", *words, "--num-samples", "8", "--output", tmp_path)
    assert result.code == 0, result.err
    found = [one for one in read_folder(tmp_path) if one.metric == "perplexity"]
    assert [(one.model, one.taught_steps, one.draw["temperature"]) for one in found] == [
        ("student", 4, 1.0), ("teacher", None, 1.0), ("teacher", None, 0.9), ("teacher", None, 0.8),
    ]  # fmt: skip
    assert {one.draw["sampler"] for one in found} == {"dilated"}  # as the command says


def test_an_installation_without_the_judge_says_so(pair, tmp_path):
    shutil.rmtree(pair / "judge")
    (pair.parents[2] / ".git").rmdir()
    words = ("--model", "student", "--judge", "judge", "--steps", "4")
    line = refused("evaluate", *words, "--output", tmp_path / "records")
    assert "lies in the repository of sdtt, not in the installed package" in line


def test_distill_starts_from_a_name_and_learns_from_another(texts, tmp_path):
    words = ["distill", "--model", "student", "--teacher", "teacher", "--data", texts, *SMALL]
    words += ["--rounds", "1", "--steps-per-round", "1", "--output", tmp_path / "run"]
    words += ["--judge", "judge", "--sample-every", "1", "--sample-count", "2"]
    result = run(*words, "--sample-steps", "2")
    assert result.code == 0, result.err
    assert "student is a student of 4 steps: --start-steps 4" in result.err
    assert yaml.safe_load((tmp_path / "run/run.yaml").read_text())["start_steps"] == 4
    AutoModelForMaskedLM.from_pretrained(tmp_path / "run/students/2")


@pytest.mark.parametrize(
    "words",
    [
        ("distill", "--model", "teacher", "--teacher", "teacher"),
        ("pretrain", "--init-from", "judge"),
    ],
)
@pytest.mark.parametrize("updates", ["0", "1"])
def test_a_dry_run_plans_with_a_name(words, updates, texts, tmp_path):
    words = (*words, "--data", texts, "--output", tmp_path / "run", "--dry-run", *SMALL)
    result = run(*words, "--probe-updates", updates)
    assert result.code == 0, result.err


@pytest.mark.parametrize("updates", ["0", "1"])
def test_a_dry_run_refuses_a_start_of_another_shape(updates, texts, tmp_path):
    words = ("pretrain", "--init-from", "judge", "--preset", "tiny", *SMALL, "--dry-run")
    words += ("--data", texts, "--output", tmp_path / "run", "--probe-updates", updates)
    line = refused(*words)
    assert line.startswith("error: cannot initialise from CausalLM: ")
    assert "there and" in line


def test_pretrain_starts_from_a_name_and_takes_its_tokenizer(texts, tmp_path, pair):
    words = ("pretrain", "--data", texts, *SMALL, "--max-steps", "1")
    for name, how in (("a", ("--init-from", "judge")), ("b", ("--tokenizer", "teacher"))):
        result = run(*words, *how, "--length", "16", "--output", tmp_path / name)
        assert result.code == 0, result.err
        own = load_tokenizer_of(tmp_path / name).get_vocab()
        assert own == load_tokenizer_of(pair / "teacher").get_vocab()
    assert load_model(tmp_path / "a").config.hidden_dim == 32


def test_overwriting_knows_where_a_shipped_model_lies(pair, texts):
    words = ("distill", "--model", "teacher", "--data", texts, *SMALL, "--overwrite")
    words += ("--rounds", "1", "--steps-per-round", "1", "--start-steps", "4", "--output")
    assert "--overwrite would delete" in refused(*words, pair)
    assert (pair / "teacher/config.json").is_file()
    result = run(*words, ".")  # which holds no folder "teacher"
    assert result.code == 0, result.err
