"""The pair as a figure: perplexity and entropy over steps, time along the top."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sdtt.report.axes import (
    BLACK,
    DOTS_PER_INCH,
    EARLIER,
    GREY,
    STYLE,
    VERMILLION,
    Label,
    logarithmic_ticks,
    name_ends,
    plain_frame,
    steps_axis,
)
from sdtt.report.pair_compare import comparisons
from sdtt.report.pair_records import Cell, Pair

SIZE = 6.8, 6.8  # inches
DASHES = (0, (4, 2))
LEVELS = ("-.", (0, (3, 1, 1, 1, 1, 1)), ":")  # of the horizontal lines

Quantity = Literal["perplexity", "entropy"]


@dataclass(frozen=True)
class Series:
    """One model in one order, its cells by ascending steps."""

    cells: list[Cell]
    colour: str

    @property
    def dashed(self) -> bool:
        """Whether it is drawn as the random order is."""
        return self.cells[0].order != "dilated"

    @property
    def marker(self) -> Literal["o", "s"]:
        """Of the order."""
        return "s" if self.dashed else "o"


def plot_pair(pair: Pair, path: Path) -> None:
    """Judge perplexity (log scale) above unigram entropy (nats), both over the sampling steps.

    One colour a model, solid in the dilated order and dashed in the random one; controls, at their
    student's entropy by construction, are hollow markers in the upper panel. Autoregressive and
    real text are horizontal lines. Along the top: seconds a sample of the teacher in the dilated
    order.

    Args:
        pair: The cells; only plain draws are shown, but for the autoregressive.
        path: Where to write; the ending chooses the format (.png, .pdf, .svg).
    """
    series = list(_series(pair))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH)
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.35, 1])
        figure.subplots_adjust(left=0.1, right=0.765, top=0.92, bottom=0.07, hspace=0.09)
        steps = sorted({cell.steps or 1 for line in series for cell in line.cells})
        steps_axis(below, steps)
        above.set_yscale("log")
        above.set_ylabel("judge perplexity")
        below.set_ylabel("unigram entropy per sample (nats)")
        below.set_xlabel("sampling steps")
        below.set_xlim(steps[0] / 1.12, steps[-1] * 1.12)
        shown = _controls(above, pair, series)
        _draw(above, pair, series, "perplexity")
        _draw(below, pair, series, "entropy")
        _time_axis(above, series)
        _key(above, series, shown)
        figure.align_ylabels([above, below])
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)


def _series(pair: Pair) -> Iterator[Series]:
    """Later lines are drawn over earlier ones; the last student stands out."""
    students = {cell.name: cell.student_steps or 0 for cell in pair.of("student") if cell.plain}
    names = sorted(students, key=lambda name: (-students[name], name))
    colours = {name: EARLIER[i % len(EARLIER)] for i, name in enumerate(names[:-1])}
    for who, name in [("teacher", ""), *(("student", name) for name in names)]:
        cells = [c for c in pair.cells if c.who == who and c.plain and name in ("", c.name)]
        for order in sorted({c.order or "" for c in cells}, reverse=True):  # dilated on top
            line = sorted(
                (c for c in cells if (c.order or "") == order), key=lambda c: c.steps or 0
            )
            colour = BLACK if who == "teacher" else colours.get(name, VERMILLION)
            yield Series(line, colour)


def _controls(axes: Axes, pair: Pair, series: list[Series]) -> bool:
    """Hollow markers, larger than those of the students so that they show around them."""
    colours = {(line.cells[0].name, line.cells[0].order): line for line in series}
    matched = [c for c in comparisons(pair) if c.student.plain and c.control is not None]
    for comparison in matched:
        student, control = comparison.student, comparison.control
        line = colours[student.name, student.order]
        y = math.exp(control.point.nll) if control else math.nan
        axes.plot(
            [student.steps or 1],
            [y],
            line.marker,
            markersize=6.2,
            markerfacecolor="none",
            markeredgecolor=line.colour,
            markeredgewidth=0.9,
        )
    return bool(matched)


def _draw(axes: Axes, pair: Pair, series: list[Series], quantity: Quantity) -> None:
    ends: dict[str, Label] = {}
    for line in series:
        x = [cell.steps or 1 for cell in line.cells]
        y = [getattr(cell, quantity) for cell in line.cells]
        errors = [_error(cell, quantity) for cell in line.cells]
        axes.errorbar(
            x,
            y,
            yerr=errors,
            color=line.colour,
            linestyle=DASHES if line.dashed else "-",
            linewidth=1.3,
            elinewidth=0.8,
            marker=line.marker,
            markersize=3.4,
        )
        name = line.cells[0].name  # both orders end close together: one name, beside the later
        ends[name] = Label(name.replace(", ", ",\n"), line.colour, float(x[-1]), y[-1])
    labels = list(ends.values())
    right = axes.get_xlim()[1]
    levels = [cell for who in ("autoregressive", "text") for cell in pair.cells if cell.who == who]
    for i, cell in enumerate(levels):
        y_level = getattr(cell, quantity)
        style = LEVELS[-1] if cell.who == "text" else LEVELS[i % (len(LEVELS) - 1)]
        axes.axhline(y_level, color=GREY, linestyle=style, linewidth=1.1, zorder=1)
        labels.append(Label(label_of(cell).replace(", ", ",\n"), GREY, right, y_level))
    if quantity == "perplexity":
        logarithmic_ticks(axes)
    plain_frame(axes)
    name_ends(axes, labels)


def _error(cell: Cell, quantity: Quantity) -> float:
    error = cell.perplexity * cell.nll_se if quantity == "perplexity" else cell.entropy_se
    return error if math.isfinite(error) else 0.0


def label_of(cell: Cell) -> str:
    """The name of a cell, with what makes its draws other than plain."""
    changes = {
        f"T {cell.temperature:g}": cell.temperature != 1,
        f"top-p {cell.top_p:g}": cell.top_p != 1,
        f"{cell.draws} draws": cell.draws != "float64",
    }
    return ", ".join([cell.name, *(text for text, holds in changes.items() if holds)])


def _time_axis(axes: Axes, series: list[Series]) -> None:
    """Seconds a sample above each number of steps, where the teacher's dilated order has them."""
    teacher = [c for line in series for c in line.cells if c.who == "teacher"]
    timed = {c.steps: c.seconds for c in teacher if c.order == "dilated" and c.seconds > 0}
    if not timed:
        return
    top = axes.secondary_xaxis("top")
    top.xaxis.set_major_locator(FixedLocator([float(steps or 1) for steps in timed]))
    top.xaxis.set_minor_locator(NullLocator())
    top.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{_seconds(timed[round(x)])}"))
    top.set_xlabel("seconds a sample (teacher, dilated order)", labelpad=5)
    top.spines["top"].set_linewidth(0.6)


def _key(axes: Axes, series: list[Series], controls: bool) -> None:
    """What dashes and hollow markers mean; colours are named beside the lines."""
    entries = []
    for line in {line.dashed: line for line in series}.values():
        entries.append(
            Line2D(
                [],
                [],
                color=GREY,
                linestyle=DASHES if line.dashed else "-",
                marker=line.marker,
                markersize=3.4,
                label=f"{line.cells[0].order} order",
            )
        )
    if controls:
        hollow = Line2D([], [], color=GREY, linestyle="", marker="o", markersize=6.2)
        hollow.set_markerfacecolor("none")
        hollow.set_label("control: teacher at\nthe student's entropy")
        entries.append(hollow)
    axes.legend(handles=entries, loc="upper right", frameon=False, handlelength=2.6)


def _seconds(value: float) -> str:
    """Two digits, or all before the point: 0.034, 0.20, 1.5, 12, 120."""
    places = max(1 - math.floor(math.log10(value)), 0)
    return f"{value:.{places}f}"
