"""What a plan of a distillation can say beyond its rounds, and what it refuses."""

import json

import pytest
import torch
from transformers import AutoModelForMaskedLM, TrainerCallback
from transformers.utils import logging

from sdtt.diffusion.noise import mask, released_teacher_times
from sdtt.diffusion.rollout import rollout
from sdtt.training.pretrain import MDLMTrainer
from sdtt.training.sdtt_config import SDTTConfig


def records(output, key):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if key in record]


# Ladder


def test_a_run_down_a_ladder_leaves_its_students_and_takes_its_updates(tmp_path, runs):
    settings = {"ladder": [8, 2, 1], "steps_per_round": [1, 2], "rounds": 5, "start_steps": 1024}
    trainer = runs.distiller(tmp_path, **settings)
    trainer.train()
    assert {path.name for path in (tmp_path / "students").iterdir()} == {"1", "2"}
    assert trainer.state.global_step == 3


def test_the_first_round_of_a_ladder_replaces_so_many_teacher_steps(tmp_path, runs):
    short = {"rounds": 1, "steps_per_round": 1}
    student, teacher = runs.masked_model(0), runs.masked_model(1)
    losses = []
    for name, settings in {
        "ladder": {"ladder": [8, 2], "steps_per_round": 1},
        "k": short | {"start_steps": 8, "teacher_steps": 4},
        "other": short | {"start_steps": 8, "teacher_steps": 2},
    }.items():
        default = {"rounds": 5, "start_steps": 1024} | settings
        runs.distiller(tmp_path / name, student, teacher, learning_rate=0.0, **default).train()
        losses.append(records(tmp_path / name, "loss")[0]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_a_config_with_a_ladder_counts_its_rounds(tmp_path):
    config = SDTTConfig(str(tmp_path), use_cpu=True, ladder=[64, 16, 8], steps_per_round=[3, 4])
    assert (config.rounds, config.start_steps, config.max_steps) == (2, 64, 7)


def test_a_ladder_beside_its_own_ratio_is_no_contradiction(tmp_path):
    settings = {"ladder": [64, 16], "steps_per_round": 1, "warmup_steps": 0.0}
    assert SDTTConfig(str(tmp_path), use_cpu=True, teacher_steps=4, **settings).rounds == 1
    with pytest.raises(ValueError, match=r"ladder=64,16 and teacher_steps=8 say two things"):
        SDTTConfig(str(tmp_path), use_cpu=True, teacher_steps=8, **settings)


def test_a_warm_up_that_outlasts_the_run_is_said(tmp_path, runs, caplog):
    logging.enable_propagation()
    runs.distiller(tmp_path, warmup_steps=10.0)
    assert "the warm-up of 10 updates is no shorter than the run of 10" in caplog.text
    caplog.clear()
    runs.distiller(tmp_path, warmup_steps=9.0)
    logging.disable_propagation()
    assert "warm-up" not in caplog.text


def test_a_ladder_beside_the_rounds_that_it_has_is_no_contradiction(tmp_path):
    settings = {"ladder": [64, 16, 8], "steps_per_round": 3}
    config = SDTTConfig(str(tmp_path), use_cpu=True, **settings, rounds=2, start_steps=64)
    assert config.plan == SDTTConfig(str(tmp_path), use_cpu=True, **settings).plan


# EMA


def test_the_average_begins_anew_at_a_round_where_it_is_asked_to(tmp_path, runs):
    shadows, students = [], []

    class Watch(TrainerCallback):
        def on_log(self, *_, **__):
            shadows.append({name: s.clone() for name, s in trainer.ema.shadow.items()})
            students.append(runs.weights(trainer.model))

    settings = {"steps_per_round": 2, "reset_ema": True, "teacher_from": "ema"}
    trainer = runs.distiller(tmp_path, callbacks=(Watch(),), **settings)
    trainer.train()
    for name, shadow in shadows[2].items():  # the first update of the second round
        expected = 0.9 * students[1][name] + 0.1 * students[2][name]
        torch.testing.assert_close(shadow, expected, rtol=0, atol=1e-6)


# The released grid


def test_the_released_grid_gives_the_targets_of_its_own_times(tmp_path, runs):
    settings = {"rounds": 1, "steps_per_round": 1, "start_steps": 4, "time_grid": "released"}
    student, teacher = runs.masked_model(0), runs.masked_model(1)
    trainer = runs.distiller(tmp_path, student, teacher, **settings)
    x = torch.stack([trainer.stream[place]["input_ids"] for place in range(4)])
    noise = trainer.noise(list(range(4)), 8)
    z = mask(x, noise.masked(trainer.schedule), 19)
    times = released_teacher_times(noise.t, 1 / 4, 2, trainer.schedule)
    target = rollout(teacher.eval(), z, noise.u, noise.v, times, trainer.schedule).hidden
    rows = (z == 19).flatten().nonzero().squeeze(-1)
    with torch.no_grad():
        q = student.logits(student.hidden(z, rows)).log_softmax(-1)
        p = teacher.logits(target).log_softmax(-1)
    expected = (q.exp() * (q - p)).sum(-1).mean().item()
    trainer.train()
    assert records(tmp_path, "loss")[0]["loss"] == pytest.approx(expected, rel=1e-4)


# A student's config says its steps


@pytest.mark.parametrize("folder", ["2", "1", "2/ema"])
def test_a_student_says_in_its_config_how_many_steps_it_takes(tmp_path, runs, folder):
    runs.distiller(tmp_path, steps_per_round=1).train()
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "students" / folder)
    assert student.config.sdtt_sampling_steps == int(folder[0])


def test_a_student_is_distilled_on_from_its_own_steps(tmp_path, runs):
    first = {"ladder": [8, 4], "steps_per_round": 1, "rounds": 5, "start_steps": 1024}
    runs.distiller(tmp_path / "first", **first).train()
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "first/students/4")
    settings = {"start_steps": student.config.sdtt_sampling_steps, "steps_per_round": 1}
    runs.distiller(tmp_path / "second", student, **settings).train()
    assert {path.name for path in (tmp_path / "second/students").iterdir()} == {"2", "1"}


# Updates without a masked position


@pytest.fixture
def sparse(tmp_path, runs):
    """AdamW with weight decay on texts of one token, half of whose updates mask nothing."""
    history = {}

    class Watch(TrainerCallback):
        def on_step_begin(self, _args, state, *_, **__):
            if state.global_step == 0:
                self.note(state)

        def on_log(self, _args, state, *_, **__):  # after the trainer has followed the update
            self.note(state)

        def note(self, state):
            moments = [each for s in trainer.optimizer.state.values() for each in s.values()]
            everything = [*trainer.model.parameters(), *trainer.ema.shadow.values(), *moments]
            history[state.global_step] = [each.detach().clone() for each in everything]

    trainer = runs.distiller(
        tmp_path,
        data=runs.texts(length=1),
        callbacks=(Watch(),),
        rounds=1,
        steps_per_round=8,
        per_device_train_batch_size=1,
        weight_decay=0.1,
        max_grad_norm=0.0,
    )
    trainer.train()
    masked = [trainer.items(torch.zeros(1, 1), [place]) for place in range(8)]
    return history, masked


def test_an_update_in_which_nothing_is_masked_moves_no_weight_no_moment_and_no_average(sparse):
    history, masked = sparse

    def moved(step):
        before, after = history[step], history[step + 1]
        pairs = zip(before, after, strict=False)
        return len(before) != len(after) or not all(torch.equal(a, b) for a, b in pairs)

    assert 0 in masked[masked.index(1) :]  # one with moments behind it is among them
    assert [moved(step) for step in range(8)] == [count > 0 for count in masked]


def test_updates_in_which_nothing_is_masked_are_counted(tmp_path, sparse):
    _, masked = sparse
    empty = [place for place, count in enumerate(masked) if count == 0]
    seen = [(r["step"], r["skipped_updates"]) for r in records(tmp_path, "skipped_updates")]
    assert seen == [(place + 1, number + 1) for number, place in enumerate(empty)]
    assert len(empty) > 1


@pytest.mark.usefixtures("sparse")
def test_a_skipped_update_keeps_its_record(tmp_path):
    assert [each["step"] for each in records(tmp_path, "learning_rate")] == list(range(1, 9))


def test_the_mean_of_a_round_is_over_the_updates_that_learned(tmp_path, sparse):
    learned = records(tmp_path, "loss")
    assert [each["step"] for each in learned] == [p + 1 for p in range(8) if sparse[1][p]]
    mean = sum(each["loss"] for each in learned) / len(learned)
    assert learned[-1]["round_loss"] == pytest.approx(mean)


def test_pretraining_skips_an_update_in_which_nothing_is_masked_too(tmp_path, runs):
    settings = {"max_steps": 12, "per_device_train_batch_size": 1, "weight_decay": 0.1}
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, data=runs.texts(length=1), **settings)
    trainer.train()
    masked = [int(trainer.noise([p], 1).masked(trainer.schedule).sum()) for p in range(12)]
    skipped = [record["step"] for record in records(tmp_path, "skipped_updates")]
    assert skipped == [place + 1 for place, count in enumerate(masked) if count == 0]
    assert len(skipped) > 1


def test_the_count_of_skipped_updates_survives_a_restart(tmp_path, runs):
    settings = {"rounds": 1, "steps_per_round": 8, "per_device_train_batch_size": 1}
    data = runs.texts(length=1)
    runs.distiller(tmp_path / "whole", data=data, **settings).train()
    settings |= {"save_steps": 5.0}
    with pytest.raises(runs.Crashed):
        runs.distiller(
            tmp_path / "cut", data=data, callbacks=(runs.CrashAfter(6),), **settings
        ).train()
    runs.distiller(tmp_path / "cut", data=data, **settings).train(True)
    counts = [
        [record["skipped_updates"] for record in records(tmp_path / name, "skipped_updates")]
        for name in ("whole", "cut")
    ]
    assert counts[0] == counts[1]


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ladder": [16, 64]}, "rises from 16 to 64"),
        ({"ladder": [64, 16], "rounds": 3}, "ladder=64,16 and rounds=3 say two things"),
        ({"ladder": [64, 16], "start_steps": 32}, "start_steps=32 say two things"),
        ({"ladder": [64, 16], "teacher_steps": 3}, "teacher_steps=3 say two things"),
        ({"steps_per_round": [5, 5]}, "steps_per_round has 2 numbers for 5 rounds"),
        ({"max_steps": 100}, r"max_steps=100 contradicts the plan, whose 5 rounds have 50000"),
        ({"round_learning_rates": [1e-3]}, "round_learning_rates has 1 numbers for 5 rounds"),
        (
            {"round_learning_rates": [1e-3] * 5, "learning_rate": 2e-3},
            "learning_rate=0.002 and round_learning_rates say two things",
        ),
        ({"early_stop_interval": -1}, "early_stop_interval must be at least 0, got -1"),
        ({"early_stop_patience": -2}, "early_stop_patience must be at least 1, got -2"),
        ({"early_stop_min_delta": -0.1}, "early_stop_min_delta must be at least 0 nats, got -0.1"),
        ({"early_stop_texts": 0}, "early_stop_texts must be at least 1, got 0"),
        ({"early_stop_interval": 10_001}, "never comes: the longest round has 10000 updates"),
        ({"time_grid": "linear"}, "unknown time_grid 'linear'; there are paper, released"),
        ({"jsd_beta": 1.0, "divergence": "jsd"}, r"jsd_beta must lie in \(0, 1\), got 1.0"),
        ({"jsd_beta": 0.1}, "jsd_beta=0.1 goes with divergence=jsd, got 'reverse_kl'"),
        ({"divergence_temperature": 0.0}, "divergence_temperature must be above 0, got 0.0"),
        ({"variable_length": 1.5}, r"variable_length must lie in \[0, 1\], got 1.5"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_words(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        SDTTConfig(str(tmp_path), use_cpu=True, **settings)
