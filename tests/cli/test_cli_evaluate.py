"""`sdtt evaluate`: what is asked for is measured, refused, or said not to be."""

import json

import pytest

from sdtt.cli.evaluate import COMMAND
from sdtt.evaluation.records import read_folder


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
