"""The settings of a distillation: its divergence, rounds, teacher and learning rates."""

import math
from dataclasses import dataclass, field
from typing import Literal

from transformers.trainer_utils import SchedulerType

from sdtt.diffusion.divergence import DIVERGENCES
from sdtt.diffusion.noise import TIME_GRIDS
from sdtt.training.config import StreamConfig
from sdtt.training.early_stop import check_early_stop
from sdtt.training.rates import (
    WITHOUT_LAW,
    RoundRates,
    check_schedule,
    round_rates,
)
from sdtt.training.rounds import RoundPlan
from sdtt.training.teacher import (
    DTYPES,
)


@dataclass
class SDTTConfig(StreamConfig):
    """How a student is distilled; the defaults are the paper's, but for dropout."""

    divergence: str = field(
        default="reverse_kl",
        metadata={"help": "of student and target: reverse_kl, forward_kl, jsd, tvd or mse"},
    )
    jsd_beta: float = field(
        default=0.5,
        metadata={"help": "beta of divergence=jsd, the generalised Jensen-Shannon, in (0, 1)"},
    )
    divergence_temperature: float = field(
        default=1.0, metadata={"help": "temperature of both laws in the divergence"}
    )
    time_grid: str = field(
        default="paper",
        metadata={"help": "times of the teacher's steps: paper, or released, the published code's"},
    )
    noise_order: Literal["random", "dilated"] = field(
        default="random",
        metadata={
            "help": "masks that the student meets: the process's, or those of a dilated order of "
            "its own number of steps, which its teacher refines"
        },
    )
    ladder: list[int] | None = field(
        default=None,
        metadata={
            "help": "sampling steps of the first teacher and of each student, such as "
            "1024,256,64,16, in place of rounds, start_steps and teacher_steps"
        },
    )
    rounds: int = field(default=5, metadata={"help": "rounds; each makes the teacher step k-fold"})
    steps_per_round: int | list[int] = field(
        default=10_000, metadata={"help": "updates in each round: one number, or one for each"}
    )
    teacher_steps: int = field(
        default=2, metadata={"help": "k: teacher steps that one student step replaces"}
    )
    start_steps: int = field(
        default=1024, metadata={"help": "sampling steps of the first teacher: 1 / dt"}
    )
    teacher_from: Literal["raw", "ema"] = field(
        default="raw", metadata={"help": "the next teacher: the student's raw weights or their EMA"}
    )
    teacher_dtype: Literal["same", "float32", "bfloat16", "float16"] = field(
        default="same",
        metadata={"help": "the teacher's weights and passes; same: the weights' own, autocast"},
    )
    pack_teacher: bool = field(
        default=False,
        metadata={"help": "fold the teacher, lay its weights out for a CPU; holds them once more"},
    )
    merge_lora: bool = field(
        default=True, metadata={"help": "save a LoRA student as a full model beside its adapter"}
    )
    reset_optimizer: bool = field(
        default=False, metadata={"help": "forget the optimiser's moments at each round"}
    )
    reset_ema: bool = field(
        default=False, metadata={"help": "start the EMA from the student's weights at each round"}
    )
    round_learning_rates: list[float] | None = field(
        default=None,
        metadata={"help": "learning rate of each round, in place of learning_rate"},
    )
    round_lr_factor: float = field(
        default=1.0, metadata={"help": "learning rate of a round over that of the one before"}
    )
    warmup_each_round: bool = field(
        default=False, metadata={"help": "warm up in every round; fits reset_optimizer"}
    )
    early_stop_interval: int = field(
        default=0,
        metadata={"help": "updates between two measurements of the held-out divergence; 0: none"},
    )
    early_stop_patience: int = field(
        default=3, metadata={"help": "measurements without a fall that end a round early"}
    )
    early_stop_min_delta: float = field(
        default=0.0, metadata={"help": "the least fall that counts, in nats a masked position"}
    )
    early_stop_texts: int = field(
        default=128, metadata={"help": "held-out texts that a measurement takes at most"}
    )
    teacher_sharding: Literal["replicated", "sharded"] = field(
        default="replicated",
        metadata={"help": "under FSDP2: a whole teacher in every process, or in parts as well"},
    )
    student_dropout: float = field(
        default=0.0, metadata={"help": "dropout of the student; 0.1 in the published code"}
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="constant_with_warmup", metadata={"help": "law of the learning rate"}
    )
    ema_decay: float = field(
        default=0.9999, metadata={"help": "moving average of the weights, per update; 0: none"}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be; the number of updates follows from the rounds."""
        if not 0 <= self.student_dropout < 1:
            raise ValueError(f"student_dropout must lie in [0, 1), got {self.student_dropout}")
        self._check_teacher()
        self._check_divergence()
        self._check_rounds()
        self.max_steps = self.plan.updates
        super().__post_init__()
        rates = self.rates
        if self.round_learning_rates is not None:
            first = self.round_learning_rates[0]
            if self.learning_rate not in (
                first,
                SDTTConfig.__dataclass_fields__["learning_rate"].default,
            ):
                raise ValueError(
                    f"learning_rate={self.learning_rate} and round_learning_rates say two things; "
                    "leave learning_rate out"
                )
            self.learning_rate = first
        check_schedule(
            self.lr_scheduler_type,
            self.lr_scheduler_kwargs if isinstance(self.lr_scheduler_kwargs, dict) else None,
            self.get_warmup_steps(self.max_steps),
            self.max_steps,
        )
        if self.lr_scheduler_type in WITHOUT_LAW and not rates.change_nothing:
            raise ValueError(
                f"lr_scheduler_type={SchedulerType(self.lr_scheduler_type).value} is no function "
                "of the update, so rounds cannot change its rate; choose another"
            )

    def _check_teacher(self) -> None:
        if self.teacher_from not in ("raw", "ema"):
            raise ValueError(f"teacher_from must be 'raw' or 'ema', got {self.teacher_from!r}")
        if self.teacher_from == "ema" and not self.ema_decay:
            raise ValueError("teacher_from='ema' needs an EMA; set ema_decay, such as 0.9999")
        if self.teacher_dtype not in DTYPES:
            raise ValueError(
                f"teacher_dtype must be one of {', '.join(DTYPES)}, got {self.teacher_dtype!r}"
            )
        if self.pack_teacher and self.teacher_dtype == "same" and (self.bf16 or self.fp16):
            raise ValueError(
                "pack_teacher needs a teacher_dtype, such as bfloat16: packed weights are not "
                "autocast"
            )
        if self.teacher_sharding not in ("replicated", "sharded"):
            raise ValueError(
                f"teacher_sharding must be 'replicated' or 'sharded', got {self.teacher_sharding!r}"
            )
        if self.pack_teacher and self.teacher_sharding == "sharded":
            raise ValueError(
                "pack_teacher needs a whole teacher: use teacher_sharding='replicated', or leave "
                "pack_teacher out"
            )

    def _check_divergence(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise ValueError(
                f"unknown divergence {self.divergence!r}; there are {', '.join(DIVERGENCES)}"
            )
        if not 0 < self.jsd_beta < 1:
            raise ValueError(
                f"jsd_beta must lie in (0, 1), got {self.jsd_beta}; the limits are "
                "divergence=forward_kl and reverse_kl"
            )
        if self.jsd_beta != 0.5 and self.divergence != "jsd":
            raise ValueError(
                f"jsd_beta={self.jsd_beta} goes with divergence=jsd, got {self.divergence!r}"
            )
        if not 0 < self.divergence_temperature < math.inf:
            raise ValueError(
                f"divergence_temperature must be above 0, got {self.divergence_temperature}; "
                "1 changes nothing"
            )
        if self.time_grid not in TIME_GRIDS:
            raise ValueError(
                f"unknown time_grid {self.time_grid!r}; there are {', '.join(TIME_GRIDS)}"
            )
        if self.noise_order not in ("random", "dilated"):
            raise ValueError(f"noise_order must be 'random' or 'dilated', got {self.noise_order!r}")
        if self.noise_order == "dilated" and self.time_grid != "paper":
            raise ValueError(
                f"noise_order='dilated' has times of its own: leave out time_grid={self.time_grid}"
            )

    def _check_rounds(self) -> None:
        """The ladder decides where it is given; what contradicts it, or the plan, is refused."""
        plan = self.plan
        if self.ladder is not None:
            for name in ("rounds", "start_steps", "teacher_steps"):
                given, default = getattr(self, name), SDTTConfig.__dataclass_fields__[name].default
                agrees = name == "teacher_steps" and set(plan.factors) == {given}
                if not agrees and given not in (default, getattr(plan, name)):
                    raise ValueError(
                        f"ladder={','.join(map(str, self.ladder))} and {name}={given} say two "
                        f"things; leave {name} out, or the ladder"
                    )
            self.rounds, self.start_steps = plan.rounds, plan.start_steps
        if self.max_steps not in (-1, plan.updates):
            raise ValueError(
                f"max_steps={self.max_steps} contradicts the plan, whose {plan.rounds} rounds have "
                f"{plan.updates} updates; leave max_steps out, or change steps_per_round"
            )
        check_early_stop(
            self.early_stop_interval,
            self.early_stop_patience,
            self.early_stop_min_delta,
            self.early_stop_texts,
            max(plan.lengths),
        )

    @property
    def plan(self) -> RoundPlan:
        """The rounds, none of which has ended yet."""
        if self.ladder is not None:
            return RoundPlan.of_ladder(self.ladder, self.steps_per_round)
        return RoundPlan(self.rounds, self.steps_per_round, self.start_steps, self.teacher_steps)

    @property
    def rates(self) -> RoundRates:
        """What the rounds make of the learning rate."""
        warmup = self.get_warmup_steps(self.plan.updates) if self.warmup_each_round else 0
        return round_rates(self.plan, self.round_learning_rates, self.round_lr_factor, warmup)
