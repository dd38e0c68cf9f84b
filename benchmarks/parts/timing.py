"""Timing: interleaved runs and their medians."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def wait(device: torch.device) -> None:
    """Lets an accelerator finish."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """One run."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def interleaved(
    calls: Mapping[str, Callable[[], object]], runs: int, device: torch.device
) -> dict[str, float]:
    """The median seconds of each call; they take turns, after one run of each to warm up."""
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            taken[name].append(seconds(call, device))
    return {name: median(each) for name, each in taken.items()}
