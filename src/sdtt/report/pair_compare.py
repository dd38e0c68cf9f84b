"""Students beside their controls: the teacher at as many steps and the same entropy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdtt.evaluation.frontier import Matched, StepsNeeded, control_at, steps_needed
from sdtt.report.pair_records import Cell, Pair
from sdtt.report.verdict import Verdict


@dataclass(frozen=True)
class Control:
    """The teacher at some steps and a student's entropy, between the temperatures measured.

    Attributes:
        order: The order of revelation.
        point: What it scores.
        trigrams: The share of known trigrams, interpolated alike; nan where not measured.
    """

    order: str | None
    point: Matched
    trigrams: float


@dataclass(frozen=True)
class Comparison(Verdict):
    """A student beside its control.

    Attributes:
        student: The student's cell.
        control: None where no temperatures measured reach the student's entropy.
        needed: The steps at which the control reaches the student's perplexity, at its entropy;
            None where there is no control at any number of steps.
    """

    student: Cell
    control: Control | None
    needed: StepsNeeded | None

    @property
    def difference(self) -> float:
        """The ln perplexity of the student less that of the control; nan without one."""
        return self.student.nll - self.control.point.nll if self.control else math.nan

    @property
    def error(self) -> float:
        """The standard error of the difference; nan where one is missing."""
        return self.control.point.difference_se(self.student.point) if self.control else math.nan

    @property
    def saved(self) -> float | None:
        """Steps of the control over steps of the student, at equal perplexity and entropy."""
        if self.needed is None or self.student.steps is None:
            return None
        return self.needed.steps / self.student.steps


def compare(pair: Pair, student: Cell, orders: Sequence[str | None]) -> Comparison:
    """A student beside the teacher, in the best of some orders at each number of steps.

    The controls are drawn as the student is: by the same top-p and in the same precision.
    """
    ladder: dict[int, Control] = {}
    for steps in {cell.steps for cell in pair.of("teacher") if cell.steps is not None}:
        found = [_control(pair, student, order, steps) for order in orders]
        known = [control for control in found if control is not None]
        if known:
            ladder[steps] = min(known, key=lambda control: control.point.nll)
    nlls = {steps: control.point.nll for steps, control in ladder.items()}
    needed = steps_needed(nlls, student.nll) if nlls else None
    return Comparison(student, ladder.get(student.steps or 0), needed)


def _control(pair: Pair, student: Cell, order: str | None, steps: int) -> Control | None:
    alike = student.top_p, student.draws, order, steps
    cells = [
        cell
        for cell in pair.of("teacher")
        if (cell.top_p, cell.draws, cell.order, cell.steps) == alike
    ]
    cells.sort(key=lambda cell: cell.temperature)
    try:
        point = control_at([cell.point for cell in cells], student.entropy)
    except ValueError:  # out of reach of the temperatures measured
        return None
    # linear in temperature is linear in entropy: both have the same weights
    trigrams = np.interp(
        point.temperature, [cell.temperature for cell in cells], [cell.trigrams for cell in cells]
    )
    return Control(order, point, float(trigrams))


def comparisons(pair: Pair) -> list[Comparison]:
    """Every student beside the control in its own order."""
    return [compare(pair, student, [student.order]) for student in pair.of("student")]


def best(pair: Pair, steps: int) -> Comparison | None:
    """The best student in its best order beside the best control in its best order.

    The best student is the one whose perplexity is lowest beside the best control at its own
    entropy: a lower perplexity at a lower entropy alone makes none better. Of plain draws only, and
    of those students that were taught to sample in some number of steps: what another model gained
    is not what distillation gains.

    Returns:
        None where no student has a control at these steps.
    """
    orders = sorted({cell.order for cell in pair.of("teacher")}, key=str)
    taught = [cell for cell in pair.of("student") if cell.student_steps is not None]
    students = [cell for cell in taught if cell.steps == steps and cell.plain]
    found = [compare(pair, student, orders) for student in students]
    matched = [comparison for comparison in found if comparison.control is not None]
    return min(matched, key=lambda comparison: comparison.difference, default=None)
