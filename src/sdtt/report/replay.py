"""The samples that a page shows: a few of each draw, with the step that revealed each token."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdtt.evaluation.records import Sample, read_samples
from sdtt.report.blocks import blocks, change_words, of_draw, sampler_words
from sdtt.report.cells import Cell
from sdtt.report.suite import Suite, ranked

MOST = 4
"""Samples of one draw."""

BUDGET = 1_000_000
"""Characters of all samples together: the page stays below two million."""


@dataclass(frozen=True)
class Samples:
    """What the page shows of the samples.

    Attributes:
        draws: For each draw its "name", "steps" and "samples": a text, or "tokens" with the step
            ("revealed", -1 for a prompt) that revealed each.
        notes: What is not shown, and why.
    """

    draws: Sequence[dict[str, Any]]
    notes: Sequence[str]


def samples_of(suite: Suite, budget: int = BUDGET) -> Samples:
    """The first samples of each draw, as many of each as the budget lets; first seeds only.

    Raises:
        ValueError: If a file holds no samples.
    """
    cells = ranked(suite, suite.of("samples"))
    read = [(cell, _read(Path(str(cell.result.get("file"))))) for cell in cells]
    missing = [cell.model for cell, found in read if found is None]
    here = [(cell, found) for cell, found in read if found]
    kept: list[list[dict[str, Any]]] = [[] for _ in here]
    left_out = 0
    for i in range(MOST):  # a first sample of each draw goes before a second one of any
        for samples, (_, found) in zip(kept, here, strict=True):
            if i >= len(found):
                continue
            entry = _entry(found[i])
            size = len(json.dumps(entry))
            if size > budget:
                left_out += 1
                continue
            samples.append(entry)
            budget -= size
    found_in = blocks([cell for cell, _ in here if cell.record.kind != "text"], of_draw)
    headings = {cell.place: block.heading for block in found_in for cell in block.cells}
    draws = [
        {
            "name": _name(cell, headings.get(cell.place, "")),
            "steps": cell.steps,
            "samples": samples,
        }
        for (cell, _), samples in zip(here, kept, strict=True)
        if samples
    ]
    notes = [f"The files of samples are not there of: {', '.join(dict.fromkeys(missing))}."]
    notes = notes * bool(missing)
    if left_out:
        notes.append(f"{left_out} of the first {MOST} samples of the draws are left out for size.")
    return Samples(draws, notes)


def _read(path: Path) -> list[Sample] | None:
    """The first samples; None where the file is gone."""
    return read_samples(path)[:MOST] if path.is_file() else None


def _entry(sample: Sample) -> dict[str, Any]:
    """Tokens with their steps where both are known, else the text."""
    tokens, revealed = sample.tokens, sample.revealed
    if tokens is not None and revealed is not None and len(tokens) == len(revealed):
        return {"tokens": list(tokens), "revealed": list(revealed)}
    if sample.text is not None:
        return {"text": sample.text}
    return {"text": "".join(tokens) if tokens is not None else _ids(sample.ids or ())}


def _ids(ids: Iterable[int]) -> str:
    return " ".join(map(str, ids))


def _name(cell: Cell, context: str) -> str:
    steps = f"{cell.steps} steps" if cell.steps is not None else ""
    parts = [cell.model, sampler_words(cell), steps, change_words(cell), context]
    return ", ".join(filter(None, parts))
