"""A figure as data: panels of lines, and the file of its numbers."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

INK = "#111111"
"""Text, axes and the teacher: the page shows it in the colour of its own text."""

Scale = Literal["steps", "log", "linear", "names"]


@dataclass(frozen=True)
class Line:
    """Some points of one model; a level is one without x.

    Attributes:
        name: Of the model, beside the end of the line.
        group: What its dashes mean, such as the sampler; in the key. "" for what is no denoiser: a
            level, or points with a mark of their own.
        colour: Of the model.
        x: Of each point; empty for a level, which crosses the panel.
        y: Of each point.
        errors: Standard errors; nan where unknown.
        texts: Beside the points; empty for none.
        hollow: Drawn as single hollow markers, as the controls are.
        dotted: Of a level: real text.
    """

    name: str
    group: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float]
    texts: Sequence[str] = ()
    hollow: bool = False
    dotted: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        label: Of the y axis.
        lines: Later ones are drawn over earlier ones.
        logarithmic: The y axis.
        title: Above the panel.
    """

    label: str
    lines: Sequence[Line]
    logarithmic: bool = False
    title: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure with what it shows.

    Attributes:
        name: Of its files.
        title: Above it on the page.
        caption: What it shows, and under which settings.
        label: Of the x axis, which all panels share.
        scale: Of the x axis.
        panels: Below each other; beside each other where they have titles.
        names: Of the places 0, 1, ... along x, where the scale is "names".
    """

    name: str
    title: str
    caption: str
    label: str
    scale: Scale
    panels: Sequence[Panel]
    names: Sequence[str] = field(default=())


def as_csv(drawing: Drawing) -> str:
    """The numbers of a figure, one row a point; a level has no x, an unknown error is blank."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["panel", "series", "line", drawing.label, "value", "standard_error"])
    for panel in drawing.panels:
        for line in panel.lines:
            kind = f"{line.group}, control" if line.hollow else line.group
            for i, (y, error) in enumerate(zip(line.y, line.errors, strict=True)):
                x = _place(drawing, line.x[i]) if line.x else ""
                known = "" if math.isnan(error) else error
                write([panel.title or panel.label, line.name, kind, x, y, known])
    return text.getvalue()


def _place(drawing: Drawing, x: float) -> float | str:
    return drawing.names[int(x)] if drawing.scale == "names" else x
