"""Seconds of calls that take turns, so that what slows a machine down slows all of them."""

import platform
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """The runs of one call.

    Attributes:
        seconds: Of each run, in their order.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median run."""
        return median(self.seconds)


def device_name(device: torch.device) -> str:
    """What times are of: the model of an accelerator, or of the CPU where Linux tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    known = Path("/proc/cpuinfo")
    lines = known.read_text("utf-8").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def wait(device: torch.device) -> None:
    """Lets an accelerator finish."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """One run of a call, until the device has finished it."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def interleaved(
    calls: Mapping[Name, Callable[[], object]],
    runs: int,
    device: torch.device,
    on_run: Callable[[], None] | None = None,
) -> dict[Name, Timing]:
    """The seconds of each call; they take turns, after one run of each to warm up.

    Args:
        calls: What is timed, by name.
        runs: How often each is timed.
        device: Where they compute.
        on_run: Called after each run, those that warm up included.
    """
    after = on_run or (lambda: None)
    for call in calls.values():
        call()
        after()
    taken: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            taken[name].append(seconds(call, device))
            after()
    return {name: Timing(tuple(each)) for name, each in taken.items()}
