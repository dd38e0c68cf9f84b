"""The main job by its own commands, small: text, judge, teacher, students, samples, records."""

import json
import lzma
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner

from sdtt.cli import app
from sdtt.evaluation.records import read_folder
from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.sampling.autoregressive import sample_autoregressive
from sdtt.sampling.canvas import encode

SMALL = ["--per-device-train-batch-size", "8", "--warmup-steps", "2", "--logging-steps", "2"]


def run(*words: object) -> SimpleNamespace:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def refused(*words: object) -> str:
    """The message of a command that must fail with exit code 2, in at most two lines."""
    result = run(*words)
    assert result.code == 2, (result.out, result.err)
    message = result.err.strip()
    assert "Traceback" not in message
    assert len([line for line in message.splitlines() if line.strip()]) <= 2, message
    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus in three forms, a judge, a teacher started from another causal model, students."""
    home = tmp_path_factory.mktemp("main-job")
    texts = home / "texts"
    texts.mkdir()
    words = ("the", "small", "cat", "saw", "a", "red", "bird", "and", "in", "tree", "sang")
    stories = [
        " ".join(words[(i * k + k) % len(words)] for k in range(120)) + ".\n" for i in range(40)
    ]
    (texts / "a.txt").write_text("\n<|endoftext|>\n".join(stories[:15]))
    with lzma.open(texts / "b.txt.xz", "wt") as file:
        file.write("\n<|endoftext|>\n".join(stories[15:30]))
    lines = [json.dumps({"text": story}) for story in stories[30:]]
    (texts / "c.jsonl").write_text("\n".join(lines) + "\n")
    common = ["--data", texts, "--vocab-size", "290", "--length", "16", *SMALL]
    training = ["--max-steps", "6", "--learning-rate", "1e-3"]
    for name, extra in (
        ("judge", ["--model", "causal"]),
        ("start", ["--model", "causal", "--seed", "1"]),
        ("teacher", ["--init-from", home / "start"]),
    ):
        made = run("pretrain", "--output", home / name, *common, *training, *extra)
        assert made.code == 0, made.err
    distilled = run(
        *("distill", "--model", home / "teacher", "--data", texts, "--output", home / "distill"),
        *("--rounds", "2", "--steps-per-round", "3", "--start-steps", "16", "--save-steps", "3"),
        *SMALL,
    )
    assert distilled.code == 0, distilled.err
    return home


def test_every_round_leaves_a_student_that_loads(folder):
    found = sorted(path.name for path in (folder / "distill" / "students").iterdir())
    assert found == ["4", "8"]
    for name in found:
        AutoModelForMaskedLM.from_pretrained(folder / "distill" / "students" / name)


def test_a_student_is_distilled_on_from_the_steps_that_it_takes(folder, tmp_path):
    model, output = folder / "distill/students/8", tmp_path / "on"
    words = ["distill", "--model", model, "--data", folder / "texts", "--output", output]
    result = run(*words, "--rounds", "1", "--steps-per-round", "2", *SMALL)
    assert result.code == 0, result.err
    assert [path.name for path in (output / "students").iterdir()] == ["4"]
    assert yaml.safe_load((output / "run.yaml").read_text())["start_steps"] == 8


def test_the_config_beside_a_run_holds_what_was_asked(folder):
    saved = yaml.safe_load((folder / "distill" / "run.yaml").read_text())
    assert (saved["rounds"], saved["steps_per_round"], saved["start_steps"]) == (2, 3, 16)
    assert saved["divergence"] == "reverse_kl"


def test_a_teacher_takes_the_tokenizer_of_the_model_it_starts_from(folder):
    start = (folder / "start" / "tokenizer.json").read_text()
    assert (folder / "teacher" / "tokenizer.json").read_text() == start


def test_pretraining_records_the_bound_on_held_out_text(folder):
    records = [
        json.loads(s) for s in (folder / "teacher" / "metrics.jsonl").read_text().splitlines()
    ]
    assert any("validation_nelbo" in record for record in records)
    assert any("loss" in record for record in records)


def test_generate_keeps_the_prompt_and_repeats_itself_by_seed(folder):
    words = ["generate", "--model", folder / "teacher", "--steps", "4", "--num-samples", "3"]
    words += ["--seed", "5", "--prompt", "the cat", "--json"]
    first, again, other = run(*words), run(*words), run(*[w if w != "5" else "6" for w in words])
    rows = [json.loads(line) for line in first.out.splitlines()]
    assert len(rows) == 3
    assert all(row["text"].startswith("the cat") for row in rows)
    assert first.out == again.out
    assert first.out != other.out


def test_the_python_function_gives_the_texts_of_the_command(folder):
    import sdtt

    line = run("generate", "--model", folder / "teacher", "--steps", "4", "--json").out
    model, tokenizer = load_model(folder / "teacher"), load_tokenizer_of(folder / "teacher")
    assert sdtt.generate(model, tokenizer, steps=4) == [json.loads(line)["text"]]


def evaluated(folder, output, *words):
    """The records of an evaluation, by (metric, model, steps, temperature)."""
    result = run("evaluate", "--judge", folder / "judge", "--output", output, *words)
    assert result.code == 0, result.err
    found = {}
    for record in read_folder(output):
        draw = record.draw or {}
        where = (record.metric, record.model, draw.get("steps"), draw.get("temperature"))
        found[where] = record
    return found


def test_evaluate_draws_teachers_beside_a_student_at_the_temperatures_of_its_control(
    folder, tmp_path
):
    models = f"{folder}/distill/students/4,{folder}/teacher,{folder}/judge"
    found = evaluated(
        folder,
        tmp_path,
        *("--model", models, "--steps", "2,4", "--num-samples", "16"),
        *("--metrics", "perplexity,bound", "--text", folder / "texts/a.txt"),
    )
    drawn = {(model, steps, t) for metric, model, steps, t in found if metric == "perplexity"}
    teacher = {("teacher", steps, t) for steps in (2, 4) for t in (1.0, 0.9, 0.8)}
    student = {("distill-4", steps, 1.0) for steps in (2, 4)}
    assert drawn == teacher | student | {("judge", None, 1.0)}
    assert {model for metric, model, *_ in found if metric == "bound"} == {
        "distill-4", "teacher", "judge",
    }  # fmt: skip
    needed = {"sampler", "temperature", "draw_dtype", "seed", "num_samples", "length"}
    record = found["perplexity", "distill-4", 2, 1.0]
    assert needed <= record.draw.keys()
    assert record.settings["judge"] == str(folder / "judge")
    assert record.taught_steps == 4
    assert found["bound", "judge", None, None].result["exact"] is True


def test_samples_of_a_file_score_as_when_they_were_drawn(folder, tmp_path):
    samples = tmp_path / "samples.jsonl"
    drawn = run(
        *("generate", "--model", folder / "teacher", "--steps", "4", "--num-samples", "8", "--json")
    )
    ids_only = [json.dumps({"ids": json.loads(line)["ids"]}) for line in drawn.out.splitlines()]
    samples.write_text("\n".join(ids_only))
    of_file = evaluated(folder, tmp_path / "of_file", "--samples", samples)
    direct = evaluated(
        folder,
        tmp_path / "direct",
        *("--model", folder / "teacher", "--steps", "4", "--num-samples", "8"),
    )
    one = of_file["perplexity", "samples", None, None].result
    other = direct["perplexity", "teacher", 4, 1.0].result
    assert one["perplexity"] == pytest.approx(other["perplexity"], rel=1e-6)
    assert one["entropy"] == other["entropy"]


def test_a_finished_run_resumes_to_the_same_weights(folder):
    before = (folder / "distill" / "students" / "4" / "model.safetensors").read_bytes()
    again = run(
        *("distill", "--model", folder / "teacher", "--data", folder / "texts", "--resume"),
        *("--output", folder / "distill", "--rounds", "2", "--steps-per-round", "3"),
        *("--start-steps", "16", "--save-steps", "3", *SMALL),
    )
    assert again.code == 0, again.err
    assert (folder / "distill" / "students" / "4" / "model.safetensors").read_bytes() == before


def test_a_setting_may_be_changed_on_resume_where_it_is_named(folder, tmp_path):
    shutil.copytree(folder / "distill", tmp_path / "run")
    words = ("distill", "--model", folder / "teacher", "--data", folder / "texts", "--resume")
    words += ("--output", tmp_path / "run", "--rounds", "2", "--steps-per-round", "3")
    words += ("--start-steps", "16", "--save-steps", "3", *SMALL, "--learning-rate", "1e-4")
    message = refused(*words)
    assert "learning_rate: 6e-05 in the run, 0.0001 now" in message
    assert message.endswith("--override-on-resume learning_rate")
    again = run(*words, "--override-on-resume", "learning_rate")
    assert again.code == 0, again.err
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["learning_rate"] == 1e-4
    assert '"overridden": {"learning_rate": [6e-05, 0.0001]}' in (
        (tmp_path / "run" / "metrics.jsonl").read_text()
    )


def test_an_output_that_holds_a_run_is_refused(folder):
    message = refused("pretrain", "--data", folder / "texts", "--output", folder / "judge")
    assert "already holds a run" in message
    assert "--overwrite" in message


def test_bad_input_is_refused_in_words(folder, tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("")
    binary.write_bytes(b"abc\x00\x01\xff" * 20)
    short = tmp_path / "short.txt"
    short.write_text("too short")
    new = tmp_path / "new"
    teacher, texts = folder / "teacher", folder / "texts"
    pretrain = ("pretrain", "--output", new, "--data")
    distill = ("distill", "--output", new, "--model", teacher, "--data", texts)
    generate = ("generate", "--model", teacher)
    no_prompt = tmp_path / "no_prompt.txt"
    no_prompt.write_text("")
    cases = [
        ((*pretrain, empty), "empty"),
        ((*pretrain, binary), "binary.txt"),
        ((*pretrain, tmp_path / "absent.txt"), "absent.txt"),
        ((*pretrain, short), "too few"),
        ((*pretrain, texts, "--preset", "huge"), "huge"),
        ((*distill, "--divergence", "kl"), "reverse_kl"),
        ((*distill, "--rounds", "11", "--start-steps", "1024"), "below one step"),
        ((*distill, "--student-dropout", "1.5"), "student_dropout"),
        (("distill", "--output", new, "--model", tmp_path, "--data", texts), "config.json"),
        ((*generate, "--steps", "0"), "steps must be at least 1, got 0"),
        ((*generate, "--sampler", "magic"), "magic"),
        ((*generate, "--sampler", "dilated", "--threshold", "0.9"), "no setting of the sampler"),
        ((*generate, "--sampler", "first_hitting", "--steps", "4"), "it has schedule, tokens_per"),
        ((*generate, "--top-p", "0"), "top_p must lie in (0, 1], got 0.0"),
        ((*generate, "--top-k", "0"), "top_k must be at least 1, got 0"),
        ((*generate, "--num-samples", "-1"), "num_samples must be at least 0, got -1"),
        ((*generate, "--batch-size", "0"), "batch_size must be at least 1, got 0"),
        ((*generate, "--prompts", no_prompt), "holds no prompt"),
        ((*generate, "--prompts", tmp_path / "absent.txt"), "absent.txt"),
        ((*generate, "--prompts", short, "--prompt", "a"), "give --prompt or --prompts"),
        ((*generate, "--watch", "--json"), "give one"),
        ((*generate, "--watch-seconds", "-1"), "watch_seconds must be at least 0"),
        ((*generate, "--infill", "the [4]", "--prompt", "a"), "infill holds the whole text"),
        ((*generate, "--infill", "the [40]"), "longer than the model's 16"),
        ((*generate, "--infill", ""), "the infill text '' leaves nothing open"),
        ((*generate, "--force", "x=1"), "--force takes PLACE=ID"),
        ((*generate, "--force", "16=1"), "forced at place 16, outside of a text of 16 tokens"),
        ((*generate, "--force", "0=99999"), "unknown id 99999"),
        ((*generate, "--length", "4", "--max-new-tokens", "4"), "exclude each other"),
        ((*generate, "--max-new-tokens", "17"), "a text of 17 tokens is longer than the model's"),
        ((*generate, "--autoregressive"), "cannot load a causal language model"),
        ((*generate, "--autoregressive", "--infill", "[4]"), "it takes no --infill"),
        (("generate", "--model", folder / "judge", "--autoregressive", "--steps", "4"), "no steps"),
        ((*generate, "--prompt", "the cat " * 50), "more than"),
        ((*generate, "--top-p", "1.5"), "top_p"),
        ((*generate, "--temperature", "-1"), "temperature"),
        ((*generate, "--length", "999"), "999"),
        (("generate", "--model", folder / "distill"), "students"),
        (("generate", "--model", folder / "judge"), "masked"),
    ]
    for words, expected in cases:
        message = refused(*words)
        assert expected in message, (words, message)
    assert not new.exists() or not any(new.iterdir())


def test_an_unknown_key_of_a_config_file_is_refused_with_the_nearest(folder, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("divergnce: jsd\n")
    words = ("distill", "--model", folder / "teacher", "--data", folder / "texts")
    message = refused(*words, "--output", tmp_path / "out", "--config", config)
    assert "divergnce" in message
    assert "did you mean 'divergence'" in message


def test_a_damaged_weights_file_is_named(folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (folder / "teacher").iterdir():
        if path.is_file():
            (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "damaged" in refused("generate", "--model", broken)
    weights.unlink()
    assert "weights" in refused("generate", "--model", broken)


def test_a_student_keeps_the_law_it_had_when_it_is_saved_in_bfloat16(folder, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(folder / "teacher", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.head.weight, model.head.weight)


def test_overwriting_spares_the_model_that_the_run_reads(folder):
    weights = (folder / "teacher" / "model.safetensors").read_bytes()
    message = refused(
        *("distill", "--model", folder / "teacher", "--data", folder / "texts"),
        *("--output", folder / "teacher", "--overwrite", "--rounds", "1", "--start-steps", "4"),
    )
    assert "choose another --output" in message
    assert (folder / "teacher" / "model.safetensors").read_bytes() == weights


def test_a_setting_that_would_break_a_resume_is_refused(folder, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("save_only_model: true\n")
    words = ("distill", "--model", folder / "teacher", "--data", folder / "texts")
    assert "save_only_model" in refused(*words, "--output", tmp_path / "o", "--config", config)


def records(*words: object) -> list[dict]:
    """The JSON records of a `generate` that succeeds."""
    result = run("generate", *words, "--json")
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def tokenizer_of(folder):
    return load_tokenizer_of(folder / "teacher")


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("dilated", {"steps": 4, "stratified": False, "schedule": "log_linear"}),
        ("ancestral", {"steps": 4, "counts": "process", "schedule": "log_linear"}),
        ("first_hitting", {"tokens_per_pass": 4, "schedule": "log_linear"}),
        ("confidence", {"steps": 4, "score": "probability", "order": "high", "dilation": None}),
        ("analytic", {"steps": 4}),
    ],
)
def test_a_record_holds_every_setting_of_its_sampler_and_its_passes(folder, sampler, settings):
    number = ("--tokens-per-pass" if sampler == "first_hitting" else "--steps", "4")
    (record,) = records("--model", folder / "teacher", "--sampler", sampler, *number)
    assert settings.items() <= record.items()
    common = {"sampler": sampler, "temperature": 1.0, "top_p": 1.0, "top_k": None, "seed": 0}
    common |= {"repetition_penalty": 1.0, "banned": [], "draw_dtype": "float64", "index": 0}
    common |= {"dtype": "float32", "torch": torch.__version__, "compile": False, "prompt": ""}
    assert common.items() <= record.items()
    assert 1 <= record["passes"] <= 4
    assert len(record["ids"]) == 16
    assert record["text"] == tokenizer_of(folder).decode(record["ids"], skip_special_tokens=True)


def test_an_infilled_text_keeps_what_was_given(folder):
    template = "the cat[5] bird[3]"
    (record,) = records("--model", folder / "teacher", "--infill", template, "--steps", "4")
    front, back = (encode(tokenizer_of(folder), part) for part in ("the cat", " bird"))
    ids = record["ids"]
    assert len(ids) == len(front) + 5 + len(back) + 3
    assert ids[: len(front)] == front
    assert ids[len(front) + 5 : -3] == back


def test_prompts_of_a_file_get_as_many_new_tokens_each(folder, tmp_path):
    file, tokenizer = tmp_path / "prompts.txt", tokenizer_of(folder)
    prompts = ["the small cat", "a", "red bird sang"]
    file.write_text("\n".join(prompts) + "\n")
    words = ("--model", folder / "teacher", "--max-new-tokens", "4", "--steps", "2")
    rows = records(*words, "--prompts", file, "--num-samples", "2")
    assert [row["index"] for row in rows] == list(range(6))
    for index, row in enumerate(rows):
        front = encode(tokenizer, prompts[index // 2])
        assert row["ids"][: len(front)] == front
        assert len(row["ids"]) == len(front) + 4


def test_a_prompt_of_a_file_has_the_text_that_it_has_alone(folder, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("the small cat\na\n")
    words = ("--model", folder / "teacher", "--max-new-tokens", "4", "--steps", "2")
    first = records(*words, "--prompts", file)[0]
    (alone,) = records(*words, "--prompt", "the small cat")
    assert first["ids"] == alone["ids"]


def test_forced_tokens_stand_at_their_places(folder):
    words = ("--model", folder / "teacher", "--steps", "2", "--force", "0=17,-1=5")
    (record,) = records(*words)
    assert (record["ids"][0], record["ids"][-1]) == (17, 5)
    assert record["force"] == ["0=17", "-1=5"]


def test_a_text_that_stops_at_eos_ends_with_padding(folder):
    model = load_model(folder / "teacher")
    eos = model.config.eos_token_id
    words = ("--model", folder / "teacher", "--steps", "4", "--num-samples", "2")
    words += ("--force", f"0={eos}")  # one that is given stops nothing
    rows = records(*words, "--stop-at-eos")
    assert all(set(row["ids"][1:]) != {eos} for row in rows)
    with torch.no_grad():
        model.backbone.output_layer.linear.bias[eos] += 1000
    model.save_pretrained(folder / "eager-to-stop")
    tokenizer_of(folder).save_pretrained(folder / "eager-to-stop")
    (record,) = records(
        *("--model", folder / "eager-to-stop", "--steps", "1", "--prompt", "the", "--stop-at-eos")
    )
    size = len(encode(tokenizer_of(folder), "the"))
    assert set(record["ids"][size:]) == {eos}
    assert record["text"] == "the"


def test_the_causal_model_writes_from_the_left(folder):
    words = ("--model", folder / "judge", "--autoregressive", "--prompt", "the cat")
    rows = records(*words, "--num-samples", "2", "--length", "12", "--seed", "3", "--top-k", "5")
    model, tokenizer = (
        load_model(folder / "judge", causal=True),
        load_tokenizer_of(folder / "judge"),
    )
    due = sample_autoregressive(
        model, num_samples=2, length=12, prompt=encode(tokenizer, "the cat"), seed=3, top_k=5
    )
    assert [row["ids"] for row in rows] == due.tolist()
    assert {"sampler": "autoregressive", "seed": 3, "top_k": 5}.items() <= rows[0].items()


def test_watching_shows_every_step_and_then_the_text(folder):
    words = ("generate", "--model", folder / "teacher", "--steps", "3", "--watch")
    result = run(*words, "--watch-seconds", "0", "--num-samples", "2")
    assert result.code == 0, result.err
    for sample in (1, 2):
        assert f"sample {sample}, before the first step" in result.out
        assert [f"sample {sample}, step {n} of 3" in result.out for n in (1, 2, 3)] == [True] * 3
    plain = run(*words[:-1], "--num-samples", "2").out
    assert all(line in result.out for line in plain.splitlines())


def test_samples_are_numbered_where_there_are_several(folder):
    words = ("generate", "--model", folder / "teacher", "--steps", "2", "--num-samples")
    assert "--- sample 2\n" in run(*words, "2").out
    assert "---" not in run(*words, "1").out


@pytest.mark.parametrize("way", [(), ("--json",), ("--watch",)], ids=str)
def test_no_samples_print_nothing(folder, way):
    result = run("generate", "--model", folder / "teacher", "--num-samples", "0", *way)
    assert (result.code, result.out) == (0, "")


def test_no_autoregressive_samples_print_nothing(folder):
    words = ("generate", "--model", folder / "judge", "--autoregressive", "--num-samples", "0")
    result = run(*words)
    assert (result.code, result.out) == (0, "")


@pytest.mark.parametrize(
    "words", [("--model", "teacher"), ("--autoregressive", "--model", "judge")]
)
def test_weights_laid_out_for_this_machine_give_the_same_text(folder, words):
    words = (*words[:-1], folder / words[-1])
    fast, plain = records(*words), records(*words, "--no-optimize")
    assert fast[0]["ids"] == plain[0]["ids"]


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 3])
def test_two_processes_print_the_texts_of_one(folder, samples):
    words = ["generate", "--model", str(folder / "teacher"), "--steps", "4", "--json"]
    words += ["--num-samples", str(samples)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--standalone", "-m", "sdtt", *words]
    together = subprocess.run(
        launch, capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    assert together.stdout == run(*words).out
