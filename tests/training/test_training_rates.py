import json
import warnings

import pytest

from sdtt.training.distill import SDTTTrainer
from sdtt.training.rates import RoundRates, round_rates
from sdtt.training.rounds import RoundPlan
from sdtt.training.sdtt_config import SDTTConfig

PLAN = RoundPlan(3, 4, 8, 2)


def factors(rates, plan=PLAN):
    return [rates.at(plan, step) for step in range(plan.updates)]


def rates_of(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [r["learning_rate"] for r in map(json.loads, lines) if "learning_rate" in r]


# The law


def test_a_factor_a_round_multiplies_from_round_to_round():
    rates = round_rates(PLAN, None, 0.5, 0)
    assert factors(rates) == [1.0] * 4 + [0.5] * 4 + [0.25] * 4


def test_rates_of_rounds_are_factors_over_the_first_of_them():
    rates = round_rates(PLAN, [2e-4, 1e-4, 4e-4], 1.0, 0)
    assert rates.factors == pytest.approx((1.0, 0.5, 2.0))


def test_a_later_round_warms_up_from_zero_and_the_first_leaves_it_to_the_schedule():
    assert factors(RoundRates((1.0, 1.0, 0.5), 2)) == [1, 1, 1, 1, 0, 0.5, 1, 1, 0, 0.25, 0.5, 0.5]


def test_a_warm_up_begins_where_the_round_before_has_ended_early():
    plan = PLAN.ended(2)
    assert [RoundRates((1.0, 1.0, 1.0), 2).at(plan, step) for step in range(5)] == [1, 1, 0, 0.5, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 0.0, 0), "round_lr_factor must be above 0, got 0.0"),
        ((None, float("nan"), 0), "round_lr_factor must be above 0"),
        (([1e-3], 1.0, 0), "round_learning_rates has 1 numbers for 3 rounds"),
        (([1e-3, 0.0, 1e-3], 1.0, 0), "round_learning_rates must be above 0, got 0.0"),
        (([1e-3] * 3, 0.5, 0), "exclude each other"),
        ((None, 1.0, 4), "a round of 4 updates is no longer than its warm-up of 4"),
    ],
)
def test_rates_that_cannot_be_are_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        round_rates(PLAN, *arguments)


# In training


def test_each_round_trains_at_its_own_rate_behind_the_warm_up(tmp_path, runs):
    settings = {"steps_per_round": 3, "warmup_steps": 2.0, "round_learning_rates": [1e-2, 4e-3]}
    runs.distiller(tmp_path, **settings).train()
    assert rates_of(tmp_path) == pytest.approx([0, 5e-3, 1e-2, 4e-3, 4e-3, 4e-3])


def test_the_warm_up_is_repeated_where_it_is_asked_for(tmp_path, runs):
    settings = {"steps_per_round": 4, "warmup_steps": 2.0, "round_lr_factor": 0.5}
    settings |= {"warmup_each_round": True, "reset_optimizer": True, "learning_rate": 1e-2}
    runs.distiller(tmp_path, **settings).train()
    expected = [0, 5e-3, 1e-2, 1e-2, 0, 2.5e-3, 5e-3, 5e-3]
    assert rates_of(tmp_path) == pytest.approx(expected)


def test_the_rates_of_rounds_lie_over_a_schedule_that_falls(tmp_path, runs):
    settings = {"steps_per_round": 2, "lr_scheduler_type": "linear", "round_lr_factor": 0.5}
    runs.distiller(tmp_path, **settings, learning_rate=1.0, optim="sgd", max_grad_norm=1e-9).train()
    assert rates_of(tmp_path) == pytest.approx([1, 0.75, 0.25, 0.125])


@pytest.mark.parametrize("saved", [3, 4])
def test_a_run_with_rates_of_rounds_taken_up_again_ends_as_one_never_stopped(tmp_path, runs, saved):
    settings = {"steps_per_round": 3, "warmup_steps": 2.0, "round_lr_factor": 0.3}
    settings |= {"warmup_each_round": True, "reset_optimizer": True, "reset_ema": True}
    runs.distiller(tmp_path / "whole", **settings).train()
    settings |= {"save_steps": float(saved)}
    with pytest.raises(runs.Crashed):
        runs.distiller(
            tmp_path / "cut", callbacks=(runs.CrashAfter(saved + 1),), **settings
        ).train()
    runs.distiller(tmp_path / "cut", runs.masked_model(1), **settings).train(True)
    whole, cut = (runs.contents(tmp_path / name / "checkpoint-6") for name in ("whole", "cut"))
    assert runs.differences(whole, cut) == []
    assert rates_of(tmp_path / "cut") == rates_of(tmp_path / "whole")


def test_without_rates_of_rounds_the_schedule_is_the_one_of_transformers(tmp_path, runs):
    trainer = runs.distiller(tmp_path)
    trainer.create_optimizer()
    laws = trainer.create_scheduler(10).lr_lambdas
    assert trainer.rates.change_nothing
    assert {law.func.__module__ for law in laws} == {"transformers.optimization"}


# Schedules that are too short, or no functions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scheduler_kwargs": None}, "needs to know its decay"),
        (
            {"lr_scheduler_kwargs": {"num_decay_steps": 3, "num_stable_steps": 2}},
            r"plan has 10 updates, but its learning rate ends after 5",
        ),
        ({"lr_scheduler_kwargs": {"num_decay_steps": 11}}, "more than the 10 of the plan"),
    ],
)
def test_a_schedule_shorter_than_the_plan_is_refused(tmp_path, settings, message):
    kind = {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 0.0}
    with pytest.raises(ValueError, match=message):
        SDTTConfig(str(tmp_path), use_cpu=True, rounds=2, steps_per_round=5, **kind | settings)


def test_a_schedule_that_follows_the_loss_takes_no_rates_of_rounds(tmp_path):
    settings = {"lr_scheduler_type": "greedy", "eval_strategy": "steps", "round_lr_factor": 0.5}
    with pytest.raises(ValueError, match="greedy is no function of the update"):
        SDTTConfig(str(tmp_path), use_cpu=True, **settings)


def test_a_schedule_given_from_outside_takes_no_rates_of_rounds(tmp_path, runs):
    other = runs.distiller(tmp_path / "other")
    other.create_optimizer_and_scheduler(10)
    args = SDTTConfig(str(tmp_path), use_cpu=True, round_lr_factor=0.5)
    given = {"train_dataset": runs.texts(), "optimizers": (other.optimizer, other.lr_scheduler)}
    with pytest.raises(ValueError, match="no scheduler in optimizers"):
        SDTTTrainer(runs.masked_model(), args=args, **given)


def test_rates_of_rounds_warn_of_nothing(tmp_path, runs):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        settings = {"steps_per_round": 2, "rounds": 1, "start_steps": 2, "round_lr_factor": 0.5}
        runs.distiller(tmp_path, **settings).train()
