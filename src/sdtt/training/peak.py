"""How fast a device could multiply: what a model FLOPs utilisation (MFU) is a share of."""

import re
import time
from dataclasses import dataclass
from functools import cache

import torch

PRODUCT = 1024
"""Rows and columns of the products that a CPU's rate is measured with."""

REPEATS = 10

LONGEST = 1.0
"""Seconds after which no product is repeated: emulated ones take two each."""

TERA = 1e12

DEVICES: tuple[tuple[str, float, float, float], ...] = (
    (r"\bH200\b", 989.4, 494.7, 66.9),
    (r"\bH100 PCIe\b", 756.0, 378.0, 51.2),
    (r"\bH100 NVL\b", 835.0, 417.5, 60.0),
    (r"\bH100\b", 989.4, 494.7, 66.9),
    (r"\bA100\b", 312.0, 156.0, 19.5),
    (r"\bL40S\b", 362.0, 183.0, 91.6),
    (r"\bL4\b", 121.0, 60.0, 30.3),
    (r"\bA40\b", 149.7, 74.8, 37.4),
    (r"\bA10\b", 125.0, 62.5, 31.2),
    (r"\bRTX A6000\b", 154.8, 77.4, 38.7),
    (r"\bRTX 4090\b", 165.2, 82.6, 82.6),
    (r"\bRTX 3090\b", 71.0, 35.6, 35.6),
)
"""Name of a GPU, and its dense rates in TFLOP/s in 16 bits, in TF32 and in float32, by the makers'
data sheets; the first name that occurs counts."""


GPUS = tuple(pattern.replace(r"\b", "") for pattern, *_ in DEVICES)
"""The names, as a user gives them."""


@dataclass(frozen=True)
class Peak:
    """The rate of a device.

    Attributes:
        flops_per_second: Of dense matrix products; None if it is not known.
        source: Where the rate is from, or why there is none, for a reader.
    """

    flops_per_second: float | None
    source: str


def peak_rate(
    device: torch.device, precision: str, peak_tflops: float | None = None, name: str | None = None
) -> Peak:
    """The rate at which a device multiplies matrices.

    Args:
        device: A CPU is measured, once a process, in a fraction of a second; a GPU is looked up.
        precision: Of the operands: bfloat16, float16, tf32 or float32.
        peak_tflops: The rate in TFLOP/s, where the user gives it: nothing is measured or looked up.
        name: Of the GPU; asked of torch by default.
    """
    if peak_tflops is not None:
        return Peak(peak_tflops * TERA, f"{peak_tflops:g} TFLOP/s as given")
    if device.type == "cpu":
        threads = torch.get_num_threads()
        rate = _measured(precision, threads)
        cores = f"{threads} thread" + ("s" if threads > 1 else "")
        words = f"{rate / TERA:.3g} TFLOP/s measured in {precision} on {cores}"
        return Peak(rate, words)
    if name is None and device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    name = name or device.type
    for pattern, low, tf32, full in DEVICES:
        if re.search(pattern, name, re.IGNORECASE):
            rate = {"tf32": tf32, "float32": full}.get(precision, low)
            return Peak(rate * TERA, f"{rate:g} TFLOP/s of {name} in {precision}, data sheet")
    return Peak(None, f"the rate of {name} is not known here: give peak_tflops")


def precision_of(*, bf16: bool, fp16: bool, device: torch.device) -> str:
    """What the operands of a network's products are rounded to, as a name for ``peak_rate``."""
    if bf16 or fp16:
        return "bfloat16" if bf16 else "float16"
    # not get_float32_matmul_precision, which raises where this has been set, as transformers does
    rounded = device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if rounded else "float32"


@cache
def _measured(precision: str, threads: int) -> float:  # noqa: ARG001 - part of the key
    """The best of a few products on the CPU, in operations a second."""
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)
    a, b = (torch.ones(PRODUCT, PRODUCT, dtype=dtype) for _ in range(2))
    seconds: list[float] = []
    while len(seconds) <= REPEATS and sum(seconds) < LONGEST:  # the first one warms up
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return float(2 * PRODUCT**3 / min(seconds))
