"""What our figures share: palette, type, axes over sampling steps, names beside line ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

DOTS_PER_INCH = 200

# The palette of Okabe and Ito, which colour-blind readers can tell apart, without its yellow, which
# is too pale for lines on white.
BLACK, VERMILLION = "#000000", "#D55E00"
EARLIER = "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#E69F00"
GREY = "#666666"

# Type 42: a PDF carries its TrueType fonts, as publishers ask; an SVG carries outlines.
STYLE: Any = {
    "font.size": 8.5,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "sdtt",  # else every SVG of the same numbers is another file
}


@dataclass(frozen=True)
class Label:
    """A name beside the end of its line."""

    text: str
    colour: str
    x: float
    y: float


def steps_axis(axes: Axes, steps: Sequence[int]) -> None:
    """Powers of two along x, a tick at each number of steps that was measured."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def logarithmic_ticks(axes: Axes) -> None:
    """Round numbers along a logarithmic y axis, more of them where it is short."""
    low, high = axes.get_ylim()
    few, many = (1, 2, 5), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    axes.yaxis.set_major_locator(LogLocator(subs=few if high > 8 * low else many))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: short_number(y)))


def short_number(number: float) -> str:
    """A number that fits beside an axis: 0.5, 2,000, 2.5M."""
    return f"{number / 1e6:,g}M" if number >= 1e5 else f"{number:,g}"


def plain_frame(axes: Axes) -> None:
    """No box but a pale grid, behind everything."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)


def name_ends(axes: Axes, labels: Sequence[Label]) -> None:
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
