"""Students beside their controls: the teacher, drawn alike, cooled to the student's entropy."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sdtt.evaluation.frontier import Matched, control_at
from sdtt.report.cells import Cell
from sdtt.report.verdict import Verdict


@dataclass(frozen=True)
class Beside(Verdict):
    """A student beside something at its own entropy.

    Attributes:
        student: The student's cell, of the metric perplexity.
        control: None where no temperatures measured reach the student's entropy.
    """

    student: Cell
    control: Matched | None

    @property
    def difference(self) -> float:
        """The ln perplexity of the student less that of the control; nan without one."""
        return self.student.number("nll") - self.control.nll if self.control else math.nan

    @property
    def error(self) -> float:
        """The standard error of the difference; nan where one is missing."""
        return self.control.difference_se(self.student.point) if self.control else math.nan


def teacher_of(cells: Sequence[Cell], named: str | None) -> str | None:
    """The label of the teacher: the one asked for, or the only denoiser that was not taught.

    Returns:
        None where no model could be one, or several could and no student was measured.

    Raises:
        ValueError: If the one asked for was not measured, or several could be the teacher.
    """
    denoisers = {cell.model: cell.record for cell in cells if cell.record.kind == "diffusion"}
    if named is not None:
        if named in denoisers:
            return named
        near = difflib.get_close_matches(named, denoisers, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"no diffusion model is called {named!r}: there are {', '.join(denoisers) or 'none'}"
            f"{hint}"
        )
    candidates = [label for label, record in denoisers.items() if record.taught_steps is None]
    if len(candidates) > 1 and len(candidates) < len(denoisers):
        raise ValueError(
            f"several models could be the teacher ({', '.join(candidates)}): name it by --teacher"
        )
    return candidates[0] if len(candidates) == 1 else None


def curve_of(cells: Sequence[Cell], model: str, like: Cell) -> list[Cell]:
    """A model's cells drawn as another cell is, in all but the temperature, coldest first."""
    alike = _but_temperature(like)
    found = [cell for cell in cells if cell.model == model and _but_temperature(cell) == alike]
    return sorted(found, key=lambda cell: cell.temperature)


def _but_temperature(cell: Cell) -> dict[str, object]:
    return {name: value for name, value in cell.draw.items() if name != "temperature"}


def beside(cells: Sequence[Cell], teacher: str | None, student: Cell) -> Beside:
    """A student beside its control: same sampler, steps, top-p and precision of draws."""
    if teacher is None:
        return Beside(student, None)
    return Beside(student, at_entropy(curve_of(cells, teacher, student), student.number("entropy")))


def at_entropy(curve: Sequence[Cell], entropy: float) -> Matched | None:
    """What a model scores at an entropy, between its temperatures; None where they reach it not."""
    points = [cell.point for cell in curve if not math.isnan(cell.number("nll"))]
    if math.isnan(entropy):
        return None
    try:
        return control_at(points, entropy)
    except ValueError:  # out of reach, one temperature only, or entropy does not rise with it
        return None


def students_of(cells: Sequence[Cell], teacher: str | None) -> list[Cell]:
    """Cells of the models that were taught, in the order of the tables."""
    taught = [cell for cell in cells if is_student(cell, teacher)]
    return sorted(taught, key=lambda cell: rank(cell, teacher))


def is_student(cell: Cell, teacher: str | None) -> bool:
    """Whether its model was distilled, and is not the teacher here."""
    return cell.record.taught_steps is not None and cell.model != teacher


def rank(cell: Cell, teacher: str | None) -> tuple[object, ...]:
    """The order of rows: teacher, students, others, autoregressive, files, text; steps falling."""
    record = cell.record
    kinds = {"diffusion": 2, "autoregressive": 3, "samples": 4, "text": 5}
    student = is_student(cell, teacher)
    who = 0 if cell.model == teacher else 1 if student else kinds[record.kind]
    plain = cell.temperature == 1 and cell.top_p == 1
    order = str(cell.draw.get("sampler", ""))
    setting = order, -(cell.steps or 0), not plain, -cell.temperature, -cell.top_p
    return who, -(record.taught_steps or 0), cell.model, *setting, cell.place
