"""A table once, rendered as markdown and as HTML."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from sdtt.report.words import digits, markdown

MISSING = "–"


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        text: As it is read.
        order: What it is sorted by; None for a missing value, which stays at the end.
    """

    text: str
    order: float | str | None


@dataclass(frozen=True)
class Table:
    """A table with the settings that it was measured under.

    Attributes:
        title: Above it.
        head: The names of its columns.
        rows: Its entries.
        notes: The settings, below it; sentences.
        texts: How many of the first columns hold text rather than numbers.
        folded: Long: the page shows it when asked, the markdown names the file that has it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    notes: Sequence[str] = field(default=())
    texts: int = 1
    folded: bool = False


def word(text: str) -> Entry:
    """An entry of text."""
    return Entry(text or MISSING, text or None)


def whole(value: float | None) -> Entry:
    """A whole number, such as steps."""
    if value is None or math.isnan(value):
        return Entry(MISSING, None)
    return Entry(f"{value:,.0f}", float(value))


def number(value: float, error: float = math.nan, places: int | None = None) -> Entry:
    """A number with its standard error: '39.4 ± 0.6'.

    Args:
        value: The number; nan where missing.
        error: Its standard error; nan where unknown.
        places: Behind the point; three digits in all by default.
    """
    if math.isnan(value):
        return Entry(MISSING, None)
    if places is None:
        text, behind = digits(value), two_digits(error)
    else:
        text, behind = f"{value:.{places}f}", f"{error:.{places}f}"
    return Entry(text if math.isnan(error) else f"{text} ± {behind}", value)


def share(value: float, error: float = math.nan) -> Entry:
    """A share in per cent: '27.0 ± 0.3'."""
    return number(100 * value, 100 * error, places=1)


def seconds(value: float) -> Entry:
    """A time in seconds, two digits: 0.034, 0.20, 1.5, 12."""
    if math.isnan(value) or value <= 0:
        return Entry(MISSING, None)
    return Entry(two_digits(value), value)


def two_digits(value: float) -> str:
    """Two digits, or all before the point: 0.034, 0.20, 1.5, 12, 120."""
    if not value > 0:
        return f"{value:.0f}"
    return f"{value:,.{max(1 - math.floor(math.log10(value)), 0)}f}"


def without_empty(table: Table) -> Table:
    """The table without the columns in which nothing was measured."""
    kept = [
        i for i in range(len(table.head)) if any(row[i].order is not None for row in table.rows)
    ]
    return Table(
        title=table.title,
        head=[table.head[i] for i in kept],
        rows=[[row[i] for i in kept] for row in table.rows],
        notes=table.notes,
        texts=sum(i < table.texts for i in kept),
        folded=table.folded,
    )


def as_markdown(table: Table) -> str:
    """The title, the table and its notes."""
    if table.folded:
        body = f"{len(table.rows)} rows: in `tables.csv` and in `report.html`."
    else:
        rows = [[in_markdown(entry.text) for entry in row] for row in table.rows]
        body = markdown([in_markdown(name) for name in table.head], rows)
    notes = "  \n".join(in_markdown(note) for note in table.notes)
    return "\n\n".join(filter(None, [f"### {in_markdown(table.title)}", body, notes]))


def in_markdown(text: str) -> str:
    """Text as one line that markdown shows as it is: the name of a model may hold anything."""
    kept = " ".join(text.split())
    for mark in "\\`*_[]<>|":
        kept = kept.replace(mark, f"\\{mark}")
    return kept


def as_html(table: Table) -> str:
    """The table, sortable by its headings, and its notes."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"{_side(table, i)}>'
        f'<button type="button">{escape(name)}</button></th>'
        for i, name in enumerate(table.head)
    )
    rows = "\n".join(
        "<tr>" + "".join(_cell(table, i, entry) for i, entry in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    body = (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>'
        f'</table></div>\n<div class="settings">{notes}</div>'
    )
    if table.folded:
        name = f"{escape(table.title)} ({len(table.rows)} rows)"
        return f"<details><summary>{name}</summary>\n{body}\n</details>"
    return f"<h3>{escape(table.title)}</h3>\n{body}"


def _cell(table: Table, i: int, entry: Entry) -> str:
    order = "" if entry.order is None else f' data-order="{escape(str(entry.order))}"'
    return f"<td{_side(table, i)}{order}>{escape(entry.text)}</td>"


def _side(table: Table, i: int) -> str:
    return "" if i < table.texts else ' class="number"'
