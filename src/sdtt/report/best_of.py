"""The table of best of n: what the choice among n texts gains, and the time it takes."""

import math
from collections.abc import Iterator
from typing import Any

from sdtt.report.blocks import (
    Block,
    blocks,
    change_words,
    of_draw_and_settings,
    sampler_words,
    titled,
)
from sdtt.report.cells import Cell
from sdtt.report.measures import without_machine
from sdtt.report.quality import machine_of
from sdtt.report.rendering import Entry, Table, number, seconds, whole, without_empty, word
from sdtt.report.suite import Suite, notes, ranked

OWN_SCORER = (
    "The best of n texts under the scorer, whose choice is no quality by itself: the same scorer"
    " judges it, and the entropy says what it costs."
)

OTHER_SCORER = (
    "The best of n texts under the scorer; its NLL is that of the judge, which had no part in the"
    " choice, and the entropy says what it costs."
)


def best_of_blocks(suite: Suite) -> list[Block]:
    """Curves of one scorer, texts of one kind, times of one machine."""
    return blocks(
        suite.of("best_of"),
        lambda cell: {**of_draw_and_settings(cell), "machine": machine_of(cell)},
    )


def best_of_tables(suite: Suite) -> Iterator[Table]:
    """A row a draw and n."""
    for block in best_of_blocks(suite):
        rows = []
        for cell in ranked(suite, block.cells):
            for entry in curve_entries(cell):
                rows.append([*_best_of_row(cell, entry)])
        head = [*("model", "sampler", "drawn at", "steps", "n", "seconds a chosen text")]
        head += ["its NLL, nats a token", "its entropy"]
        said = [
            OTHER_SCORER if block.context.get("chosen_by_judge") is False else OWN_SCORER,
            *notes(suite, block.cells, without_machine(block.context)),
        ]
        title = titled("Best of n", block)
        yield without_empty(Table(title, head, rows, said, texts=3, folded=len(rows) > 40))


def curve_entries(cell: Cell) -> list[dict[str, float]]:
    """The points of a curve of best of n, n ascending, missing numbers as nan."""
    curve = cell.result.get("curve") or []
    names = "n", "seconds", "nll", "nll_se", "entropy"
    points = [{name: _float(entry.get(name)) for name in names} for entry in curve]
    return sorted(points, key=lambda point: point["n"])


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _best_of_row(cell: Cell, entry: dict[str, float]) -> Iterator[Entry]:
    yield word(cell.model)
    yield word(sampler_words(cell))
    yield word(change_words(cell))
    yield whole(cell.steps)
    yield whole(entry["n"])
    yield seconds(entry["seconds"])
    yield number(entry["nll"], entry["nll_se"], places=3)
    yield number(entry["entropy"], places=3)
