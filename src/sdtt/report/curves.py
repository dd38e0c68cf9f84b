"""The figures of an evaluation: each drawn where its records are there."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sdtt.report.axes import GREY, VERMILLION
from sdtt.report.best_of import best_of_blocks
from sdtt.report.blocks import Block, titled
from sdtt.report.cells import Cell
from sdtt.report.drawing import Drawing, Line, Panel
from sdtt.report.matched import beside, is_student
from sdtt.report.measures import measure_blocks
from sdtt.report.quality import perplexity_blocks
from sdtt.report.series import (
    Values,
    colours_of,
    group_of,
    level,
    line_of,
    lines_of,
    number_of,
)
from sdtt.report.suite import Suite, ranked, shown
from sdtt.report.tradeoffs import best_of, by_machine, frontier, perplexity_seconds


def drawings(suite: Suite) -> Iterator[Drawing]:
    """All figures; those of a second block are numbered."""
    makers = {
        "perplexity_steps": (perplexity_blocks(suite), _perplexity_steps),
        "frontier": (perplexity_blocks(suite), frontier),
        "perplexity_seconds": (by_machine(suite), perplexity_seconds),
        "mauve_steps": (measure_blocks(suite, "mauve"), _mauve_steps),
        "lambada_rounds": (measure_blocks(suite, "lambada"), _lambada_rounds),
        "latency_steps": (measure_blocks(suite, "latency"), _latency_steps),
        "best_of": (best_of_blocks(suite), best_of),
    }
    for name, (found, maker) in makers.items():
        for i, block in enumerate(found):
            drawing = maker(suite, block, name if i == 0 else f"{name}_{i + 1}")
            if drawing is not None:
                yield drawing


def _steps(lines: Sequence[Line]) -> int:
    return len({x for line in lines for x in line.x})


def _perplexity_steps(suite: Suite, block: Block, name: str) -> Drawing | None:
    cells = shown(block.cells)
    above = lines_of(suite, cells, number_of("perplexity"))
    if _steps(above) < 2:
        return None
    return Drawing(
        name=name,
        title=titled("Perplexity and entropy over steps", block),
        caption="Perplexity under the judge (logarithmic) above the unigram entropy of a text: a"
        " perplexity at a lower entropy is no gain. Hollow: each student's control, the teacher at"
        " the student's entropy. Bars are one standard error.",
        label="sampling steps",
        scale="steps",
        panels=[
            Panel("perplexity", [*above, *_controls(suite, block, cells)], logarithmic=True),
            Panel("entropy of a text (nats)", lines_of(suite, cells, number_of("entropy"))),
        ],
    )


def _controls(suite: Suite, block: Block, cells: Sequence[Cell]) -> list[Line]:
    colours = colours_of(suite, cells)
    points: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for cell in cells:
        control = None
        if is_student(cell, suite.teacher) and cell.steps is not None:
            control = beside(block.cells, suite.teacher, cell).control
        if control is not None:
            y = math.exp(control.nll)
            point = float(cell.steps or 0), y, y * control.nll_se
            points.setdefault((cell.model, group_of(cell)), []).append(point)
    lines = []
    for (model, group), found in points.items():
        x, y_of, errors = zip(*sorted(found), strict=True)
        lines.append(Line(model, group, colours[model], x, y_of, errors, hollow=True))
    return lines


def _mauve_steps(suite: Suite, block: Block, name: str) -> Drawing | None:
    lines = lines_of(suite, shown(block.cells), number_of("mauve"))
    if _steps(lines) < 2:
        return None
    return Drawing(
        name=name,
        title=titled("MAUVE over steps", block),
        caption="How near the continuations are to real text, from 0 to 1. Bars are one standard"
        " error.",
        label="sampling steps",
        scale="steps",
        panels=[Panel("MAUVE", lines)],
    )


def _lambada_rounds(suite: Suite, block: Block, name: str) -> Drawing | None:
    ordered = ranked(suite, block.cells)
    models = [
        cell for cell in ordered if cell.model == suite.teacher or is_student(cell, suite.teacher)
    ]
    labels = list(dict.fromkeys(cell.model for cell in models))
    if len(labels) < 2:
        return None
    places = {model: float(i) for i, model in enumerate(labels)}
    known = [*models, *(c for c in ordered if c.record.kind == "autoregressive")]
    panels = [
        Panel("LAMBADA accuracy (%)", _round_lines(known, places, number_of("accuracy", 100.0))),
        Panel(
            "perplexity of the last word",
            _round_lines(known, places, number_of("perplexity")),
            True,
        ),
    ]
    taught = {cell.model: cell.record.taught_steps for cell in models}
    names = [label if taught[label] is None else f"{taught[label]} steps" for label in labels]
    return Drawing(
        name=name,
        title=titled("LAMBADA over rounds", block),
        caption="Each student is taught by the one before it, for the steps below it. Bars are one"
        " standard error.",
        label="the model, by the steps that it was taught for",
        scale="names",
        panels=[panel for panel in panels if any(line.x for line in panel.lines)],
        names=names if len(set(names)) == len(names) else labels,
    )


def _round_lines(cells: Sequence[Cell], places: dict[str, float], values: Values) -> list[Line]:
    """One line a way of measuring; models out of the chain are levels."""
    lines: dict[str, list[Cell]] = {}
    levels = []
    for cell in cells:
        y, error = values(cell)
        if math.isnan(y):
            continue
        if cell.model in places:
            method = str(cell.record.settings.get("method", "")).replace("_", " ")
            lines.setdefault(method, []).append(cell)
        else:
            levels.append(level(cell.model, GREY, y, error, cell))
    curves = [
        line_of(
            "teacher and students",
            method,
            VERMILLION,
            found,
            values,
            lambda cell: places[cell.model],
        )
        for method, found in lines.items()
    ]
    return [*levels, *curves]


def _latency_steps(suite: Suite, block: Block, name: str) -> Drawing | None:
    by_form: dict[str, list[Cell]] = {}
    for cell in block.cells:
        settings = cell.record.settings
        form = f"{settings.get('form', '')}, batch {settings.get('batch_size', '?')}".strip(", ")
        by_form.setdefault(form, []).append(cell)
    several = len(by_form) > 1
    lines = []
    for form, cells in by_form.items():
        for line in lines_of(suite, cells, number_of("seconds_per_sample")):
            label = f"{line.name}, {form}" if several and not line.x else line.name
            group = f"{line.group}, {form}" if several and line.group else line.group
            lines.append(replace(line, name=label, group=group))
    if _steps(lines) < 2:
        return None
    return Drawing(
        name=name,
        title=titled("Latency over steps", block),
        caption="Seconds of wall time a sample, both axes logarithmic; a level is a model that has"
        " no steps: autoregressive, one pass a token, with its keys and values kept.",
        label="sampling steps",
        scale="steps",
        panels=[Panel("seconds a sample", lines, logarithmic=True)],
    )
