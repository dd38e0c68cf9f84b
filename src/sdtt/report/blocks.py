"""What may stand in one table: cells of one judge, precision, length and text; others apart."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdtt.report.cells import Cell

Context = Mapping[str, Any]

DRAW = "length", "draw_dtype", "prompts", "prompt_tokens", "continuations"
"""Of a draw: texts that differ in one of these do not compare."""

ROW = "sampler", "steps", "temperature", "top_p"
"""Of a draw: what rows of one table may differ in."""

NAMES = {
    "length": "tokens a sample",
    "draw_dtype": "draws in",
    "dtype": "network in",
    "prompt_tokens": "tokens of a prompt",
    "judge_dtype": "judge in",
    "judge_files": "judge's files",
    "scorer_files": "scorer's files",
    "features_files": "features of the files",
    "eos": "end of text",
    "num_fewshot": "examples shown",
    "noise_samples": "noise samples a text",
    "max_tokens": "tokens at most",
    "machine": "timed with",
}


@dataclass(frozen=True)
class Block:
    """Cells that compare.

    Attributes:
        heading: In what this block differs from those beside it; "" for the only one.
        context: What all of its cells have in common.
        cells: In the order in which they were measured.
    """

    heading: str
    context: Context
    cells: Sequence[Cell]


def titled(title: str, block: Block) -> str:
    """A title that says in what the block differs from others."""
    return f"{title}: {block.heading}" if block.heading else title


def of_draw(cell: Cell) -> dict[str, Any]:
    """The context of texts, whatever is measured of them; real text is drawn in no precision."""
    names = [n for n in DRAW if not (n == "draw_dtype" and cell.record.kind == "text")]
    context = {name: cell.draw.get(name) for name in names}
    if context.get("draw_dtype", 0) is None:
        context["draw_dtype"] = "an unknown precision"
    return context


def of_draw_and_settings(cell: Cell) -> dict[str, Any]:
    """The context of a metric with a judge, a reference or features: all of its settings."""
    return {**of_draw(cell), **_settings(cell)}


def of_settings(cell: Cell, rows: Sequence[str] = ()) -> dict[str, Any]:
    """The context of a metric without texts of ours: its settings but for those of a row."""
    return {name: value for name, value in _settings(cell).items() if name not in rows}


def _settings(cell: Cell) -> dict[str, Any]:
    return {name: value for name, value in cell.record.settings.items() if name != "seed"}


def blocks(cells: Sequence[Cell], context_of: Callable[[Cell], Context]) -> list[Block]:
    """Cells of one context together, in the order of the first of each.

    Real text, which has no precision of draws, stands in every block whose context is its own
    otherwise.
    """
    groups: dict[str, tuple[Context, list[Cell]]] = {}
    for cell in cells:
        if cell.record.kind != "text":
            context = context_of(cell)
            groups.setdefault(_text_of(context), (context, []))[1].append(cell)
    drawn = list(groups.values())
    for cell in cells:
        if cell.record.kind == "text":
            context = context_of(cell)
            homes = [members for other, members in drawn if _agrees(context, other)]
            homes = homes or [groups.setdefault(_text_of(context), (context, []))[1]]
            for members in homes:
                members.append(cell)
    differ = _differing([context for context, _ in groups.values()])
    return [
        Block(_heading(context, differ), context, members) for context, members in groups.values()
    ]


def _text_of(context: Context) -> str:
    return json.dumps(context, sort_keys=True, default=str)


def _agrees(context: Context, other: Context) -> bool:
    return all(other.get(name) == value for name, value in context.items())


def _heading(context: Context, differ: Sequence[str]) -> str:
    """What sets a block apart; of what it does not have only the first is said."""
    has = [name for name in differ if context.get(name) is not None]
    return settings_words({name: context.get(name) for name in has or differ[:1]})


def _differing(contexts: Sequence[Context]) -> list[str]:
    names = dict.fromkeys(name for context in contexts for name in context)
    return [n for n in names if len({json.dumps(c.get(n), default=str) for c in contexts}) > 1]


def settings_words(settings: Mapping[str, Any]) -> str:
    """Settings in words: 'judge gpt2-large, draws in float32, no prompts'."""
    return ", ".join(_setting(name, value) for name, value in settings.items())


def _setting(name: str, value: Any) -> str:
    words = NAMES.get(name, name.replace("_", " "))
    if isinstance(value, bool):
        return words if value else f"not {words}"
    if value is None:
        return f"no {words}"
    if isinstance(value, Mapping):
        return f"{words} ({settings_words(value)})"
    if isinstance(value, (list, tuple)):
        return f"{words} {' '.join(map(plain, value))}"
    if name == "length":
        return f"{plain(value)} {words}"
    return f"{words} {plain(value)}"


def plain(value: Any) -> str:
    """A number or a text, as short as it is exact enough."""
    return f"{value:g}" if isinstance(value, float) else str(value)


PLAIN: Mapping[str, Any] = {
    "repetition_penalty": 1,
    "schedule": "log_linear",
    "counts": "process",
    "order": "high",
    "order_temperature": 0,
}
"""Settings of a draw that go without saying where they have these values."""


def sampler_words(cell: Cell) -> str:
    """The sampler with the settings that are its own: 'confidence, entropy bound 0.5'.

    "" for real text and for an autoregressive model, which has but one.
    """
    if cell.record.kind == "text":
        return ""
    own = {k: v for k, v in cell.draw.items() if k not in (*ROW, *DRAW) and not _is_off(k, v)}
    name = str(cell.draw.get("sampler", "")).replace("_", " ")
    parts = ["" if cell.record.kind == "autoregressive" else name, settings_words(own)]
    return ", ".join(filter(None, parts))


def _is_off(name: str, value: Any) -> bool:
    """Whether a setting of a sampler changes nothing."""
    return value in (None, False, [], ()) or PLAIN.get(name) == value


def change_words(cell: Cell) -> str:
    """What changes the law: 'T 0.9, top-p 0.95'; "" where nothing does."""
    changes = [f"T {cell.temperature:g}"] * (cell.temperature != 1)
    return ", ".join([*changes, *[f"top-p {cell.top_p:g}"] * (cell.top_p != 1)])
