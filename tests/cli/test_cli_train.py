"""Claims about the one line that says how a run is."""

import io
import sys

from transformers import TrainerControl, TrainerState, TrainingArguments

from sdtt.cli.console import progress
from sdtt.cli.train import Dashboard
from sdtt.training.rounds import RoundPlan


def board(step, *records, plan=None):
    dashboard = Dashboard(500, lambda: plan)
    for record in records:
        dashboard.on_log(None, None, None, logs=record)
    arguments = TrainingArguments(use_cpu=True), TrainerState(global_step=step), TrainerControl()
    dashboard.on_step_end(*arguments)
    return dashboard


def test_before_the_first_record_the_line_says_the_update():
    assert board(3).line() == "update 3/500"


def test_the_line_says_what_the_last_record_said():
    records = [{"loss": 2.0, "mfu": 0.1}, {"loss": 0.01234, "mfu": 0.414}]
    assert board(120, *records).line() == "update 120/500, loss 0.01234, MFU 0.41"


def test_the_line_says_the_round_of_the_update_that_is_done():
    plan = RoundPlan(rounds=5, steps_per_round=100, start_steps=32, teacher_steps=2)
    assert board(100, plan=plan).line() == "round 1/5, update 100/500"
    assert board(101, plan=plan).line() == "round 2/5, update 101/500"


def test_the_line_says_perplexity_and_entropy_at_the_middle_of_the_last_looks_steps():
    old = {"sample_entropy_1": 1.0}
    look = {"sample_entropy_4": 3.5, "sample_entropy_16": 3.81, "sample_entropy_64": 3.9}
    judged = {"sample_perplexity_16": 120.25}
    assert board(9, old, look).line() == "update 9/500, entropy 3.81 in 16 steps"
    said = board(9, old, look | judged).line()
    assert said == "update 9/500, perplexity 120.2, entropy 3.81 in 16 steps"


def test_off_a_terminal_the_status_stands_behind_the_pace(capsys):
    seconds = iter(range(100))
    with progress(10, "distill", status=lambda: "loss 0.1", clock=lambda: next(seconds)) as advance:
        advance(5)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("distill: 50 % (5 of 10 tokens), ")
    assert first.endswith(" left, loss 0.1")


def test_on_a_terminal_the_bar_shows_the_share_and_the_words_the_status(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress(10, "distill", status=lambda: "update 1/2, loss 0.1") as advance:
        advance(5)
    assert "update 1/2, loss 0.1, " in stream.getvalue()
    assert "of 10 tokens" not in stream.getvalue()
