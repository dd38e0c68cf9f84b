"""A few updates on this machine, timed: what a run's hours are estimated from."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from sdtt.diffusion.uniforms import uniforms
from sdtt.training.trainer import StreamTrainer

PROBE_SECONDS = 120.0
"""A probe ends after so long, once it has made two updates."""

FOR_PROBE: dict[str, Any] = {
    "gradient_accumulation_steps": 1,
    "global_batch_size": None,
    "push_to_hub": False,
    "sample_every": 0,
    "sample_steps": (),
    "judge": None,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
}
"""How a probe differs from its run: one micro-batch an update, and nothing is written."""


@dataclass(frozen=True)
class Probe:
    """What some updates on this machine took.

    Attributes:
        updates: That were timed.
        seconds_per_update: Of the run: its micro-batches and one optimiser step.
        flops_per_second: Operations that the mathematics needs, over all devices.
        mfu: That over the peak rate of the devices; None where it is not known.
        peak_bytes: The most that an accelerator held; None on a CPU.
    """

    updates: int
    seconds_per_update: float
    flops_per_second: float
    mfu: float | None
    peak_bytes: int | None


def random_texts(model: Any, count: int, seed: int = 0) -> Int[Tensor, "B L"]:
    """Texts of random ids, MASK not among them: they train as slowly as any."""
    size, length = model.config.vocab_size, model.config.max_position_embeddings
    ids = (uniforms(seed, "probe", range(count), length) * (size - 1)).long()
    return ids + (ids >= model.config.mask_token_id)


class _Stopwatch(TrainerCallback):
    """Times the micro-batch and the optimiser of each update, and stops a probe."""

    def __init__(self, updates: int, device: torch.device) -> None:
        self.updates, self.device = updates, device
        self.micro: list[float] = []
        self.optimiser: list[float] = []

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.begun = self.last = self._now()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        now = self._now()
        self.micro.append(now - self.last)
        self.last = now

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,
        **_: Any,
    ) -> None:
        now = self._now()
        self.optimiser.append(now - self.last)
        self.last = now
        done = len(self.micro)
        late = now - self.begun > PROBE_SECONDS and done >= 2
        control.should_training_stop |= done >= self.updates or late


def probe(make_trainer: Callable[[], StreamTrainer], *, updates: int, accumulation: int) -> Probe:
    """Makes some updates and times them: the median, without the first where there are more.

    Args:
        make_trainer: Gives the run's trainer with the settings ``FOR_PROBE``; its output folder is
            thrown away.
        updates: How many at most; a round is not left, and after ``PROBE_SECONDS`` two are enough.
        accumulation: Micro-batches of an update of the run.
    """
    trainer = make_trainer()
    trainer.remove_callback(PrinterCallback)
    within = 1
    while within < updates and not trainer.ends_round(within + 1):
        within += 1
    device: torch.device = trainer.args.device
    stopwatch = _Stopwatch(min(within, trainer.args.max_steps), device)
    trainer.add_callback(stopwatch)
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats()
    trainer.train()
    first = 1 if len(stopwatch.micro) > 1 else 0
    micro, optimiser = median(stopwatch.micro[first:]), median(stopwatch.optimiser[first:])
    seconds = accumulation * micro + optimiser
    # of whole texts; padding is not needed
    real = trainer.mean_tokens_per_update / (trainer.stream.batch * trainer.stream.length)
    rate = accumulation * trainer.update_flops().total * real / seconds
    peak = trainer.peak.flops_per_second
    return Probe(
        updates=len(stopwatch.micro) - first,
        seconds_per_update=seconds,
        flops_per_second=rate,
        mfu=None if peak is None else rate / (peak * trainer.args.world_size),
        peak_bytes=None if device.type == "cpu" else torch.accelerator.max_memory_allocated(),
    )
