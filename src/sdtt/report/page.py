"""The report as one HTML file that needs no other: styles, script, figures and samples inside."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from sdtt.report.axes import EARLIER, GREY, VERMILLION
from sdtt.report.drawing import INK, Drawing
from sdtt.report.rendering import Table, as_html
from sdtt.report.replay import Samples

VARIABLES = {
    INK: "ink",
    GREY: "grey",
    "#E6E6E6": "grid",
    "#FFFFFF": "paper",
    VERMILLION: "vermillion",
    **{colour: f"series-{i}" for i, colour in enumerate(EARLIER, 1)},
}
"""The colours of the figures, which the page has in a light and a dark form."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        figures: With the SVG of each.
        tables: Below the figures.
    """

    title: str
    figures: Sequence[tuple[Drawing, str]]
    tables: Sequence[Table]


def render_page(
    title: str,
    summary: Sequence[str],
    how_to_read: str,
    sections: Sequence[Section],
    samples: Samples,
    about: Sequence[str],
) -> str:
    """The page.

    Args:
        title: Its heading.
        summary: Sentences at the top.
        how_to_read: A paragraph below them.
        sections: Figures and tables.
        samples: For the replay.
        about: Sentences at the end: what was read, by what.

    Returns:
        HTML that loads nothing: its policy forbids it, and runs no script but its own.
    """
    resources = files("sdtt.report")
    script = resources.joinpath("page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(resources.joinpath("page.html").read_text("utf-8")).substitute(
        title=escape(title),
        style=resources.joinpath("page.css").read_text("utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
        contents=_contents(sections, samples),
        summary="\n".join(f"<li>{escape(sentence)}</li>" for sentence in summary),
        how_to_read=escape(how_to_read),
        sections="\n".join(_section(section) for section in sections),
        samples_hidden="" if samples.draws else "hidden",
        sample_notes=_paragraphs(samples.notes),
        draws=_json(samples.draws),
        # why there are no samples is not said in a section that is hidden
        about=_paragraphs([*about, *(() if samples.draws else samples.notes)]),
    )


def _paragraphs(sentences: Sequence[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _contents(sections: Sequence[Section], samples: Samples) -> str:
    links = [(_slug(section.title), section.title) for section in sections]
    links += [("samples", "Samples")] * bool(samples.draws)
    return "\n".join(f'<a href="#{slug}">{escape(name)}</a>' for slug, name in links)


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _section(section: Section) -> str:
    drawn = "\n".join(_figure(drawing, svg) for drawing, svg in section.figures)
    figures = f'<div class="figures">\n{drawn}\n</div>'
    tables = "\n".join(as_html(table) for table in section.tables)
    slug, title = _slug(section.title), escape(section.title)
    return f'<section id="{slug}">\n<h2>{title}</h2>\n{figures}\n{tables}\n</section>'


def _figure(drawing: Drawing, svg: str) -> str:
    name = drawing.name
    links = ", ".join(
        f'<a href="figures/{name}.{ending}">{ending.upper()}</a>'
        for ending in ("svg", "png", "csv")
    )
    return (
        f'<figure id="figure-{name}"><h3>{escape(drawing.title)}</h3>'
        f'<div class="scroll">{inline_svg(svg, name, drawing.title)}</div>'
        f"<figcaption>{escape(drawing.caption)} <span>Files beside this page: {links}.</span>"
        "</figcaption></figure>"
    )


def inline_svg(svg: str, name: str, title: str) -> str:
    """An SVG as a part of the page: colours become the page's, ids get the figure's name.

    Args:
        svg: A whole file, as matplotlib writes it.
        name: Of the figure, so that two figures share no id.
        title: Read out in place of the figure.
    """
    drawn = svg[svg.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawn)
    for colour, variable in VARIABLES.items():
        drawn = re.sub(colour, f"var(--{variable})", drawn, flags=re.IGNORECASE)
    return drawn.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _json(draws: Sequence[Mapping[str, Any]]) -> str:
    """JSON that ends no script element, whatever the texts hold."""
    text = json.dumps(draws, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
