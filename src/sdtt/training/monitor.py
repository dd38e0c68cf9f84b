"""What a record says of a run beside its loss: speed, utilisation, agreement, drift of the EMA.

What each costs:

* masked tokens: their number is known on the host already; one addition a micro-batch.
* agreement: ``ROWS`` rows are projected by both heads, 4 ROWS V D operations, in the update that
  is recorded and in no other.
* EMA distance: weights and EMA are read once a record, a part of ``PART`` numbers at a time.
* speed and utilisation: clock and arithmetic.

Nothing waits for the device but at a record, which waits for the loss anyway.
"""

from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor

from sdtt.diffusion.denoiser import Head, exclude
from sdtt.training.peak import Peak
from sdtt.training.sharding import local

ROWS = 256
"""Masked positions that the agreement is measured on: its standard error is at most 3 %."""

TOGETHER = 32
"""Rows projected at once."""

PART = 2**22
"""Numbers of a weight that are compared at once."""


class Monitor:
    """Gathers, between two records of a run, what the next one says."""

    def __init__(self) -> None:
        self.masked = 0
        self.agreement: Tensor | None = None

    def count(self, masked: int) -> None:
        """So many masked positions of this process have been trained on."""
        self.masked += masked

    def compare(
        self,
        student: Float[Tensor, "N D"],
        student_head: Head,
        target: Float[Tensor, "N E"],
        teacher_head: Head,
        excluded_ids: tuple[int, ...],
    ) -> None:
        """Keeps the agreement of some masked positions for the next record."""
        if len(student):
            self.agreement = agreement(student, student_head, target, teacher_head, excluded_ids)

    def figures(
        self,
        *,
        seconds: float,
        tokens: int,
        processes: int,
        flops: float,
        peak: Peak,
    ) -> dict[str, float]:
        """The figures since the last record, and a new beginning.

        Args:
            seconds: Since then.
            tokens: Since then, over all processes.
            processes: Each is taken to have masked as much as this one.
            flops: Operations that were needed since then, over all processes.
            peak: Of the device of one process.

        Returns:
            ``tokens_per_second``; ``masked_tokens_per_second`` where something was masked; ``mfu``,
            a share, where the peak rate is known; ``agreement``, a share, where it was measured.
        """
        figures = {"tokens_per_second": tokens / seconds}
        if self.masked:
            figures["masked_tokens_per_second"] = self.masked * processes / seconds
        if peak.flops_per_second is not None:
            figures["mfu"] = flops / seconds / (peak.flops_per_second * processes)
        if self.agreement is not None:
            figures["agreement"] = self.agreement.item()
        self.__init__()  # type: ignore[misc]
        return figures


@torch.no_grad()
def agreement(
    student: Float[Tensor, "N D"],
    student_head: Head,
    target: Float[Tensor, "N E"],
    teacher_head: Head,
    excluded_ids: tuple[int, ...],
) -> Float[Tensor, ""]:
    """The share of positions at which student and target have one likeliest token.

    Measured on at most ``ROWS`` of the N positions, evenly spread over them.

    Args:
        student: The student's hidden rows, N at least 1.
        student_head: Its final linear.
        target: The hidden rows of the teacher's pass that decided each position.
        teacher_head: The teacher's final linear.
        excluded_ids: Ids of probability 0 under both.

    Returns:
        A scalar on the device of the rows.
    """
    count = min(len(student), ROWS)
    picked = torch.arange(count, device=student.device) * len(student) // count
    same = [
        _likeliest(student[rows], student_head, excluded_ids)
        == _likeliest(target[rows], teacher_head, excluded_ids)
        for rows in picked.split(TOGETHER)
    ]
    return torch.cat(same).float().mean()


def _likeliest(rows: Tensor, head: Head, excluded_ids: tuple[int, ...]) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        scores = head.scores(rows.to(head.weight.dtype))
    return exclude(scores, excluded_ids).argmax(-1)


@torch.no_grad()
def ema_distance(shadow: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> float:
    """||EMA - weights|| / ||weights||, in the Euclidean norm over all averaged numbers.

    Of weights that lie in parts every process must ask, and all get the whole distance.

    Args:
        shadow: The averages by name.
        weights: The weights by name; those without an average do not count.
    """
    apart: list[Tensor] = []
    whole: list[Tensor] = []
    for name, average in shadow.items():
        own, other = (local(x.detach()).flatten().split(PART) for x in (average, weights[name]))
        for mean, weight in zip(own, other, strict=True):
            here = weight.to(mean.device, torch.float32)
            apart.append((mean - here).square().sum())
            whole.append(here.square().sum())
    sums = torch.stack([torch.stack(each).cpu().double().sum() for each in (apart, whole)])
    sharded = [weight for weight in weights.values() if isinstance(weight, DTensor)]
    if sharded:
        sums = summed_over_processes(sums, sharded[0].device)
    return (sums[0] / sums[1]).sqrt().item()


def summed_over_processes(sums: Tensor, device: torch.device) -> Tensor:
    """Numbers on the CPU, added up over all processes by way of the device that they train on."""
    sums = sums.to(device, torch.float32)
    torch.distributed.all_reduce(sums)
    return sums.cpu()


def mean_since(history: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> float:
    """The mean loss of the round of a record up to it, each record by its updates.

    Those that were skipped, each of which has a record of its own, count for nothing.

    Args:
        history: The records before it, oldest first, with ``step``, ``round`` and ``loss``.
        now: The record, with the same.
    """
    records = [each for each in history if "loss" in each and each["step"] < now["step"]]
    skipped = [each["step"] for each in history if "skipped_updates" in each]
    before = [0, *(each["step"] for each in records)]
    of_round = [
        (
            each["loss"],
            each["step"] - since - bisect(skipped, each["step"]) + bisect(skipped, since),
        )
        for since, each in zip(before, [*records, now], strict=True)
        if each.get("round") == now["round"]
    ]
    return sum(loss * updates for loss, updates in of_round) / sum(n for _, n in of_round)
