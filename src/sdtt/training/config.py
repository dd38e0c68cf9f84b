"""The settings that all our Trainers share, over transformers' ``TrainingArguments``."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from transformers import TrainingArguments
from transformers.utils import logging

from sdtt.diffusion.noise import SCHEDULES
from sdtt.models.placement import accelerator
from sdtt.models.precision import multiplies
from sdtt.training.peak import Peak, peak_rate, precision_of
from sdtt.training.settings import (
    check_faults,
)

SamplerWithSteps = Literal["dilated", "ancestral", "confidence", "analytic"]

logger = logging.get_logger(__name__)


@dataclass
class StreamConfig(TrainingArguments):
    """What pretraining and distillation share, over transformers' ``TrainingArguments``."""

    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "texts a process takes through the network at once"}
    )
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "micro-batches summed into one update; changes no result"}
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "texts of an update over all processes; the accumulation follows"},
    )
    learning_rate: float = field(default=6e-5, metadata={"help": "AdamW's, after the warm-up"})
    warmup_steps: float = field(
        default=500, metadata={"help": "updates of linear warm-up (below 1: a share of all)"}
    )
    schedule: str = field(
        default="log_linear", metadata={"help": "alpha(t) of the noise: log_linear or cosine"}
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "moving average of the weights, per update; 0: none"}
    )
    ema_device: Literal["same", "cpu"] = field(
        default="same",
        metadata={"help": "where the moving average lies: beside the weights, or in host memory"},
    )
    loss_dtype: str = field(
        default="float32",
        metadata={"help": "scores and loss are computed in it: float32, float64 or bfloat16"},
    )
    variable_length: float = field(
        default=0.0,
        metadata={"help": "share of the texts cut to a random length in 1..L; 0.01 in LLaDA"},
    )
    attn_implementation: str = field(
        default="sdpa",
        metadata={"help": "sdpa, or eager: written out, faster on a CPU at L <= 128"},
    )
    gather_dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={"help": "FSDP2: blocks travel in it; bfloat16 (with bf16) rounds their norms"},
    )
    bf16: bool = field(
        default=False,
        metadata={"help": "autocast the networks, and the operands of the head, to bfloat16"},
    )
    seed: int = field(default=0, metadata={"help": "of data order, noise and dropout"})
    logging_steps: float = field(default=50, metadata={"help": "updates between two records"})
    save_steps: float = field(default=500, metadata={"help": "updates between two checkpoints"})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "checkpoints kept; older ones are deleted"}
    )
    on_nonfinite: Literal["stop", "skip"] = field(
        default="stop",
        metadata={
            "help": "an update whose loss or gradient is not finite stops the run, or is left out"
        },
    )
    max_skipped: int = field(
        default=10, metadata={"help": "updates in a row that on_nonfinite=skip leaves out"}
    )
    override_on_resume: list[str] | None = field(
        default=None, metadata={"help": "settings that may differ from those of a resumed run"}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "never: a loss that is not finite is to be seen"}
    )
    sample_every: int = field(
        default=0, metadata={"help": "updates between two looks at samples; 0: none"}
    )
    sample_count: int = field(
        default=8, metadata={"help": "samples of a look, at each number of steps"}
    )
    sample_steps: tuple[int, ...] = field(
        default=(),
        metadata={
            "help": "sampling steps of a look; by default the student's own, a quarter and 4 times"
        },
    )
    sample_sampler: SamplerWithSteps = field(
        default="dilated", metadata={"help": "sampler of a look"}
    )
    judge: str | None = field(
        default=None,
        metadata={"help": "causal language model that scores the looks: folder or hub name"},
    )
    peak_tflops: float | None = field(
        default=None,
        metadata={"help": "peak rate of a device in TFLOP/s, for MFU; looked up or measured"},
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.bf16 and not self.use_cpu and accelerator() is None:
            raise ValueError("bf16 on a machine without an accelerator needs use_cpu (--use-cpu)")
        super().__post_init__()  # type: ignore[no-untyped-call]
        self._tell_of_emulation()
        check_faults(self)
        for name in ("save_only_model", "ignore_data_skip", "auto_find_batch_size"):
            if getattr(self, name):
                raise ValueError(f"{name} cannot be set: a resumed run would not go on as it was")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"unknown schedule {self.schedule!r}; there are {', '.join(SCHEDULES)}"
            )
        if self.loss_dtype not in ("float32", "float64", "bfloat16"):
            raise ValueError(
                f"loss_dtype must be float32, float64 or bfloat16, got {self.loss_dtype!r}"
            )
        if self.gather_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"gather_dtype must be 'float32' or 'bfloat16', got {self.gather_dtype!r}"
            )
        if self.gather_dtype == "bfloat16" and self.mixed_precision != "bf16":
            raise ValueError("gather_dtype='bfloat16' needs bf16: products must be of its kind")
        if self.ema_decay and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if not 0 <= self.variable_length <= 1:
            raise ValueError(f"variable_length must lie in [0, 1], got {self.variable_length}")
        self._check_looks()

    def _tell_of_emulation(self) -> None:
        """Says, before anything is read, that a half precision would be slow here."""
        asked = {
            "bf16": self.bf16,
            "teacher_dtype": getattr(self, "teacher_dtype", "") == "bfloat16",
        }
        given = [name for name, is_given in asked.items() if is_given]
        if given and not multiplies(torch.bfloat16, self.device):
            logger.warning_once(
                f"{' and '.join(given)}: this processor has no products of bfloat16, and torch "
                "emulates them many times slower than float32; leave it out (--no-bf16, "
                "--teacher-dtype same), in a run that has begun with --override-on-resume bf16"
            )

    def _check_looks(self) -> None:
        if self.sample_every < 0:
            raise ValueError(f"sample_every must be at least 0, got {self.sample_every}")
        for name, value in (("judge", self.judge), ("sample_steps", self.sample_steps)):
            if value and not self.sample_every:
                raise ValueError(f"{name} says how samples are looked at: set sample_every too")
        if self.sample_sampler not in get_args(SamplerWithSteps):
            raise ValueError(
                f"sample_sampler must be one of {', '.join(get_args(SamplerWithSteps))}, "
                f"got {self.sample_sampler!r}"
            )
        if self.sample_count < 1:
            raise ValueError(f"sample_count must be at least 1, got {self.sample_count}")
        wrong = [steps for steps in self.sample_steps if steps < 1]
        if wrong:
            raise ValueError(f"sample_steps must be at least 1, got {wrong[0]}")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise ValueError(f"peak_tflops must be above 0, got {self.peak_tflops:g}")

    @property
    def texts_per_update(self) -> int:
        """Texts in the whole of an update, over all its micro-batches and processes."""
        if self.global_batch_size is not None:
            return self.global_batch_size
        micro_batch: int = self.per_device_train_batch_size
        return micro_batch * self.world_size * self.gradient_accumulation_steps


def gpu_precision(args: StreamConfig) -> str:
    """What the products of the networks would be rounded to on a GPU, for ``peak_rate``."""
    return precision_of(bf16=args.bf16, fp16=args.fp16, device=torch.device("cuda"))


def peak_of(args: StreamConfig) -> Peak:
    """How fast the device of a process could multiply, in the precision of the networks."""
    precision = precision_of(bf16=args.bf16, fp16=args.fp16, device=args.device)
    return peak_rate(args.device, precision, args.peak_tflops)
