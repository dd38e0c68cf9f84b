"""The ladder as a figure: drawn on objects of its own, no pyplot, no global state."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from sdtt.report.ladder import Cell, Cells, Ladder, Metrics, read_ladder

SIZE = 6.5, 6.0  # inches
DOTS_PER_INCH = 200

# The palette of Okabe and Ito, which colour-blind readers can tell apart, without its yellow, which
# is too pale for lines on white.
BLACK, VERMILLION = "#000000", "#D55E00"
EARLIER = "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#E69F00"
GREY = "#666666"

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


@dataclass(frozen=True)
class Label:
    """A name beside the end of its line."""

    text: str
    colour: str
    x: float
    y: float


def plot_ladder(metrics: Metrics, path: Path) -> None:
    """Judge perplexity (log scale) above unigram entropy (nats), both over the sampling steps.

    Teacher, every student, the control of the last student (dashed), and the autoregressive twin
    and real text as horizontal lines; each is named beside its end.

    Args:
        metrics: As `read_ladder` takes them.
        path: Where to write; the ending chooses the format (.png, .pdf, .svg).
    """
    ladder = read_ladder(metrics)
    # Type 42: vector output carries its TrueType fonts, as publishers ask.
    with mpl.rc_context({"font.size": 8.5, "pdf.fonttype": 42, "ps.fonttype": 42}):
        figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH)
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.25, 1])
        figure.subplots_adjust(left=0.1, right=0.765, top=0.98, bottom=0.08, hspace=0.09)
        _steps_axis(below, ladder.steps)
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


def _steps_axis(axes: Axes, steps: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


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
        low, high = axes.get_ylim()
        few, many = (1, 2, 5), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
        axes.yaxis.set_major_locator(LogLocator(subs=few if high > 8 * low else many))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    _name_ends(axes, labels)


def _name_ends(axes: Axes, labels: Sequence[Label]) -> None:
    """Each name right of the axes, level with its line where its neighbours leave it room."""
    to_axes = axes.transData + axes.transAxes.inverted()
    axes.autoscale_view()
    labels = sorted(labels, key=lambda label: label.y)
    height = axes.get_window_extent().height / axes.figure.dpi * 72  # points
    room = [(1 + label.text.count("\n")) * 11.0 / height for label in labels]
    wanted = [float(to_axes.transform((label.x, label.y))[1]) for label in labels]
    for label, y in zip(labels, spread(wanted, room), strict=True):
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(1.045, y),
            textcoords="axes fraction",
            color=label.colour,
            verticalalignment="center",
            linespacing=1.0,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "linewidth": 0.5,
                "alpha": 0.7,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def spread(wanted: Sequence[float], room: Sequence[float]) -> list[float]:
    """The places in [0, 1] nearest to those wanted, in squares, that leave each label its room.

    Neighbours i, i+1 must lie (room_i + room_{i+1}) / 2 apart. Less the cumulated distances this is
    isotonic regression: pool what violates the order, place each pool at its mean, and clip.

    Args:
        wanted: Centres, ascending, as fractions of the height.
        room: Heights of the labels, as fractions of the height.

    Returns:
        Centres, ascending.
    """
    offsets = [sum(room[:i]) + room[i] / 2 for i in range(len(room))]
    pools: list[list[float]] = []
    for place, offset in zip(wanted, offsets, strict=True):
        pools.append([place - offset])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    top = max(1 - sum(room), 0.0)
    means = [min(max(_mean(pool), 0.0), top) for pool in pools for _ in pool]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
