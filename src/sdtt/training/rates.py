"""The learning rate of the rounds: factors over the schedule of the whole run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_utils import SchedulerType

from sdtt.training.rounds import RoundPlan

WITHOUT_LAW = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
"""Schedules that are no function of the update."""


@dataclass(frozen=True)
class RoundRates:
    """What the scheduled learning rate is multiplied by: a function of the plan and the update.

    rate(n) = schedule(n) * factor_r * min(1, (n - start_r) / warmup), with r the round of update n
    and start_r its first update. The first round has the warm-up of the schedule, so the last
    factor is only for later ones.

    Attributes:
        factors: One for each round; the first is 1.
        warmup: Updates of the linear warm-up of every later round; 0: none.
    """

    factors: tuple[float, ...]
    warmup: int = 0

    def at(self, plan: RoundPlan, step: int) -> float:
        """The factor of update ``step`` (from 0)."""
        index = plan.at(step).index
        if index == 0 or self.warmup == 0:
            return self.factors[index]
        return self.factors[index] * min(1.0, (step - plan.start_of(index)) / self.warmup)

    @property
    def change_nothing(self) -> bool:
        """Whether every factor is 1."""
        return set(self.factors) == {1.0} and not self.warmup


def round_rates(
    plan: RoundPlan, rates: Sequence[float] | None, factor: float, warmup: int
) -> RoundRates:
    """The factors from a list of rates, or from what each round multiplies the rate by.

    Args:
        plan: The rounds.
        rates: The learning rate of each round, after the warm-up; None: by ``factor``.
        factor: The rate of a round over that of the one before.
        warmup: Updates of warm-up at the beginning of each round; 0: of the first only.

    Raises:
        ValueError: If both are given, one is not above 0, the list has not one rate for each round,
            or a round is shorter than its warm-up.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"round_lr_factor must be above 0, got {factor}; 1 keeps the rate")
    if warmup and warmup >= min(plan.lengths):
        raise ValueError(
            f"warmup_each_round: a round of {min(plan.lengths)} updates is no longer than its "
            f"warm-up of {warmup}; lower warmup_steps"
        )
    if rates is None:
        return RoundRates(tuple(factor**index for index in range(plan.rounds)), warmup)
    if factor != 1:
        raise ValueError("round_learning_rates and round_lr_factor exclude each other: give one")
    if len(rates) != plan.rounds:
        raise ValueError(
            f"round_learning_rates has {len(rates)} numbers for {plan.rounds} rounds; "
            "give one for each round"
        )
    if not all(0 < rate < math.inf for rate in rates):
        raise ValueError(f"round_learning_rates must be above 0, got {min(rates)}")
    return RoundRates(tuple(rate / rates[0] for rate in rates), warmup)


def check_schedule(
    kind: SchedulerType | str, given: Mapping[str, Any] | None, warmup: int, updates: int
) -> None:
    """Refuses a schedule of warm-up, constant rate and decay that ends before the plan does.

    After its end the rate would be 0 to the last update.

    Args:
        kind: The law of the learning rate.
        given: What the law was told beyond the warm-up.
        warmup: Updates of the warm-up.
        updates: Updates of the plan.

    Raises:
        ValueError: If it is too short, or has no room for its decay.
    """
    if kind != SchedulerType.WARMUP_STABLE_DECAY:
        return
    given = given or {}
    if "num_decay_steps" not in given:
        raise ValueError(
            "lr_scheduler_type=warmup_stable_decay needs to know its decay: give "
            """lr_scheduler_kwargs='{"num_decay_steps": 1000, "decay_type": "linear"}'"""
        )
    decay, stable = int(given["num_decay_steps"]), given.get("num_stable_steps")
    if stable is None and warmup + decay > updates:
        raise ValueError(
            f"a warm-up of {warmup} and a decay of {decay} updates are more than the {updates} of "
            "the plan; lower warmup_steps or num_decay_steps"
        )
    if stable is not None and warmup + int(stable) + decay < updates:
        raise ValueError(
            f"the plan has {updates} updates, but its learning rate ends after "
            f"{warmup + int(stable) + decay} (warm-up {warmup}, constant {stable}, decay {decay}); "
            "leave num_stable_steps out, or plan fewer updates"
        )


def follow_rounds(scheduler: LambdaLR, factor: Callable[[int], float]) -> None:
    """Makes a schedule of the whole run one of rounds: its law times ``factor(update)``.

    Args:
        scheduler: A new schedule, whose first rate is already set: ``factor(0)`` is 1.
        factor: A function of the update, from 0; it is asked again in every update.
    """

    def times(law: Callable[[int], float]) -> Callable[[int], float]:
        return lambda step: law(step) * factor(step)

    scheduler.lr_lambdas = [times(law) for law in scheduler.lr_lambdas]


def set_rates(scheduler: LambdaLR) -> None:
    """Computes the rates of the coming update anew: a round has ended since they were set."""
    step = scheduler.last_epoch
    pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    scheduler._last_lr = [base * law(step) for base, law in pairs]
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
        group["lr"] = rate
