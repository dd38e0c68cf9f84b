"""Training on a stream, by the command line."""

import json
import shutil
from itertools import chain
from types import SimpleNamespace

import pytest
import zstandard
from typer.testing import CliRunner

from sdtt.cli import app

SMALL = ["--vocab-size", "290", "--length", "16", "--warmup-steps", "1", "--logging-steps", "1"]
SMALL += ["--per-device-train-batch-size", "4", "--stream-buffer", "9", "--save-steps", "3"]


def run(*words: object) -> SimpleNamespace:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return SimpleNamespace(code=result.exit_code, err=result.stderr)


def records(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output, update):
    return (output / f"checkpoint-{update}" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "stories.jsonl.zst"
    words = ("the", "small", "cat", "saw", "a", "red", "bird", "and", "in", "tree", "sang")
    lines = (
        json.dumps({"text": " ".join(words[(i * k + k) % len(words)] for k in range(9 + i % 50))})
        for i in range(80)
    )
    with zstandard.open(file, "wt") as stream:
        stream.write("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "teacher"
    cache = output.parent / "cache"
    words = ["--data", corpus, "--output", output, "--stream", "--max-steps", 6, *SMALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDTT_CACHE", str(cache))
        made = run("pretrain", *words)
    assert made.code == 0, made.err
    return SimpleNamespace(output=output, cache=cache)


def test_a_stream_is_trained_on_and_judged_on_held_out_text(pretrained):
    found = records(pretrained.output)
    assert [record["step"] for record in found if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert any(record.get("validation_nelbo", 0) > 0 for record in found)


def test_a_stream_leaves_no_cache(pretrained):
    assert not pretrained.cache.exists()


def test_a_student_is_distilled_from_a_stream_and_taken_up_again(pretrained, corpus, tmp_path):
    words = ["distill", "--model", pretrained.output, "--data", corpus, "--stream", "--rounds", 1]
    words += ["--steps-per-round", 6, "--start-steps", 4, *SMALL[4:]]
    assert run(*words, "--output", tmp_path / "whole").code == 0
    expected = weights(tmp_path / "whole", 6)
    shutil.rmtree(tmp_path / "whole" / "checkpoint-6")
    again = run(*words, "--output", tmp_path / "whole", "--resume")
    assert again.code == 0, again.err
    assert "checkpoint-3" in again.err
    assert weights(tmp_path / "whole", 6) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stream-lanes", "-1"], "stream_lanes must be at least 0, got -1"),
        (["--stream-buffer", "0"], "stream_buffer must be at least 1, got 0"),
        (["--stream-lanes", "200"], "fewer than the 200 lanes of its stream"),
        (["--dataloader-num-workers", "2"], "dataloader_num_workers must be 0, got 2"),
    ],
)
def test_what_a_stream_cannot_do_is_refused_in_one_line(corpus, tmp_path, words, message):
    given = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | {words[0]: words[1]}
    result = run(
        "pretrain",
        "--data",
        corpus,
        "--output",
        tmp_path / "run",
        "--stream",
        *chain(*given.items()),
    )
    assert result.code == 2
    lines = [line for line in result.err.strip().splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert message in lines[0]
