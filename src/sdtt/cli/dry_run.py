"""`--dry-run` of the training verbs: what a run will ask for, before it is begun."""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from sdtt.cli.console import duration, is_first_process, note
from sdtt.cli.options import Given
from sdtt.cli.plan_tables import print_plan
from sdtt.cli.train import QUIET
from sdtt.models.mdlm import PRESETS, preset
from sdtt.training.config import gpu_precision
from sdtt.training.estimate import Estimate
from sdtt.training.gpu_hours import ASSUMED_MFU, USUAL_GPUS, hours_on
from sdtt.training.probe import FOR_PROBE, PROBE_SECONDS, probe
from sdtt.training.trainer import StreamTrainer

PROBE_UPDATES = 20


KNOWN_SHAPES = {"kuleshov-group/mdlm-owt": "small"}
"""Presets of models on the hub, which are planned with without a network."""


@dataclass(frozen=True)
class DryRun:
    """Whether the run is only planned, and what its hours are estimated from."""

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "print rounds, tokens, FLOPs, memory and hours; train and write nothing",
            "flag_only": True,
        },
    )
    probe_updates: int | None = field(
        default=None,
        metadata={
            "help": f"updates that --dry-run times on random ids; {PROBE_UPDATES}, 0: none",
            "flag_only": True,
        },
    )
    assumed_mfu: float | None = field(
        default=None,
        metadata={
            "help": "hours of --dry-run by this share of the peak rate instead of a probe",
            "flag_only": True,
        },
    )
    gpus: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "hours of --dry-run on these GPUs, such as H100,A100, by their data sheets "
            f"and --assumed-mfu ({ASSUMED_MFU}), instead of a probe",
            "flag_only": True,
        },
    )
    json: bool = field(
        default=False,
        metadata={"help": "--dry-run prints one JSON object", "flag_only": True},
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not self.dry_run:
            given = [("--probe-updates", self.probe_updates is not None)]
            given += [("--assumed-mfu", self.assumed_mfu is not None), ("--json", self.json)]
            given += [("--gpus", bool(self.gpus))]
            alone = [flag for flag, is_given in given if is_given]
            if alone:
                raise ValueError(f"{alone[0]} is for --dry-run: give that too, or leave it out")
        if self.probe_updates is not None and self.probe_updates < 0:
            raise ValueError(f"probe_updates must be at least 0, got {self.probe_updates}")
        if self.assumed_mfu is not None and not 0 < self.assumed_mfu <= 1:
            raise ValueError(f"assumed_mfu must lie in (0, 1], got {self.assumed_mfu:g}")
        if self.assumed_mfu is not None and self.probe_updates:
            raise ValueError("--assumed-mfu takes the place of a probe: leave one of them out")

    @property
    def updates(self) -> int:
        """Of the probe."""
        if self.probe_updates is not None:
            return self.probe_updates
        return 0 if self.assumed_mfu is not None or self.gpus else PROBE_UPDATES

    def of(self, training: Given[Any]) -> Given[Any]:
        """The options; of a dry run without an accelerator those of a run on the CPU.

        So a run of a GPU, in bfloat16, is planned on any machine.
        """
        if not self.dry_run or torch.accelerator.is_available():
            return training
        return dataclasses.replace(training, values={**training.values, "use_cpu": True})

    def show(
        self,
        title: str,
        estimate: Estimate,
        training: Given[Any],
        make_trainer: Callable[[Any], StreamTrainer],
    ) -> None:
        """Probes if that is asked for, and prints on stdout.

        Args:
            title: What is trained.
            estimate: Without hours.
            training: The config as it was given.
            make_trainer: The trainer of a config, on random texts; asked only where there is a
                probe.
        """
        run, gpus = training.make(**QUIET), self.gpus
        accumulation = run.texts_per_update // (run.per_device_train_batch_size * run.world_size)
        patience = _least_seconds(estimate, accumulation)
        if self.assumed_mfu is not None and not self.gpus:
            estimate = estimate.assuming(self.assumed_mfu)
        elif self.updates and self.probe_updates is None and patience > PROBE_SECONDS:
            basis = (
                f"nothing: a probe of this machine would take {duration(patience)} at least "
                "(--probe-updates 2 makes one)"
            )
            estimate, gpus = dataclasses.replace(estimate, basis=basis), USUAL_GPUS
        elif self.updates:
            note(f"probing this machine: {self.updates} updates at most")
            found = _probe(self.updates, accumulation, training, make_trainer)
            estimate = estimate.probed(found)
        hours = hours_on(
            gpus,
            estimate.flops,
            gpu_precision(run),
            mfu=self.assumed_mfu or ASSUMED_MFU,
            devices=estimate.devices,
        )
        estimate = dataclasses.replace(estimate, gpus=hours)
        if not is_first_process():
            return
        if self.json:
            print(json.dumps(_record(estimate)))
        else:
            print_plan(title, estimate)


def _least_seconds(estimate: Estimate, accumulation: int) -> float:
    """What two updates of a probe, each of one micro-batch, take at the peak rate; 0 if unknown."""
    rate = estimate.peak.flops_per_second
    micro_batch = estimate.flops / max(estimate.updates, 1) / accumulation / estimate.devices
    return 0.0 if rate is None else 2 * micro_batch / rate


def _probe(
    updates: int,
    accumulation: int,
    training: Given[Any],
    make_trainer: Callable[[Any], StreamTrainer],
) -> Any:
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="sdtt-probe-") as folder:
        args = training.make(**QUIET | FOR_PROBE | {"output_dir": folder})
        return probe(lambda: make_trainer(args), updates=updates, accumulation=accumulation)


def _record(estimate: Estimate) -> dict[str, Any]:
    """The estimate, with its sums."""
    sums = {name: getattr(estimate, name) for name in ("updates", "tokens", "flops", "hours")}
    record = dataclasses.asdict(estimate) | sums
    record["memory"]["total"] = estimate.memory.total
    return record


@dataclass(frozen=True)
class DistillDryRun(DryRun):
    """A plan of a distillation, also of a model that is not at hand."""

    shape: str | None = field(
        default=None,
        metadata={
            "help": f"preset that --dry-run plans with in place of --model: {', '.join(PRESETS)}; "
            f"{', '.join(f'{s} for {n}' for n, s in KNOWN_SHAPES.items())}",
            "flag_only": True,
        },
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        super().__post_init__()
        if self.shape is not None:
            preset(self.shape)
            if not self.dry_run:
                raise ValueError("--shape is for --dry-run: give that too, or leave it out")

    def stand_in(self, source: str | Path) -> str | None:
        """The preset that stands for the model; None where the model itself is read."""
        return self.shape or (KNOWN_SHAPES.get(source) if isinstance(source, str) else None)
