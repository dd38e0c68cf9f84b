"""The ladder as a figure: drawn on objects of its own, no pyplot, no global state."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
from sdtt.report.ladder import Cell, Cells, Ladder, Metrics, read_ladder

SIZE = 6.5, 6.0  # inches
Quantity = Literal["perplexity", "entropy"]


@dataclass(frozen=True)
class Curve:
    """One model over the steps, and how it is drawn."""

    name: str
    cells: Cells
    colour: str
    marker: str = "o"
    dashed: bool = False
    width: float = 1.2


def plot_ladder(metrics: Metrics, path: Path) -> None:
    """Judge perplexity (log scale) above unigram entropy (nats), both over the sampling steps.

    Teacher, every student, the control of the last student (dashed), and the autoregressive twin
    and real text as horizontal lines; each is named beside its end.

    Args:
        metrics: As `read_ladder` takes them.
        path: Where to write; the ending chooses the format (.png, .pdf, .svg).
    """
    ladder = read_ladder(metrics)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH)
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.25, 1])
        figure.subplots_adjust(left=0.1, right=0.765, top=0.98, bottom=0.08, hspace=0.09)
        steps_axis(below, ladder.steps)
        above.set_yscale("log")
        above.set_ylabel("judge perplexity")
        below.set_ylabel("unigram entropy per sample (nats)")
        below.set_xlabel("sampling steps")
        _draw(above, ladder, "perplexity")
        _draw(below, ladder, "entropy")
        figure.align_ylabels([above, below])
        figure.savefig(path)


def _curves(ladder: Ladder) -> list[Curve]:
    """Later curves are drawn over earlier ones."""
    curves = [Curve("teacher", ladder.teacher, BLACK, marker="s", width=1.6)]
    if not ladder.students:
        return curves
    *earlier, last = ladder.students
    for i, number in enumerate(earlier):
        name, colour = f"student, round {number}", EARLIER[i % len(EARLIER)]
        curves.append(Curve(name, ladder.students[number], colour, marker="^vDP<>"[i % 6]))
    if ladder.controls[last]:
        name = f"control of round {last}:\ncooled teacher"
        curves.append(Curve(name, ladder.controls[last], VERMILLION, dashed=True))
    curves.append(Curve(f"student, round {last}", ladder.students[last], VERMILLION, width=2.0))
    return curves


def _draw(axes: Axes, ladder: Ladder, quantity: Quantity) -> None:
    labels = []
    for curve in _curves(ladder):
        x, y = list(curve.cells), [getattr(cell, quantity) for cell in curve.cells.values()]
        errors = [getattr(cell, f"{quantity}_se") or 0.0 for cell in curve.cells.values()]
        axes.errorbar(
            x,
            y,
            yerr=errors if any(errors) else None,
            color=curve.colour,
            linestyle=(0, (4, 2)) if curve.dashed else "-",
            linewidth=curve.width,
            elinewidth=0.8,
            marker=curve.marker,
            markersize=4.2,
            markerfacecolor="white" if curve.dashed else curve.colour,
        )
        labels.append(Label(curve.name, curve.colour, float(x[0]), y[0]))
    right = max(ladder.steps) * 1.12
    axes.set_xlim(min(ladder.steps) / 1.12, right)
    levels: dict[str, tuple[Cell | None, str]] = {
        "autoregressive": (ladder.autoregressive, "-."),
        "real text": (ladder.data, ":"),
    }
    for name, (cell, style) in levels.items():
        if cell is not None:
            y = getattr(cell, quantity)
            axes.axhline(y, color=GREY, linestyle=style, linewidth=1.1, zorder=1)
            labels.append(Label(name, GREY, right, y))
    if quantity == "perplexity":
        logarithmic_ticks(axes)
    plain_frame(axes)
    name_ends(axes, labels)
