"""How long a run would take on GPUs that are not here, by their data sheets."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sdtt.training.peak import GPUS, TERA, peak_rate

ASSUMED_MFU = 0.25
"""The share of the peak rate where none is given: assumed, not measured."""

USUAL_GPUS = ("H200", "H100", "A100", "L40S", "RTX 4090")

HOUR = 3600.0


@dataclass(frozen=True)
class GpuHours:
    """A run on some GPUs of one kind.

    Attributes:
        gpu: Its name.
        peak_tflops: Its dense rate in TFLOP/s, in the precision of the run.
        mfu: The share of it that is assumed.
        hours: Of the whole run, on all devices together.
    """

    gpu: str
    peak_tflops: float
    mfu: float
    hours: float


def hours_on(
    gpus: Sequence[str], flops: float, precision: str, *, mfu: float, devices: int
) -> tuple[GpuHours, ...]:
    """The hours of a run, ``flops / (devices * mfu * peak rate)``.

    Args:
        gpus: Names, as in ``peak.GPUS``.
        flops: Operations of the run.
        precision: Of the operands, as for ``peak.peak_rate``.
        mfu: The assumed share of the peak rate.
        devices: How many GPUs work together.

    Raises:
        ValueError: If the rate of a GPU is not known.
    """
    found = []
    for gpu in gpus:
        peak = peak_rate(torch.device("cuda"), precision, name=gpu).flops_per_second
        if peak is None:
            raise ValueError(
                f"the rate of {gpu!r} is not known here; there are {', '.join(GPUS)}; of another "
                "give --assumed-mfu and --peak-tflops"
            )
        hours = flops / (devices * mfu * peak) / HOUR
        found.append(GpuHours(gpu=gpu, peak_tflops=peak / TERA, mfu=mfu, hours=hours))
    return tuple(found)
