"""The demo's metrics, read once: models down the rows, numbers of sampling steps across."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """What one model scores at one number of sampling steps.

    Attributes:
        perplexity: Judge perplexity of the samples.
        entropy: Unigram entropy of one sample, in nats, averaged over the samples.
        perplexity_se: Standard error of the perplexity, where one was given.
        entropy_se: Standard error of the entropy in nats, where one was given.
        temperature: The temperature that the samples were drawn at, where it is not 1.
    """

    perplexity: float
    entropy: float
    perplexity_se: float | None = None
    entropy_se: float | None = None
    temperature: float | None = None


Cells = dict[int, Cell]  # by number of steps, the largest first


@dataclass(frozen=True)
class Ladder:
    """Teacher, students and controls over the steps, with the two levels that have no steps.

    Attributes:
        length: Tokens in a sample, L; the largest number of steps where the settings do not say.
        teacher: The teacher's cells.
        students: Each student's cells, by round.
        controls: The cells of each student's control, by round; empty where none was measured.
        autoregressive: The autoregressive twin, which takes one pass a token.
        data: Real text.
    """

    length: int
    teacher: Cells
    students: dict[int, Cells]
    controls: dict[int, Cells]
    autoregressive: Cell | None
    data: Cell | None

    @property
    def steps(self) -> list[int]:
        """Every number of steps at which something was measured, the largest first."""
        lines = [self.teacher, *self.students.values()]
        return sorted({steps for line in lines for steps in line}, reverse=True)


def read_ladder(metrics: Metrics) -> Ladder:
    """The ladder that a dictionary of metrics holds.

    Args:
        metrics: `{"teacher": {steps: cell}, "students": {round: {steps: cell}}, "ar": cell,
            "data": cell, "settings": {...}}`. A cell has "perplexity" and "entropy" (nats), perhaps
            their standard errors ("perplexity_se", "entropy_se"), and a student's cell perhaps its
            "control": a cell with the "temperature" at which the teacher was sampled.

    Returns:
        The ladder, steps descending and rounds ascending.

    Raises:
        ValueError: If there is no teacher, which everything is compared with.
    """
    if not metrics.get("teacher"):
        raise ValueError(f"metrics need the cells of a 'teacher', got only {sorted(metrics)}")
    students = {int(number): line for number, line in metrics.get("students", {}).items()}
    teacher = _cells(metrics["teacher"])
    length = _first(metrics.get("settings", {}), "length")
    return Ladder(
        length=int(length) if length is not None else max(teacher),
        teacher=teacher,
        students={number: _cells(students[number]) for number in sorted(students)},
        controls={number: _controls(students[number]) for number in sorted(students)},
        autoregressive=_cell(metrics["ar"]) if metrics.get("ar") else None,
        data=_cell(metrics["data"]) if metrics.get("data") else None,
    )


def _cells(line: Metrics) -> Cells:
    by_steps = {int(steps): _plain_cell(entry) for steps, entry in line.items()}
    return dict(sorted(by_steps.items(), reverse=True))


def _controls(line: Metrics) -> Cells:
    found = {int(steps): _cell(e["control"]) for steps, e in line.items() if e.get("control")}
    return dict(sorted(found.items(), reverse=True))


def _plain_cell(entry: Metrics) -> Cell:
    """A model's own cell: temperature 1 goes without saying."""
    cell = _cell(entry)
    return replace(cell, temperature=None) if cell.temperature == 1 else cell


def _cell(entry: Metrics) -> Cell:
    optional = {name: entry.get(name) for name in ("perplexity_se", "entropy_se", "temperature")}
    finite = {k: float(v) for k, v in optional.items() if v is not None and math.isfinite(v)}
    return Cell(float(entry["perplexity"]), float(entry["entropy"]), **finite)


def _first(settings: Metrics, name: str) -> int | None:
    """The value of the outermost key of that name."""
    level = [settings]
    while level:
        for section in level:
            if name in section:
                return int(section[name])
        inner = [value for section in level for value in section.values()]
        level = [value for value in inner if isinstance(value, Mapping)]
    return None
