"""Cells become lines of a figure: one colour a model, one dash a sampler."""

import math
from collections.abc import Callable, Sequence

from sdtt.report.axes import EARLIER, GREY, VERMILLION
from sdtt.report.blocks import change_words, sampler_words
from sdtt.report.cells import Cell
from sdtt.report.drawing import INK, Line
from sdtt.report.matched import is_student
from sdtt.report.suite import Suite, ranked

Values = Callable[[Cell], tuple[float, float]]


def colours_of(suite: Suite, cells: Sequence[Cell]) -> dict[str, str]:
    """By model: the teacher in ink, the last student in vermillion, what is no denoiser in grey."""
    ordered = ranked(suite, cells)
    students = [cell.model for cell in ordered if is_student(cell, suite.teacher)]
    denoisers = dict.fromkeys(c.model for c in ordered if c.record.kind == "diffusion")
    special = dict.fromkeys(students[-1:], VERMILLION)
    if suite.teacher is not None:
        special[suite.teacher] = INK
    others = [model for model in denoisers if model not in special]
    colours = {model: EARLIER[i % len(EARLIER)] for i, model in enumerate(others)}
    colours |= {model: special[model] for model in denoisers if model in special}
    return {cell.model: colours.get(cell.model, GREY) for cell in ordered}


def number_of(name: str, scale: float = 1.0) -> Values:
    """Reads a number of a cell and its error, both times a scale."""
    return lambda cell: (scale * cell.number(name), scale * cell.number(f"{name}_se"))


def lines_of(suite: Suite, cells: Sequence[Cell], values: Values) -> list[Line]:
    """Over steps: a line a model and sampler; what has no steps is a level."""
    colours = colours_of(suite, cells)
    ordered = ranked(suite, cells)[::-1]
    known = [cell for cell in ordered if not math.isnan(values(cell)[0])]
    curves: dict[tuple[str, str], list[Cell]] = {}
    levels: list[Line] = []
    for cell in known:
        if cell.steps is not None:
            curves.setdefault((cell.model, group_of(cell)), []).append(cell)
            continue
        y, error = values(cell)
        levels.append(level(name_of(cell), colours[cell.model], y, error, cell))
    lines = [
        line_of(model, group, colours[model], members, values, lambda cell: float(cell.steps or 0))
        for (model, group), members in curves.items()
    ]
    return [*levels, *lines]


def name_of(cell: Cell) -> str:
    """The model; where it has no steps, with all that was set of the draw."""
    if cell.steps is not None:
        return cell.model
    return ", ".join(filter(None, [cell.model, sampler_words(cell), change_words(cell)]))


def level(name: str, colour: str, y: float, error: float, cell: Cell) -> Line:
    """A line across the panel, for what has no steps."""
    return Line(name, "", colour, (), (y,), (error,), dotted=cell.record.kind == "text")


def group_of(cell: Cell) -> str:
    """What the dashes of a denoiser say; others have a mark of their own."""
    if cell.record.kind != "diffusion":
        return ""
    return ", ".join(filter(None, [sampler_words(cell), change_words(cell)]))


def line_of(
    name: str,
    group: str,
    colour: str,
    cells: Sequence[Cell],
    values: Values,
    x_of: Callable[[Cell], float],
    texts: Callable[[Cell], str] = lambda _: "",
) -> Line:
    """Cells as one line, x ascending.

    Args:
        name: Of the model.
        group: What its dashes mean.
        colour: Of the model.
        cells: Its points.
        values: Gives y and its error.
        x_of: Gives x.
        texts: Gives what stands beside a point.
    """
    ordered = sorted(cells, key=x_of)
    measured = [values(cell) for cell in ordered]
    return Line(
        name=name,
        group=group,
        colour=colour,
        x=[x_of(cell) for cell in ordered],
        y=[y for y, _ in measured],
        errors=[error for _, error in measured],
        texts=[texts(cell) for cell in ordered],
    )
