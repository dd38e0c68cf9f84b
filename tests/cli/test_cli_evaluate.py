"""`sdtt evaluate`: what is asked for is measured, refused, or said not to be."""

import json
import shutil
import subprocess
import sys

import pytest

from sdtt.cli.evaluate import COMMAND
from sdtt.evaluation.records import read_file, read_folder, read_samples
from sdtt.evaluation.subjects import fingerprint_of
from sdtt.models.shipped import resolve


def write(path, *texts):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def evaluate(invoke, tmp_path):
    return lambda *words: invoke(COMMAND, "fake", "--output", str(tmp_path / "out"), *words)


def test_a_file_of_samples_that_changed_is_measured_again(evaluate, tmp_path):
    file = write(tmp_path / "theirs.jsonl", "The old man said.", "Yes, again.")
    evaluate("--samples", file, "--metrics", "diversity")
    assert "measured already" in evaluate("--samples", file, "--metrics", "diversity").stderr
    write(tmp_path / "theirs.jsonl", "no no no no", "no no no no")
    result = evaluate("--samples", file, "--metrics", "diversity")
    assert result.exit_code == 0, result.stderr
    (record,) = read_folder(tmp_path / "out")
    assert record.result["distinct_1"] < 0.6


def test_two_files_of_samples_of_one_name_are_refused(evaluate, tmp_path):
    files = [write(tmp_path / each / "s.jsonl", "The old man said.") for each in "ab"]
    result = evaluate("--samples", ",".join(files))
    assert result.exit_code == 2
    assert "'s' is the name of another file or model already; rename the file" in result.stderr


def test_a_metric_that_has_nothing_to_be_measured_of_is_said_not_to_be(evaluate, tmp_path):
    file = write(tmp_path / "theirs.jsonl", "The old man said.", "Yes, again.")
    result = evaluate("--samples", file, "--metrics", "diversity,best_of")
    assert result.exit_code == 0
    assert "not measured: best_of needs samples of a model" in result.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--samples", "FILE", "--metrics", "best_of"], "best_of needs samples of a model"),
        (["--samples", "FILE", "--metrics", "latency"], "latency needs a model"),
        (["--model", "student", "--metrics", "self_bleu"], "self_bleu needs continuations"),
    ],
)
def test_what_measures_nothing_is_refused_with_what_it_lacks(evaluate, tmp_path, words, reason):
    file = write(tmp_path / "theirs.jsonl", "The old man said.", "Yes, again.")
    result = evaluate(*(file if word == "FILE" else word for word in words))
    assert result.exit_code == 2
    assert f"there is nothing to measure: {reason}" in result.stderr


def test_a_flag_that_the_protocol_says_is_refused(evaluate):
    for flag in ("--steps", "--seed"):
        result = evaluate("--model", "student", "--protocol", "quick", flag, "4")
        assert f"{flag} does not go with --protocol" in result.stderr


def test_a_change_of_the_law_is_that_of_causal_models_too(evaluate, tmp_path):
    words = ["--steps", "2", "--num-samples", "2", "--length", "4", "--metrics", "diversity"]
    result = evaluate("--model", "student,judge", *words, "--top-k", "1")
    assert result.exit_code == 0, result.stderr
    drawn = [one for one in read_folder(tmp_path / "out") if one.metric == "samples"]
    assert {one.kind: one.draw["top_k"] for one in drawn} == {"diffusion": 1, "autoregressive": 1}
    causal = next(one for one in drawn if one.kind == "autoregressive")
    first, second = read_samples(tmp_path / "out" / causal.result["file"])
    assert first.ids == second.ids


TASK = """
task: which_goes_on
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


def test_a_task_of_a_folder_of_ones_own_is_measured(evaluate, tmp_path):
    pytest.importorskip("lm_eval", reason="pip install sdtt[evaluation]")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "own.yaml").write_text(TASK.format(folder=folder))
    question = {"context": "The old", "choices": ["man said.", "of the the"], "answer": 0}
    (folder / "questions.jsonl").write_text(json.dumps(question))
    words = ["--tasks", "which_goes_on", "--include-path", str(folder)]
    result = evaluate("--model", "judge", *words)
    assert result.exit_code == 0, result.stderr
    (record,) = read_folder(tmp_path / "out")
    assert (record.settings["task"], record.result["acc"]) == ("which_goes_on", 1)


ANSWERS = """
task: what_goes_on
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{context}}}}"
generation_kwargs: {{max_gen_toks: 2}}
metric_list: [{{metric: exact_match}}]
"""


def test_answers_to_a_task_are_sampled_as_the_flags_say_and_the_record_tells(evaluate, tmp_path):
    pytest.importorskip("lm_eval", reason="pip install sdtt[evaluation]")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "own.yaml").write_text(ANSWERS.format(folder=folder))
    (folder / "questions.jsonl").write_text(json.dumps({"context": "The old"}))
    words = ["--metrics", "tasks", "--tasks", "what_goes_on", "--include-path", str(folder)]
    how = ["--sampler", "ancestral", "--steps", "2"]
    result = evaluate("--model", "student", *words, *how)
    assert result.exit_code == 0, result.stderr
    (record,) = read_folder(tmp_path / "out")
    # the student's generation_config.json says temperature 0.8, and the task says nothing
    assert (record.draw["sampler"], record.draw["steps"]) == ("ancestral", 2)
    assert record.draw["temperature"] == 0


def test_a_folder_of_tasks_without_tasks_is_refused(evaluate, tmp_path):
    result = evaluate("--model", "judge", "--include-path", str(tmp_path))
    assert "--include-path is the folder of --tasks: name those" in result.stderr


def test_a_folder_of_texts_that_is_not_there_is_refused_at_the_start(evaluate, tmp_path):
    absent = str(tmp_path / "txts")
    result = evaluate("--model", "student", "--text", "wikitext-2", "--data-root", absent)
    assert result.exit_code == 2
    assert f"--data-root {absent}: there is no such folder" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_real_text_without_a_model_is_refused_or_said_not_to_be_measured(evaluate, tmp_path):
    file = write(tmp_path / "theirs.jsonl", "The old man said.", "Yes, again.")
    result = evaluate("--samples", file, "--real-text", file)
    assert result.exit_code == 2
    assert "--real-text is cut by the tokenizer of a model: give --model" in result.stderr
    (tmp_path / "p.yaml").write_text(f"metrics: diversity\nreal_text: {{text: {file}}}")
    result = evaluate("--samples", file, "--protocol", str(tmp_path / "p.yaml"))
    assert result.exit_code == 0, result.stderr
    assert "not measured: real text" in result.stderr


@pytest.mark.parametrize(("flag", "metric"), [("--text", "bound"), ("--tasks", "tasks")])
def test_what_the_metrics_leave_out_is_refused(evaluate, flag, metric):
    result = evaluate("--model", "judge", "--metrics", "perplexity,latency", flag, "one,two")
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert f"{flag} one,two is of the metric {metric}, which --metrics" in said


@pytest.mark.slow
def test_processes_on_cpus_deal_the_work_among_them(tmp_path):
    files = [write(tmp_path / f"{each}.jsonl", "The old man said.", "Yes.") for each in "ab"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    own = ["-m", "sdtt", "evaluate", "--metrics", "diversity", "--output", str(tmp_path / "out")]
    subprocess.run([*launch, *own, "--samples", ",".join(files)], check=True)
    found = {path.name: read_file(path) for path in (tmp_path / "out").glob("records*")}
    models = {name: [record.model for record in records] for name, records in found.items()}
    assert models == {"records.jsonl": ["a"], "records.1.jsonl": ["b"]}


def test_the_files_of_a_judge_are_in_the_record(evaluate, tmp_path):
    words = ["--steps", "2", "--num-samples", "2", "--length", "8", "--metrics", "perplexity"]
    assert evaluate("--model", "student", *words).exit_code == 0
    (record,) = [each for each in read_folder(tmp_path / "out") if each.metric == "perplexity"]
    assert record.settings["judge_files"] == fingerprint_of("judge") != ""


def test_a_number_of_samples_beside_a_protocol_is_refused_whatever_it_is(evaluate):
    result = evaluate("--model", "student", "--protocol", "quick", "--num-samples", "256")
    assert result.exit_code == 2
    assert "--num-samples does not go with --protocol" in result.stderr


def test_a_folder_with_an_equals_sign_in_its_name_is_a_model(evaluate, tmp_path):
    folder = tmp_path / "lr=3e-4" / "model"
    shutil.copytree(resolve("student"), folder)
    words = ["--steps", "2", "--num-samples", "2", "--length", "8", "--metrics", "diversity"]
    result = evaluate("--model", f"{folder},named={folder}", *words)
    assert result.exit_code == 0, result.stderr
    assert {record.model for record in read_folder(tmp_path / "out")} == {"model", "named"}


def test_flags_say_the_sampler_the_steps_and_the_length_of_the_latency(evaluate, tmp_path):
    words = ["--sampler", "ancestral", "--steps", "2,4", "--length", "8", "--metrics", "latency"]
    result = evaluate("--model", "student", *words)
    assert result.exit_code == 0, result.stderr
    records = read_folder(tmp_path / "out")
    assert {record.draw["steps"] for record in records} == {2, 4}
    assert {(record.draw["sampler"], record.draw["length"]) for record in records} == {
        ("ancestral", 8)
    }


def test_the_latency_of_a_sampler_that_counts_no_steps_is_refused(evaluate):
    words = ["--model", "student", "--metrics", "latency", "--sampler", "first_hitting"]
    result = evaluate(*words)
    assert result.exit_code == 2
    assert "the sampler 'first_hitting' counts none; give one of dilated, ances" in result.stderr


@pytest.mark.parametrize("flag", ["--steps", "--num-samples", "--length", "--temperature"])
def test_what_says_how_to_draw_is_refused_where_all_samples_are_there(evaluate, tmp_path, flag):
    file = write(tmp_path / "theirs.jsonl", "The old man said.", "Yes, again.")
    result = evaluate("--samples", file, "--metrics", "diversity", flag, "4")
    assert result.exit_code == 2
    assert f"{flag} is of samples to be drawn, and --samples are: give --model" in result.stderr


def test_a_tokenizer_without_samples_is_refused(evaluate):
    result = evaluate("--model", "student", "--steps", "2", "--tokenizer", "teacher")
    assert result.exit_code == 2
    assert "--tokenizer teacher is of the ids of --samples: give these" in result.stderr


def test_temperatures_of_controls_beside_cooled_draws_are_refused(evaluate):
    words = ["--steps", "2", "--control-temperatures", "0.9", "--temperature", "0.8"]
    result = evaluate("--model", "student,teacher", *words)
    assert result.exit_code == 2
    assert "--temperature 0.8 leaves no draw to control" in result.stderr
