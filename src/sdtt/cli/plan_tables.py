"""What a run will ask for, as tables on a terminal."""

import dataclasses

from rich.console import Console
from rich.table import Table

from sdtt.cli.console import duration
from sdtt.training.estimate import Estimate, Stage
from sdtt.training.gpu_hours import HOUR


def print_plan(title: str, estimate: Estimate) -> None:
    """Prints what a run will ask for on stdout."""
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
    if estimate.gpus:
        console.print(_gpus(estimate))
    said = [
        f"checkpoint {_bytes(estimate.checkpoint_bytes)}; "
        f"the run holds at most {_bytes(estimate.disk_bytes)} on the disk",
        f"hours by {estimate.basis}"
        if estimate.hours is not None
        else f"no hours of this machine: {estimate.basis.removeprefix('nothing: ')}",
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
    if estimate.gpus:
        said.append("rates of GPUs by their data sheets, dense; MFU is assumed, not measured")
    said.append("no text was read and nothing was written")
    for line in said:
        console.print(line, highlight=False, soft_wrap=True)


def _stages(estimate: Estimate) -> Table:
    table = Table()
    rounds = estimate.stages[0].student_steps is not None
    of_rounds = ("round", "steps", "teacher passes") if rounds else ()
    timed = () if estimate.hours is None else ("time",)
    for name in (*of_rounds, "updates", "learning rate", "tokens", "FLOPs", *timed):
        table.add_column(name, justify="right")
    for number, stage in enumerate(estimate.stages, start=1):
        own = () if not rounds else (str(number), _steps(stage), f"{stage.teacher_passes:.2f}")
        table.add_row(
            *own,
            f"{stage.updates:,}",
            f"{stage.learning_rate:.3g}",
            _count(stage.tokens),
            f"{stage.flops:.3g}",
            *_times(stage.hours),
        )
    if rounds:
        whole = (f"{estimate.updates:,}", "", _count(estimate.tokens), f"{estimate.flops:.3g}")
        table.add_section()
        table.add_row("all", "", "", *whole, *_times(estimate.hours))
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


def _gpus(estimate: Estimate) -> Table:
    devices = f"{estimate.devices} device" + ("s" if estimate.devices > 1 else "")
    table = Table()
    for name in ("GPU", "peak TFLOP/s", "MFU assumed", f"time on {devices}"):
        table.add_column(name, justify="left" if name == "GPU" else "right")
    for each in estimate.gpus:
        peak, mfu = f"{each.peak_tflops:.4g}", f"{each.mfu:g}"
        table.add_row(each.gpu, peak, mfu, *_times(each.hours))
    return table


def _steps(stage: Stage) -> str:
    return f"{stage.teacher_steps} > {stage.student_steps}"


def _times(hours: float | None) -> list[str]:
    """A cell, or none where nothing says how fast the run would be."""
    return [] if hours is None else [duration(hours * HOUR)]


def _bytes(size: float) -> str:
    return f"{_count(size)}B"


def _count(number: float) -> str:
    """Three digits and a prefix: 1.31 G."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:.3g} {prefix}"
    return f"{number:.0f} "
