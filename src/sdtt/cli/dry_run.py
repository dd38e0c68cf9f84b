"""`--dry-run` of the training verbs: what a run will ask for, before it is begun."""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from sdtt.cli.console import duration, is_first_process
from sdtt.cli.options import Given
from sdtt.cli.train import QUIET
from sdtt.training.estimate import HOUR, Estimate, Stage
from sdtt.training.probe import FOR_PROBE, probe
from sdtt.training.trainer import StreamTrainer

PROBE_UPDATES = 20


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
    json: bool = field(
        default=False,
        metadata={"help": "--dry-run prints one JSON object", "flag_only": True},
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not self.dry_run:
            given = [("--probe-updates", self.probe_updates is not None)]
            given += [("--assumed-mfu", self.assumed_mfu is not None), ("--json", self.json)]
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
        if self.assumed_mfu is not None:
            return 0
        return PROBE_UPDATES if self.probe_updates is None else self.probe_updates

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
            make_trainer: The trainer of a config, on random texts.
        """
        if self.assumed_mfu is not None:
            estimate = estimate.assuming(self.assumed_mfu)
        elif self.updates:
            estimate = estimate.probed(_probe(self.updates, training, make_trainer))
        if not is_first_process():
            return
        if self.json:
            print(json.dumps(_record(estimate)))
        else:
            _print(title, estimate)


def _probe(updates: int, training: Given[Any], make_trainer: Callable[[Any], StreamTrainer]) -> Any:
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="sdtt-probe-") as folder:
        args = training.make(**QUIET | FOR_PROBE | {"output_dir": folder})
        run = training.make(**QUIET)  # whose texts are taken up in micro-batches
        at_once = run.per_device_train_batch_size * run.world_size
        accumulation = run.texts_per_update // at_once
        return probe(lambda: make_trainer(args), updates=updates, accumulation=accumulation)


def _record(estimate: Estimate) -> dict[str, Any]:
    """The estimate, with its sums."""
    sums = {name: getattr(estimate, name) for name in ("updates", "tokens", "flops", "hours")}
    record = dataclasses.asdict(estimate) | sums
    record["memory"]["total"] = estimate.memory.total
    return record


def _print(title: str, estimate: Estimate) -> None:
    console = Console()
    devices = f"{estimate.devices} device" + ("s" if estimate.devices > 1 else "")
    console.print(
        f"{title}: {estimate.parameters:,} parameters, "
        f"{estimate.texts:,} texts of {estimate.length:,} tokens an update on {devices}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_stages(estimate))
    console.print(_memory(estimate))
    said = [
        f"checkpoint {_bytes(estimate.checkpoint_bytes)}; "
        f"the run holds at most {_bytes(estimate.disk_bytes)} on the disk",
        f"hours by {estimate.basis}",
    ]
    probe = estimate.probe
    if probe is not None:
        used = f"MFU {probe.mfu:.3f} of {estimate.peak.source}" if probe.mfu is not None else ""
        said.append(
            f"probe: {probe.flops_per_second / 1e12:.4g} TFLOP/s, "
            + (used or f"no MFU: {estimate.peak.source}")
        )
        if probe.peak_bytes is not None:
            said.append(f"probe: the device held {_bytes(probe.peak_bytes)} at most")
    said.append("no text was read and nothing was written")
    for line in said:
        console.print(line, highlight=False, soft_wrap=True)


def _stages(estimate: Estimate) -> Table:
    table = Table()
    rounds = estimate.stages[0].student_steps is not None
    of_rounds = ("round", "steps", "teacher passes") if rounds else ()
    for name in (*of_rounds, "updates", "learning rate", "tokens", "FLOPs", "time"):
        table.add_column(name, justify="right")
    for number, stage in enumerate(estimate.stages, start=1):
        own = () if not rounds else (str(number), _steps(stage), f"{stage.teacher_passes:.2f}")
        table.add_row(
            *own,
            f"{stage.updates:,}",
            f"{stage.learning_rate:.3g}",
            _count(stage.tokens),
            f"{stage.flops:.3g}",
            _time(stage.hours),
        )
    if rounds:
        whole = (f"{estimate.updates:,}", "", _count(estimate.tokens), f"{estimate.flops:.3g}")
        table.add_section()
        table.add_row("all", "", "", *whole, _time(estimate.hours))
    return table


def _memory(estimate: Estimate) -> Table:
    table = Table()
    table.add_column("memory of a device")
    table.add_column("estimate", justify="right")
    for each in dataclasses.fields(estimate.memory):
        size = getattr(estimate.memory, each.name)
        if size:
            table.add_row(each.name, _bytes(size))
    table.add_section()
    table.add_row("all", _bytes(estimate.memory.total))
    return table


def _steps(stage: Stage) -> str:
    return f"{stage.teacher_steps} > {stage.student_steps}"


def _time(hours: float | None) -> str:
    return "?" if hours is None else duration(hours * HOUR)


def _bytes(size: float) -> str:
    return f"{_count(size)}B"


def _count(number: float) -> str:
    """Three digits and a prefix: 1.31 G."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:.3g} {prefix}"
    return f"{number:.0f} "
