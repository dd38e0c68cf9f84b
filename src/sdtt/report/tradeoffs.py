"""Figures of what is paid for what: perplexity for entropy or seconds, and the best of n."""

import math
from collections.abc import Sequence
from dataclasses import replace

from sdtt.report.axes import GREY
from sdtt.report.best_of import curve_entries
from sdtt.report.blocks import Block, sampler_words, titled
from sdtt.report.cells import Cell
from sdtt.report.drawing import Drawing, Line, Panel
from sdtt.report.matched import is_student
from sdtt.report.quality import machine_of, perplexity_blocks
from sdtt.report.series import colours_of, group_of, line_of, name_of, number_of
from sdtt.report.suite import Suite, ranked, shown


def frontier(suite: Suite, block: Block, name: str) -> Drawing | None:
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
        title=titled("The frontier of perplexity and entropy", block),
        caption="Perplexity (logarithmic) against entropy, a point a temperature: of two curves the"
        " lower is better, at every entropy that both reach.",
        label="entropy of a text (nats)",
        scale="linear",
        panels=panels,
    )


def _frontier_lines(suite: Suite, block: Block, cells: Sequence[Cell]) -> list[Line]:
    colours = colours_of(suite, block.cells)
    curves: dict[tuple[str, str], list[Cell]] = {}
    for cell in ranked(suite, cells)[::-1]:
        top_p = f"top-p {cell.top_p:g}" if cell.top_p != 1 else ""
        name, group = cell.model, ", ".join(filter(None, [sampler_words(cell), top_p]))
        if cell.record.kind != "diffusion":
            name, group = ", ".join(filter(None, [cell.model, top_p])), ""
        if not math.isnan(cell.number("perplexity") + cell.number("entropy")):
            curves.setdefault((name, group), []).append(cell)
    return [
        line_of(name, group, colours[found[0].model], found, number_of("perplexity"), _entropy)
        for (name, group), found in curves.items()
    ]


def _entropy(cell: Cell) -> float:
    return cell.number("entropy")


def by_machine(suite: Suite) -> list[Block]:
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


def perplexity_seconds(suite: Suite, block: Block, name: str) -> Drawing | None:
    """Perplexity over the wall time of a sample; None without a line."""
    colours = colours_of(suite, block.cells)

    def seconds_of(cell: Cell) -> float:
        drawn = suite.at("samples", cell)
        return drawn.number("seconds_per_sample") if drawn else math.nan

    curves: dict[tuple[str, str], list[Cell]] = {}
    for cell in ranked(suite, block.cells)[::-1]:
        if not math.isnan(cell.number("perplexity")):
            curves.setdefault((name_of(cell), group_of(cell)), []).append(cell)
    lines = [
        line_of(
            label,
            group,
            colours[found[0].model],
            found,
            number_of("perplexity"),
            seconds_of,
            _number,
        )
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
        title=titled("Perplexity over seconds a sample", block),
        caption="Perplexity under the judge against the wall time of a sample, both logarithmic;"
        " the numbers at the points are steps. Entropies differ: see the table.",
        label="seconds a sample",
        scale="log",
        panels=[Panel("perplexity", lines, logarithmic=True)],
    )


def _number(cell: Cell) -> str:
    return "" if cell.steps is None else str(cell.steps)


def best_of(suite: Suite, block: Block, name: str) -> Drawing | None:
    """NLL of the best of n over the time that n texts take; None without a point."""
    colours = colours_of(suite, block.cells)
    lines = []
    for cell in ranked(suite, _to_choose_from(suite, block.cells))[::-1]:
        points = [p for p in curve_entries(cell) if p["seconds"] > 0 and not math.isnan(p["nll"])]
        if not points:
            continue
        steps = f"{cell.steps} steps" if cell.steps is not None else ""
        line = Line(
            name=cell.model,
            group=", ".join(filter(None, [group_of(cell), steps])),
            colour=colours[cell.model],
            x=[p["seconds"] for p in points],
            y=[p["nll"] for p in points],
            errors=[p["nll_se"] for p in points],
            texts=[f"{p['n']:g}" if p in (points[0], points[-1]) else "" for p in points],
        )
        lines.append(line)
    if not lines:
        return None
    return Drawing(
        name=name,
        title=titled("Best of n over seconds", block),
        caption=f"NLL of the best of n texts under the {_judge_of(block)}, against the seconds"
        " that n texts take, from the first number at a line to the last. Of the students the last,"
        " of each number of steps the sampler whose texts are likeliest, from the models' own laws;"
        " the table has all. Bars are one standard error.",
        label="seconds a chosen text",
        scale="log",
        panels=[Panel("NLL of the best (nats a token)", lines)],
    )


def _judge_of(block: Block) -> str:
    """Whose NLL a curve shows."""
    if block.context.get("chosen_by_judge") is False:
        return "judge, which had no part in the choice"
    return "scorer that chose it"


def _to_choose_from(suite: Suite, cells: Sequence[Cell]) -> list[Cell]:
    """Few enough to be seen: plain draws, the last student, the best sampler at each step count."""
    plain = [cell for cell in cells if cell.temperature == 1 and cell.top_p == 1] or list(cells)
    taught = {
        cell.model: cell.record.taught_steps or 0
        for cell in plain
        if is_student(cell, suite.teacher)
    }
    last = min(taught, key=lambda model: taught[model], default=None)
    best: dict[tuple[str, int | None], Cell] = {}
    for cell in plain:
        if cell.model in taught and cell.model != last:
            continue
        place = cell.model, cell.steps
        if place not in best or _alone(cell) < _alone(best[place]):
            best[place] = cell
    return list(best.values())


def _alone(cell: Cell) -> float:
    """The NLL of a text that nobody chose; infinite where it is not known."""
    known = [point["nll"] for point in curve_entries(cell) if not math.isnan(point["nll"])]
    return known[0] if known else math.inf
