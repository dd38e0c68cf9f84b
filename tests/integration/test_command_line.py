"""The main job by its own commands, small: text, judge, teacher, students, samples, records."""

import json
import lzma
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner

from sdtt.cli import app

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
    from sdtt.models.checkpoints import load_model, load_tokenizer_of

    line = run("generate", "--model", folder / "teacher", "--steps", "4", "--json").out
    model, tokenizer = load_model(folder / "teacher"), load_tokenizer_of(folder / "teacher")
    assert sdtt.generate(model, tokenizer, steps=4) == [json.loads(line)["text"]]


def test_evaluate_writes_each_student_row_with_its_control(folder, tmp_path):
    output = tmp_path / "records.jsonl"
    result = run(
        *("evaluate", "--model", folder / "distill/students/4", "--steps", "2,4"),
        *("--teacher", folder / "teacher", "--judge", folder / "judge", "--output", output),
        *("--num-samples", "32", "--data", folder / "texts"),
    )
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    assert kinds == ["nelbo", "model", "control", "model", "control"]
    for model, control in ((rows[1], rows[2]), (rows[3], rows[4])):
        assert abs(model["entropy"] - control["entropy"]) <= 0.02
        assert model["steps"] == control["steps"]
        needed = {"sampler", "temperature", "dtype", "draw_dtype", "seed", "judge", "tokens_judged"}
        assert needed <= model.keys() & control.keys()


def test_samples_of_a_file_score_as_when_they_were_drawn(folder, tmp_path):
    samples, output = tmp_path / "samples.jsonl", tmp_path / "of_file.jsonl"
    drawn = run(
        *("generate", "--model", folder / "teacher", "--steps", "4", "--num-samples", "8", "--json")
    )
    ids_only = [json.dumps({"ids": json.loads(line)["ids"]}) for line in drawn.out.splitlines()]
    samples.write_text("\n".join(ids_only))
    judged = run("evaluate", "--samples", samples, "--judge", folder / "judge", "--output", output)
    assert judged.code == 0, judged.err
    direct = run(
        *("evaluate", "--model", folder / "teacher", "--steps", "4", "--num-samples", "8"),
        *("--judge", folder / "judge", "--output", tmp_path / "direct.jsonl"),
    )
    assert direct.code == 0, direct.err
    one, other = (json.loads(path.read_text()) for path in (output, tmp_path / "direct.jsonl"))
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
        ((*generate, "--steps", "0"), "steps"),
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


def test_a_control_without_a_match_does_not_cost_the_other_rows(folder, tmp_path):
    output = tmp_path / "records.jsonl"
    result = run(
        *("evaluate", "--model", folder / "distill/students/4", "--steps", "2", "--top-p", "0.01"),
        *("--temperature", "0", "--num-samples", "4", "--output", output),
        *("--teacher", folder / "teacher", "--judge", folder / "judge"),
    )
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["model", "control"]
