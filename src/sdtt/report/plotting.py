"""All figures of an evaluation are drawn by this hand: panels of lines, named beside their ends."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from sdtt.report.axes import (
    DOTS_PER_INCH,
    GREY,
    STYLE,
    Label,
    logarithmic_ticks,
    name_ends,
    plain_frame,
    steps_axis,
)
from sdtt.report.drawing import INK, Drawing, Line, Panel

IN_INK: Any = STYLE | {
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "text.parse_math": False,  # a dollar in the name of a model is a dollar
}

WIDTH = 6.8  # inches
DASHES = ("-", (0, (4, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vP"


def draw(drawing: Drawing, paths: Sequence[Path]) -> None:
    """Draws a figure once and writes it; the endings choose the formats (.svg, .png).

    Matplotlib's settings are left as they were.
    """
    with mpl.rc_context(IN_INK):
        figure = _figure(drawing)
        for path in paths:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _figure(drawing: Drawing) -> Figure:
    beside = [panel for panel in drawing.panels if panel.title]
    columns = min(len(beside), 3) or 1
    rows = math.ceil(len(drawing.panels) / columns)
    keys = _keys(drawing, colours_too=bool(beside))
    above = 0.1 + 0.145 * math.ceil(len(keys) / _columns(keys)) + 0.26 * bool(beside)  # inches
    height = 0.45 + above + rows * (2.1 if beside else 2.9 if rows == 1 else 2.5)
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=bool(beside))
    axes = list(grid.flat)
    for spare in axes[len(drawing.panels) :]:
        spare.set_visible(False)
    figure.subplots_adjust(
        left=0.1,
        right=0.98 if beside else 0.775,
        top=1 - above / height,
        bottom=0.45 / height,
        hspace=0.24 if beside else 0.1,
        wspace=0.1,
    )
    for i, (panel, one) in enumerate(zip(drawing.panels, axes, strict=False)):
        _panel(drawing, panel, one)
        if beside:
            one.set_title(panel.title, fontsize=8.5, loc="left")
        last_of_column = i + columns >= len(drawing.panels)
        one.set_xlabel(drawing.label if last_of_column else "")
        one.xaxis.set_tick_params(labelbottom=last_of_column)
        one.set_ylabel(panel.label if i % columns == 0 else "")
    if not beside:
        for panel, one in zip(drawing.panels, axes, strict=True):
            name_ends(one, _labels(panel, one))
        figure.align_ylabels(axes)
    if keys:
        _legend(figure, keys, height)
    return figure


def _groups(drawing: Drawing) -> list[str]:
    return sorted({line.group for panel in drawing.panels for line in panel.lines} - {""})


def _markers(drawing: Drawing) -> dict[tuple[str, str], str]:
    """By group and name: a mark a group, and one for each of those without."""
    names = dict.fromkeys(
        line.name for panel in drawing.panels for line in panel.lines if line.x and not line.group
    )
    marks = {("", name): "x+*1234"[i % 7] for i, name in enumerate(names)}
    groups = {(group, ""): MARKERS[i % len(MARKERS)] for i, group in enumerate(_groups(drawing))}
    return {**marks, **groups}


def _dashes(drawing: Drawing, group: str) -> Any:
    return DASHES[_groups(drawing).index(group) % len(DASHES)] if group else "-."


def _panel(drawing: Drawing, panel: Panel, axes: Axes) -> None:
    xs = sorted({x for each in drawing.panels for line in each.lines for x in line.x})
    if panel.logarithmic:
        axes.set_yscale("log")
    if drawing.scale == "steps":
        steps_axis(axes, [int(x) for x in xs])
        axes.set_xlim(xs[0] / 1.15, xs[-1] * 1.15)
    elif drawing.scale == "log":
        axes.set_xscale("log")
    elif drawing.scale == "names":
        axes.xaxis.set_major_locator(FixedLocator([float(i) for i in range(len(drawing.names))]))
        axes.set_xticks(range(len(drawing.names)), drawing.names)
        axes.set_xlim(-0.3, len(drawing.names) - 0.7)
    for line in panel.lines:
        if line.x:
            _curve(drawing, axes, line)
        else:
            _level(axes, line)
    axes.autoscale_view()
    if panel.logarithmic:
        logarithmic_ticks(axes)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    if drawing.scale == "log":
        _round_times(axes)
    plain_frame(axes)


def _round_times(axes: Axes) -> None:
    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high < 300 * low else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")


def _curve(drawing: Drawing, axes: Axes, line: Line) -> None:
    own = (line.group, "") if line.group else ("", line.name)
    marker = _markers(drawing)[own]
    if line.hollow:
        style: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 0.9}
        axes.plot(line.x, line.y, marker, color=line.colour, markersize=6.4, **style)
        return
    axes.errorbar(
        line.x,
        line.y,
        yerr=[0.0 if math.isnan(error) else error for error in line.errors],
        color=line.colour,
        linestyle=_dashes(drawing, line.group),
        linewidth=1.3,
        elinewidth=0.8,
        marker=marker,
        markersize=3.6 if line.group else 5.0,
    )
    for x, y, text in zip(line.x, line.y, line.texts, strict=False):
        axes.annotate(
            text,
            (x, y),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=6.5,
            color=line.colour,
        )


def _level(axes: Axes, line: Line) -> None:
    style = ":" if line.dotted else "-."
    axes.axhline(line.y[0], color=line.colour, linestyle=style, linewidth=1.1, zorder=1)
    error = line.errors[0]
    if error > 0:
        low, high = line.y[0] - error, line.y[0] + error
        axes.axhspan(low, high, color=line.colour, alpha=0.12, linewidth=0, zorder=0)


def _labels(panel: Panel, axes: Axes) -> list[Label]:
    """One name a model, beside the end of its first line; levels beside the edge."""
    ends: dict[str, Label] = {}
    right = axes.get_xlim()[1]
    for line in panel.lines:
        if line.hollow or line.name in ends:
            continue
        x, y = (max(zip(line.x, line.y, strict=True))) if line.x else (right, line.y[0])
        ends[line.name] = Label(_wrapped(line.name), line.colour, float(x), float(y))
    return list(ends.values())


def _wrapped(name: str) -> str:
    """A long name in three lines at most, broken at commas first; its middle may be left out."""
    if len(name) > 44:
        name = f"{name[:17]}…{name[-20:]}"
    lines: list[str] = []
    for part in name.replace(", ", ",\n").splitlines():
        if lines and len(lines[-1]) + len(part) < 20:
            lines[-1] += f" {part}"
        else:
            lines += textwrap.wrap(part, 20)
    return "\n".join(lines)


def _keys(drawing: Drawing, *, colours_too: bool) -> list[Line2D]:
    """What dashes and hollow markers mean; colours where they are not named at the lines."""
    lines = [line for panel in drawing.panels for line in panel.lines]
    markers, groups = _markers(drawing), _groups(drawing)
    keys = []
    if colours_too:
        for name, line in {line.name: line for line in reversed(lines)}.items():
            key = Line2D([], [], color=line.colour, label=name, linewidth=2.4, markersize=5)
            if not line.group:
                key.set_linestyle("")
                key.set_marker(markers["", name])
            keys.append(key)
    if len(groups) > 1:
        for group in groups:
            key = Line2D([], [], color=GREY, label=group, linewidth=1.2, markersize=3.6)
            key.set_marker(markers[(group, "")])
            key.set_linestyle(_dashes(drawing, group))
            keys.append(key)
    if any(line.hollow for line in lines):
        hollow = Line2D([], [], color=GREY, linestyle="", marker="o", markersize=6.4)
        hollow.set_markerfacecolor("none")
        hollow.set_label("control: cooled teacher")
        keys.append(hollow)
    return keys


def _columns(keys: Sequence[Line2D]) -> int:
    """As many as fit beside each other, by the longest text."""
    longest = max((len(str(key.get_label())) for key in keys), default=1)
    return max(int(0.88 * WIDTH / (0.5 + 0.062 * longest)), 1)


def _legend(figure: Figure, keys: Sequence[Line2D], height: float) -> None:
    figure.legend(
        handles=list(keys),
        loc="upper left",
        bbox_to_anchor=(0.09, 1 - 0.03 / height),
        ncols=_columns(keys),
        frameon=False,
        fontsize=7.5,
        columnspacing=1.4,
        handlelength=2.4,
        labelspacing=0.35,
        borderpad=0.0,
    )
