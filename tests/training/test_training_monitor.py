"""Claims about what a record says beside the loss."""

import json
import math

import pytest
import torch

from sdtt.diffusion.denoiser import Head
from sdtt.training.monitor import ROWS, Monitor, agreement, ema_distance, mean_since
from sdtt.training.peak import Peak
from sdtt.training.pretrain import CausalTrainer, MDLMTrainer
from sdtt.training.stream import noise_of


def records(output):
    every = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [each for each in every if "loss" in each]


SINCE = {"seconds": 2.0, "tokens": 100, "processes": 4}


# ---------------------------------------------------------------- figures


def test_utilisation_is_the_needed_rate_over_that_of_all_devices():
    figures = Monitor().figures(**SINCE, flops=300.0, peak=Peak(400.0, "a test"))
    assert figures["mfu"] == 300 / 2 / (4 * 400)


def test_without_a_peak_rate_there_is_no_utilisation():
    figures = Monitor().figures(**SINCE, flops=1.0, peak=Peak(None, "unknown"))
    assert figures.keys() == {"tokens_per_second"}


def test_a_monitor_begins_anew_after_each_record():
    monitor, arguments = Monitor(), SINCE | {"flops": 1.0, "peak": Peak(1.0, "")}
    monitor.count(10)
    monitor.count(5)
    assert monitor.figures(**arguments)["masked_tokens_per_second"] == 15 * 4 / 2
    assert "masked_tokens_per_second" not in monitor.figures(**arguments)


# ---------------------------------------------------------------- agreement


def rows_with(likeliest, columns=6):
    """Hidden rows whose likeliest token, under the identity as head, is given."""
    return torch.eye(columns)[torch.tensor(likeliest)]


IDENTITY = Head(torch.eye(6))


def test_agreement_is_the_share_of_equal_likeliest_tokens():
    student, target = rows_with([0, 1, 2, 3]), rows_with([0, 1, 2, 4])
    assert agreement(student, IDENTITY, target, IDENTITY, (5,)).item() == 0.75


def test_an_excluded_token_is_never_the_likeliest():
    student, target = rows_with([5, 5]) + 0.1 * rows_with([1, 2]), rows_with([1, 2])
    assert agreement(student, IDENTITY, target, IDENTITY, (5,)).item() == 1.0


def test_each_side_is_projected_by_its_own_head():
    student, target = rows_with([0, 1, 2]), rows_with([1, 2, 3])
    shifted = Head(torch.eye(6).roll(1, 1))
    assert agreement(student, IDENTITY, target, shifted, ()).item() == 1.0


def test_agreement_of_many_positions_is_taken_from_all_parts_of_them():
    student = rows_with([0] * (10 * ROWS))
    target = rows_with([0] * (5 * ROWS) + [1] * (5 * ROWS))
    assert agreement(student, IDENTITY, target, IDENTITY, ()).item() == 0.5


def test_a_student_that_is_its_teacher_agrees_with_it(tmp_path, runs):
    settings = {"teacher_steps": 1, "rounds": 1, "steps_per_round": 1}
    runs.distiller(tmp_path, **settings).train()
    assert records(tmp_path)[0]["agreement"] == 1.0


def test_agreement_is_measured_once_a_record(tmp_path, runs):
    trainer = runs.distiller(
        tmp_path, logging_steps=2.0, gradient_accumulation_steps=2, steps_per_round=4
    )
    compared = []
    measure = trainer.monitor.compare
    trainer.monitor.compare = lambda *rows: (
        compared.append(trainer.state.global_step + 1),
        measure(*rows),
    )
    trainer.train()
    assert compared == [2, 4, 6, 8]
    assert all("agreement" in record for record in records(tmp_path))


# ---------------------------------------------------------------- EMA


def test_the_ema_distance_is_relative_to_the_weights():
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(5, 3, generator=generator) for name in "ab"}
    shadow = {name: torch.randn(5, 3, generator=generator) for name in "ab"}
    every = torch.cat([weights[name].flatten() for name in "ab"])
    apart = torch.cat([(shadow[name] - weights[name]).flatten() for name in "ab"])
    expected = (apart.norm() / every.norm()).item()
    assert ema_distance(shadow, weights) == pytest.approx(expected, rel=1e-6)


def test_a_record_holds_the_ema_distance_after_its_update(tmp_path, runs):
    trainer = runs.distiller(tmp_path, rounds=1, steps_per_round=3)
    trainer.train()
    expected = ema_distance(trainer.ema.shadow, dict(trainer.model.named_parameters()))
    assert records(tmp_path)[-1]["ema_distance"] == pytest.approx(expected, rel=1e-6)
    assert expected > 1e-3


# ---------------------------------------------------------------- records


def test_masked_tokens_are_counted_not_estimated(tmp_path, runs):
    runs.distiller(tmp_path, rounds=1, steps_per_round=2, gradient_accumulation_steps=2).train()
    for update, record in enumerate(records(tmp_path)):
        places = list(range(8 * update, 8 * update + 8))
        noise = noise_of(places, length=8, batch=8, seed=0, smallest_time=0.0)
        share = (noise.u < noise.t[:, None]).double().mean().item()
        ratio = record["masked_tokens_per_second"] / record["tokens_per_second"]
        assert ratio == pytest.approx(share)


@pytest.mark.parametrize("kind", [MDLMTrainer, CausalTrainer])
def test_pretraining_records_its_utilisation(tmp_path, runs, kind):
    model = runs.masked_model() if kind is MDLMTrainer else runs.causal_model()
    trainer = runs.pretrainer(kind, tmp_path, model, peak_tflops=1e-3)
    trainer.train()
    a_token = trainer.update_flops().total / (4 * 8)
    for record in records(tmp_path):
        assert record["mfu"] == pytest.approx(record["tokens_per_second"] * a_token / 1e9)


def test_a_distillation_records_the_utilisation_of_its_round(tmp_path, runs):
    trainer = runs.distiller(tmp_path, steps_per_round=2, peak_tflops=1e-3)
    first = trainer.update_flops().total
    trainer.train()
    second = trainer.update_flops().total
    assert abs(first / second - 1) > 0.01
    ratios = [record["mfu"] / record["tokens_per_second"] for record in records(tmp_path)]
    expected = [flops / (4 * 8) / 1e9 for flops in (first, first, second, second)]
    assert ratios == pytest.approx(expected)


def test_a_record_stands_at_the_end_of_each_round(tmp_path, runs):
    runs.distiller(tmp_path, steps_per_round=3, logging_steps=2.0).train()
    assert [record["step"] for record in records(tmp_path)] == [2, 3, 4, 6]


def test_no_record_is_forced_where_none_are_wanted(tmp_path, runs):
    runs.distiller(tmp_path, steps_per_round=2, logging_strategy="no").train()
    assert records(tmp_path) == []


def test_the_loss_of_a_round_is_the_mean_over_its_updates(tmp_path, runs):
    runs.distiller(tmp_path / "each", steps_per_round=3).train()
    runs.distiller(tmp_path / "few", steps_per_round=3, logging_steps=2.0).train()
    losses = [record["loss"] for record in records(tmp_path / "each")]
    by_round = [math.fsum(losses[:3]) / 3, math.fsum(losses[3:]) / 3]
    few = {record["step"]: record["round_loss"] for record in records(tmp_path / "few")}
    assert [few[3], few[6]] == pytest.approx(by_round, rel=1e-6)


def test_records_of_other_rounds_do_not_enter_the_loss_of_a_round():
    history = [{"step": 2, "round": 1, "loss": 9.0}, {"step": 3, "round": 2, "loss": 1.0}]
    history += [{"step": 3, "round": 2, "sample_entropy_4": 3.0}]
    now = {"step": 6, "round": 2, "loss": 5.0}
    assert mean_since(history, now) == (1.0 * 1 + 5.0 * 3) / 4


def test_seconds_go_on_when_a_run_is_taken_up(tmp_path, runs):
    settings = {"rounds": 1, "steps_per_round": 4, "save_steps": 2.0}
    crashing = runs.distiller(tmp_path, callbacks=(runs.CrashAfter(3),), **settings)
    with pytest.raises(runs.Crashed):
        crashing.train()
    before = {record["step"]: record["seconds"] for record in records(tmp_path)}
    runs.distiller(tmp_path, **settings).train(True)
    after = {record["step"]: record["seconds"] for record in records(tmp_path)}
    assert after[2] == before[2]
    assert after[2] < after[3] < after[4]
