"""The figures of an evaluation: each drawn where its records are there."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sdtt.report.axes import EARLIER, GREY, VERMILLION
from sdtt.report.blocks import Block, change_words, sampler_words
from sdtt.report.cells import Cell
from sdtt.report.drawing import INK, Drawing, Line, Panel
from sdtt.report.matched import beside, is_student, rank
from sdtt.report.measures import best_of_blocks, curve_entries, measure_blocks
from sdtt.report.quality import machine_of, perplexity_blocks
from sdtt.report.suite import Suite, shown

Values = Callable[[Cell], tuple[float, float]]


def drawings(suite: Suite) -> Iterator[Drawing]:
    """All figures; those of a second block are numbered."""
    makers = {
        "perplexity_steps": (perplexity_blocks(suite), _perplexity_steps),
        "frontier": (perplexity_blocks(suite), _frontier),
        "perplexity_seconds": (_by_machine(suite), _perplexity_seconds),
        "mauve_steps": (measure_blocks(suite, "mauve"), _mauve_steps),
        "lambada_rounds": (measure_blocks(suite, "lambada"), _lambada_rounds),
        "latency_steps": (measure_blocks(suite, "latency"), _latency_steps),
        "best_of": (best_of_blocks(suite), _best_of),
    }
    for name, (found, maker) in makers.items():
        for i, block in enumerate(found):
            drawing = maker(suite, block, name if i == 0 else f"{name}_{i + 1}")
            if drawing is not None:
                yield drawing


def _titled(title: str, block: Block) -> str:
    return f"{title}: {block.heading}" if block.heading else title


def _colours(suite: Suite, cells: Sequence[Cell]) -> dict[str, str]:
    """By model: the teacher in ink, the last student in vermillion, what is no denoiser in grey."""
    ordered = sorted(cells, key=lambda cell: rank(cell, suite.teacher))
    students = [cell.model for cell in ordered if is_student(cell, suite.teacher)]
    denoisers = dict.fromkeys(c.model for c in ordered if c.record.kind == "diffusion")
    special = {suite.teacher: INK, **({students[-1]: VERMILLION} if students else {})}
    others = [model for model in denoisers if model not in special]
    colours = {model: EARLIER[i % len(EARLIER)] for i, model in enumerate(others)}
    colours |= {model: special[model] for model in denoisers if model in special}
    return {cell.model: colours.get(cell.model, GREY) for cell in ordered}


def _of(name: str, scale: float = 1.0) -> Values:
    return lambda cell: (scale * cell.number(name), scale * cell.number(f"{name}_se"))


def _lines(suite: Suite, cells: Sequence[Cell], values: Values) -> list[Line]:
    """Over steps: a line a model and sampler; what has no steps is a level."""
    colours = _colours(suite, cells)
    ordered = sorted(cells, key=lambda cell: rank(cell, suite.teacher), reverse=True)
    known = [cell for cell in ordered if not math.isnan(values(cell)[0])]
    curves: dict[tuple[str, str], list[Cell]] = {}
    levels: list[Line] = []
    for cell in known:
        if cell.steps is not None:
            curves.setdefault((cell.model, _group(cell)), []).append(cell)
            continue
        y, error = values(cell)
        name = ", ".join(filter(None, [cell.model, change_words(cell)]))
        levels.append(_level(name, colours[cell.model], y, error, cell))
    lines = [
        _line(model, group, colours[model], members, values, lambda cell: float(cell.steps or 0))
        for (model, group), members in curves.items()
    ]
    return [*levels, *lines]


def _level(name: str, colour: str, y: float, error: float, cell: Cell) -> Line:
    return Line(name, "", colour, (), (y,), (error,), dotted=cell.record.kind == "text")


def _group(cell: Cell) -> str:
    """What the dashes of a denoiser say; others have a mark of their own."""
    if cell.record.kind != "diffusion":
        return ""
    return ", ".join(filter(None, [sampler_words(cell), change_words(cell)]))


def _line(
    name: str,
    group: str,
    colour: str,
    cells: Sequence[Cell],
    values: Values,
    x_of: Callable[[Cell], float],
    texts: Callable[[Cell], str] = lambda _: "",
) -> Line:
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


def _steps(lines: Sequence[Line]) -> int:
    return len({x for line in lines for x in line.x})


def _perplexity_steps(suite: Suite, block: Block, name: str) -> Drawing | None:
    cells = shown(block.cells)
    above = _lines(suite, cells, _of("perplexity"))
    if _steps(above) < 2:
        return None
    return Drawing(
        name=name,
        title=_titled("Perplexity and entropy over steps", block),
        caption="Perplexity under the judge (logarithmic) above the unigram entropy of a text: a"
        " perplexity at a lower entropy is no gain. Hollow: each student's control, the teacher at"
        " the student's entropy. Bars are one standard error.",
        label="sampling steps",
        scale="steps",
        panels=[
            Panel("perplexity", [*above, *_controls(suite, block, cells)], logarithmic=True),
            Panel("entropy of a text (nats)", _lines(suite, cells, _of("entropy"))),
        ],
    )


def _controls(suite: Suite, block: Block, cells: Sequence[Cell]) -> list[Line]:
    colours = _colours(suite, cells)
    lines: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for cell in cells:
        control = None
        if is_student(cell, suite.teacher) and cell.steps is not None:
            control = beside(block.cells, suite.teacher, cell).control
        if control is not None:
            y = math.exp(control.nll)
            point = float(cell.steps or 0), y, y * control.nll_se
            lines.setdefault((cell.model, _group(cell)), []).append(point)
    return [
        Line(model, group, colours[model], *zip(*sorted(points), strict=True), hollow=True)
        for (model, group), points in lines.items()
    ]


def _mauve_steps(suite: Suite, block: Block, name: str) -> Drawing | None:
    lines = _lines(suite, shown(block.cells), _of("mauve"))
    if _steps(lines) < 2:
        return None
    return Drawing(
        name=name,
        title=_titled("MAUVE over steps", block),
        caption="How near the continuations are to real text, from 0 to 1. Bars are one standard"
        " error.",
        label="sampling steps",
        scale="steps",
        panels=[Panel("MAUVE", lines)],
    )


def _lambada_rounds(suite: Suite, block: Block, name: str) -> Drawing | None:
    ordered = sorted(block.cells, key=lambda cell: rank(cell, suite.teacher))
    models = [
        cell for cell in ordered if cell.model == suite.teacher or is_student(cell, suite.teacher)
    ]
    labels = list(dict.fromkeys(cell.model for cell in models))
    if len(labels) < 2:
        return None
    places = {model: float(i) for i, model in enumerate(labels)}
    known = [*models, *(c for c in ordered if c.record.kind == "autoregressive")]
    panels = [
        Panel("LAMBADA accuracy (%)", _round_lines(known, places, _of("accuracy", 100.0))),
        Panel("perplexity of the last word", _round_lines(known, places, _of("perplexity")), True),
    ]
    taught = {cell.model: cell.record.taught_steps for cell in models}
    names = [label if taught[label] is None else f"{taught[label]} steps" for label in labels]
    return Drawing(
        name=name,
        title=_titled("LAMBADA over rounds", block),
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
            levels.append(_level(cell.model, GREY, y, error, cell))
    curves = [
        _line(
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
        for line in _lines(suite, cells, _of("seconds_per_sample")):
            label = f"{line.name}, {form}" if several and not line.x else line.name
            group = f"{line.group}, {form}" if several and line.group else line.group
            lines.append(replace(line, name=label, group=group))
    if _steps(lines) < 2:
        return None
    return Drawing(
        name=name,
        title=_titled("Latency over steps", block),
        caption="Seconds of wall time a sample, both axes logarithmic; a level is a model that has"
        " no steps: autoregressive, one pass a token, with its keys and values kept.",
        label="sampling steps",
        scale="steps",
        panels=[Panel("seconds a sample", lines, logarithmic=True)],
    )


def _frontier(suite: Suite, block: Block, name: str) -> Drawing | None:
    """Small panels by steps: perplexity over entropy, a curve over the temperatures."""
    denoisers = [c for c in block.cells if c.record.kind == "diffusion"]
    steps = sorted({c.steps for c in denoisers if c.steps is not None}, reverse=True)
    panels = []
    for number in steps:
        cells = [c for c in block.cells if c.steps in (number, None)]
        lines = _frontier_lines(suite, block, cells)
        if any(len(line.x) > 1 for line in lines if line.colour != GREY):
            title = f"{number} step{'s' * (number != 1)}"
            panels.append(Panel("perplexity", lines, logarithmic=True, title=title))
    if not panels:
        return None
    return Drawing(
        name=name,
        title=_titled("The frontier of perplexity and entropy", block),
        caption="Perplexity (logarithmic) against entropy, a point a temperature: of two curves the"
        " lower is better, at every entropy that both reach.",
        label="entropy of a text (nats)",
        scale="linear",
        panels=panels,
    )


def _frontier_lines(suite: Suite, block: Block, cells: Sequence[Cell]) -> list[Line]:
    colours = _colours(suite, block.cells)
    curves: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: rank(cell, suite.teacher), reverse=True):
        top_p = f"top-p {cell.top_p:g}" if cell.top_p != 1 else ""
        name, group = cell.model, ", ".join(filter(None, [sampler_words(cell), top_p]))
        if cell.record.kind != "diffusion":
            name, group = ", ".join(filter(None, [cell.model, top_p])), ""
        if not math.isnan(cell.number("perplexity") + cell.number("entropy")):
            curves.setdefault((name, group), []).append(cell)
    return [
        _line(name, group, colours[found[0].model], found, _of("perplexity"), _entropy)
        for (name, group), found in curves.items()
    ]


def _entropy(cell: Cell) -> float:
    return cell.number("entropy")


def _by_machine(suite: Suite) -> list[Block]:
    """Perplexity blocks, divided by where the samples were timed."""
    found = []
    for block in perplexity_blocks(suite):
        machines: dict[str, list[Cell]] = {}
        for cell in shown(block.cells):
            drawn = suite.at("samples", cell)
            if cell.record.kind == "text":  # was not drawn
                continue
            if drawn is not None and drawn.number("seconds_per_sample") > 0:
                machines.setdefault(machine_of(drawn), []).append(cell)
        for machine, cells in machines.items():
            parts = [block.heading, f"timed with {machine}" if len(machines) > 1 else ""]
            found.append(Block(", ".join(filter(None, parts)), block.context, cells))
    return found


def _perplexity_seconds(suite: Suite, block: Block, name: str) -> Drawing | None:
    colours = _colours(suite, block.cells)

    def seconds_of(cell: Cell) -> float:
        drawn = suite.at("samples", cell)
        return drawn.number("seconds_per_sample") if drawn else math.nan

    curves: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(block.cells, key=lambda cell: rank(cell, suite.teacher), reverse=True):
        label = (
            cell.model
            if cell.steps is not None
            else ", ".join(filter(None, [cell.model, change_words(cell)]))
        )
        if not math.isnan(cell.number("perplexity")):
            curves.setdefault((label, _group(cell)), []).append(cell)
    lines = [
        _line(label, group, colours[found[0].model], found, _of("perplexity"), seconds_of, _number)
        for (label, group), found in curves.items()
    ]
    first = {line.group: i for i, line in enumerate(lines)}  # the last drawn, on top
    lines = [
        line if first[line.group] == i else replace(line, texts=()) for i, line in enumerate(lines)
    ]
    if not any(len(line.x) > 1 for line in lines):
        return None
    return Drawing(
        name=name,
        title=_titled("Perplexity over seconds a sample", block),
        caption="Perplexity under the judge against the wall time of a sample, both logarithmic;"
        " the numbers at the points are steps. Entropies differ: see the table.",
        label="seconds a sample",
        scale="log",
        panels=[Panel("perplexity", lines, logarithmic=True)],
    )


def _number(cell: Cell) -> str:
    return "" if cell.steps is None else str(cell.steps)


def _best_of(suite: Suite, block: Block, name: str) -> Drawing | None:
    colours = _colours(suite, block.cells)
    lines = []
    for cell in sorted(block.cells, key=lambda cell: rank(cell, suite.teacher), reverse=True):
        points = [p for p in curve_entries(cell) if p["seconds"] > 0 and not math.isnan(p["nll"])]
        if not points:
            continue
        steps = f"{cell.steps} steps" if cell.steps is not None else ""
        line = Line(
            name=cell.model,
            group=", ".join(filter(None, [_group(cell), steps])),
            colour=colours[cell.model],
            x=[p["seconds"] for p in points],
            y=[p["nll"] for p in points],
            errors=[p["nll_se"] for p in points],
            texts=[f"{p['n']:g}" for p in points],
        )
        lines.append(line)
    if not lines:
        return None
    return Drawing(
        name=name,
        title=_titled("Best of n over seconds", block),
        caption="NLL of the best of n texts under the scorer that chose it, against the seconds"
        " that n texts take; the numbers at the points are n. Bars are one standard error.",
        label="seconds a chosen text",
        scale="log",
        panels=[Panel("NLL of the best (nats a token)", lines)],
    )
