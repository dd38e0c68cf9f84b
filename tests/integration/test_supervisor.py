"""One command, started again and again by something that only looks at its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WORDS = ("the", "small", "cat", "saw", "a", "red", "bird", "and", "in", "tree", "sang")


@pytest.fixture
def started(tmp_path):
    """Starts `sdtt pretrain` on a small text, a new interpreter each time."""
    text = tmp_path / "text.txt"
    text.write_text(" ".join(WORDS[i * i % len(WORDS)] for i in range(3000)))

    def start(name, *extra):
        words = ["--data", text, "--output", tmp_path / name, "--vocab-size", "280"]
        words += ["--length", "16", "--max-steps", "150", "--logging-steps", "1", "--save-steps"]
        words += ["20", "--per-device-train-batch-size", "4", "--use-cpu", *extra]
        return subprocess.Popen(
            [sys.executable, "-m", "sdtt", "pretrain", *map(str, words)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )

    return start


def recorded(output):
    """The last update on record."""
    file = output / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return max((json.loads(line)["step"] for line in whole), default=0)


def wait_for(update, output, process):
    while process.poll() is None and recorded(output) < update:
        time.sleep(0.02)


def test_a_run_under_a_supervisor_survives_kill_and_sigterm_and_ends_as_any_other(
    started, tmp_path
):
    output, codes = tmp_path / "supervised", []
    for signum, update in ((signal.SIGKILL, 30), (signal.SIGTERM, 60), (None, 0)):
        process = started("supervised", "--auto-resume")
        if signum is not None:
            wait_for(update, output, process)
            process.send_signal(signum)
        _, said = process.communicate()
        codes.append(process.returncode)
        if signum == signal.SIGTERM:
            assert "stopped by SIGTERM after update" in said
            assert "the same command with --resume goes on" in said
    assert codes == [-signal.SIGKILL, 143, 0]
    assert started("whole").wait() == 0
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (output / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
