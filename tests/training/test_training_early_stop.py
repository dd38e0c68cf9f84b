import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from sdtt.training.distill import SDTTTrainer
from sdtt.training.early_stop import Plateau, shares
from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.stream import noise_of

HERE = Path(__file__).parent


def records(output, key):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if key in record]


def held_out(count=12):
    """Texts that the runs do not train on."""
    return torch.randint(19, (count, 8), generator=torch.Generator().manual_seed(8))


STOPPING = {"steps_per_round": 8, "early_stop_interval": 1, "early_stop_patience": 2}
"""A fall of a thousand nats never comes: every round ends at its third update."""
STOPPING |= {"early_stop_min_delta": 1e3, "student_dropout": 0.1}


@pytest.fixture
def stopping(runs):
    def make(output, seed=0, callbacks=(), **settings):
        default = {"rounds": 2, "start_steps": 4, "ema_decay": 0.9} | STOPPING
        default |= {"per_device_train_batch_size": 4}
        config = SDTTConfig(str(output), **runs.QUIET | runs.BRIEF | default | settings)
        return SDTTTrainer(
            runs.masked_model(seed),
            runs.masked_model(seed + 10),
            args=config,
            train_dataset=runs.texts(),
            eval_dataset=held_out(),
            callbacks=list(callbacks),
        )

    return make


# What counts as a fall


def test_a_fall_by_more_than_the_least_begins_anew():
    assert Plateau(1.0, 2).after(0.8, 0.1) == Plateau(0.8, 0)


def test_a_fall_of_the_least_or_less_is_none():
    assert Plateau(1.0, 2).after(0.75, 0.25) == Plateau(1.0, 3)


def test_small_falls_that_add_up_are_one():
    one = Plateau(1.0).after(0.95, 0.1)
    assert one.after(0.85, 0.1) == Plateau(0.85, 0)


def test_the_first_measurement_is_what_the_others_are_measured_against():
    assert Plateau().after(3.0, 0.1) == Plateau(3.0, 0)


def test_what_is_no_number_has_not_fallen():
    assert Plateau(1.0, 0).after(float("nan"), 0.0) == Plateau(1.0, 1)


# The texts of several processes


@pytest.mark.parametrize(("texts", "batch", "processes"), [(10, 3, 2), (3, 4, 2), (7, 1, 3)])
def test_processes_count_every_text_once(texts, batch, processes):
    counted = [
        name
        for index in range(processes)
        for names, counts in shares(texts, batch, index, processes)
        if counts
        for name in names
    ]
    assert sorted(counted) == list(range(texts))


def test_all_processes_take_equally_many_batches():
    assert {len(list(shares(10, 3, index, 3))) for index in range(3)} == {2}


# The measurement


def test_the_held_out_divergence_is_the_mean_a_masked_position_under_noise_of_its_own(
    tmp_path, stopping
):
    trainer = stopping(tmp_path)
    trainer.model_wrapped.eval()
    noise = noise_of(
        list(range(12)), length=8, batch=12, seed=0, smallest_time=0.0, purpose="held-out/"
    )
    with torch.no_grad():
        loss = trainer._divergence_sum(trainer.model, held_out(), noise, trainer.round)
    expected = loss / noise.masked(trainer.schedule).sum()
    assert trainer.held_out_divergence(trainer.round) == pytest.approx(expected.item(), rel=1e-5)


def test_the_held_out_noise_is_not_that_of_the_training():
    settings = {"length": 8, "batch": 4, "seed": 0, "smallest_time": 0.0}
    places = list(range(4))
    one, other = noise_of(places, **settings), noise_of(places, **settings, purpose="held-out/")
    for name in ("t", "u", "v"):
        assert not torch.equal(getattr(one, name), getattr(other, name))


def test_a_measurement_knows_no_dropout_and_leaves_the_student_in_training(tmp_path, stopping):
    trainer = stopping(tmp_path, student_dropout=0.5)
    trainer.model.train()
    values = {trainer.held_out_divergence(trainer.round) for _ in range(2)}
    assert len(values) == 1
    assert trainer.model.training


def test_a_measurement_takes_no_more_texts_than_it_is_told(tmp_path, stopping):
    few = stopping(tmp_path, early_stop_texts=3)
    few.eval_dataset = torch.cat([held_out()[:3], held_out(4)])
    three = stopping(tmp_path, early_stop_texts=128)
    three.eval_dataset = held_out()[:3]
    now = few.round
    assert few.held_out_divergence(now) == pytest.approx(three.held_out_divergence(now))


# The end of a round


def test_a_round_ends_when_so_many_measurements_have_not_fallen(tmp_path, stopping):
    trainer = stopping(tmp_path)
    trainer.train()
    assert trainer.plan.ended_at == (3, 6)
    assert trainer.state.global_step == 6


def test_every_measurement_is_recorded_with_its_round(tmp_path, stopping):
    stopping(tmp_path).train()
    seen = [
        (each["step"], each["round"], each["measurements_without_fall"])
        for each in records(tmp_path, "held_out_divergence")
    ]
    assert seen == [(1, 1, 0), (2, 1, 1), (3, 1, 2), (4, 2, 0), (5, 2, 1), (6, 2, 2)]


def test_every_student_of_a_run_that_ended_early_is_saved(tmp_path, stopping):
    stopping(tmp_path).train()
    assert {path.name for path in (tmp_path / "students").iterdir()} == {"1", "2"}


def test_a_run_that_ended_early_leaves_a_checkpoint_of_its_last_update(tmp_path, stopping):
    stopping(tmp_path).train()
    saved = json.loads((tmp_path / "checkpoint-6" / "teacher.json").read_text())
    assert saved["ended_at"] == [3, 6]


def test_the_teacher_changes_where_the_round_has_ended(tmp_path, runs, stopping):
    teachers = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_, **__):
            teachers.append(runs.weights(trainer.teacher))

    trainer = stopping(tmp_path, callbacks=(Watch(),))
    trainer.train()
    changed = [bool(runs.differences(teachers[i], teachers[i + 1])) for i in range(5)]
    assert changed == [False, False, True, False, False]


def test_a_round_whose_divergence_falls_takes_all_its_updates(tmp_path, stopping):
    trainer = stopping(
        tmp_path,
        rounds=1,
        start_steps=2,
        steps_per_round=12,
        early_stop_interval=4,
        early_stop_min_delta=0.0,
        student_dropout=0.0,
    )
    trainer.train()
    values = [each["held_out_divergence"] for each in records(tmp_path, "held_out_divergence")]
    assert values == sorted(values, reverse=True)
    assert trainer.state.global_step == 12


def test_the_rate_of_the_next_round_begins_where_a_round_has_ended_early(tmp_path, stopping):
    stopping(tmp_path, round_lr_factor=0.5).train()
    rates = [each["learning_rate"] for each in records(tmp_path, "learning_rate")]
    assert rates == pytest.approx([1e-2] * 3 + [5e-3] * 3)


@pytest.mark.parametrize("saved", [2, 3, 4])  # the first round ends at 3
def test_a_run_with_early_ends_taken_up_again_ends_as_one_never_stopped(
    tmp_path, runs, stopping, saved
):
    settings = {"round_lr_factor": 0.5, "reset_ema": True}
    stopping(tmp_path / "whole", **settings).train()
    settings |= {"save_steps": float(saved)}
    cut = stopping(tmp_path / "cut", callbacks=(runs.CrashAfter(saved + 1),), **settings)
    with pytest.raises(runs.Crashed):
        cut.train()
    stopping(tmp_path / "cut", seed=1, **settings).train(resume_from_checkpoint=True)
    names = ("whole", "cut")
    whole, resumed = (runs.contents(tmp_path / name / "checkpoint-6") for name in names)
    assert runs.differences(whole, resumed) == []
    ends = [json.loads((tmp_path / n / "checkpoint-6/teacher.json").read_text()) for n in names]
    assert ends[0] == ends[1]
    measured = [records(tmp_path / name, "held_out_divergence") for name in names]
    assert [m["held_out_divergence"] for m in measured[0]] == [
        m["held_out_divergence"] for m in measured[1]
    ]


@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_run_that_is_over_has_nothing_left_to_resume(tmp_path, runs, stopping, resume):
    stopping(tmp_path).train()
    before = runs.contents(tmp_path / "checkpoint-6")
    again = stopping(tmp_path, seed=1)
    again.train(resume_from_checkpoint=resume)
    assert again.state.global_step == 6
    saved = {
        name.removeprefix("model.safetensors/"): value
        for name, value in before.items()
        if name.startswith("model.safetensors/")
    }
    mine = runs.weights(again.model)
    assert runs.differences({name: mine[name] for name in saved}, saved) == []


def test_an_early_stop_without_held_out_texts_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match="early_stop_interval=1 measures held-out texts"):
        runs.distiller(tmp_path, **STOPPING)


CHILD = """
import runpy, sys, torch
from pathlib import Path
from sdtt.training.distill import SDTTTrainer
from sdtt.training.sdtt_config import SDTTConfig
runs = runpy.run_path(sys.argv[1])
held_out = torch.randint(19, (7, 8), generator=torch.Generator().manual_seed(8))
settings = {"rounds": 2, "start_steps": 4, "steps_per_round": 8, "ema_decay": 0.9}
settings |= {"early_stop_interval": 1, "early_stop_patience": 1, "loss_dtype": "float64"}
settings |= {"optim": "sgd", "learning_rate": 1.0, "warmup_steps": 0.0, "logging_steps": 1.0}
settings |= {"per_device_train_batch_size": int(sys.argv[3])}
trainer = SDTTTrainer(
    runs["masked_model"]().double(),
    runs["masked_model"](1).double(),
    args=SDTTConfig(sys.argv[2], **runs["QUIET"] | settings),
    train_dataset=runs["texts"](),
    eval_dataset=held_out,
)
trainer.train()
Path(sys.argv[2], f"ended-{trainer.args.process_index}").write_text(str(trainer.plan.ended_at))
"""


@pytest.mark.slow
def test_two_processes_end_their_rounds_where_one_does(tmp_path):
    def run(name, processes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        words = [sys.executable, "-c", CHILD, str(HERE / "conftest.py"), str(tmp_path / name)]
        words.append(str(4 // processes))
        group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [{"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(processes)]
        environments = [group | rank for rank in ranks] if processes > 1 else [{}]
        children = [subprocess.Popen(words, env=os.environ | e) for e in environments]
        assert [child.wait(timeout=240) for child in children] == [0] * processes
        return [(tmp_path / name / f"ended-{i}").read_text() for i in range(processes)]

    (alone,), both = run("one", 1), run("two", 2)
    assert both == [alone, alone]
    assert alone != str((8, 16))
    measured = [
        [each["held_out_divergence"] for each in records(tmp_path / name, "held_out_divergence")]
        for name in ("one", "two")
    ]
    assert measured[0] == pytest.approx(measured[1], rel=1e-9)
