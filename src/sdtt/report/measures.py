"""Tables of the metrics that need no control: diversity, MAUVE, LAMBADA, bounds, latency."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sdtt.report.blocks import (
    Block,
    Context,
    blocks,
    change_words,
    of_draw,
    of_draw_and_settings,
    of_settings,
    plain,
    sampler_words,
    titled,
)
from sdtt.report.cells import Cell
from sdtt.report.quality import machine_of
from sdtt.report.rendering import Entry, Table, number, seconds, share, whole, without_empty, word
from sdtt.report.suite import Suite, notes, ranked

Column = tuple[str, Callable[[Cell], Entry]]


@dataclass(frozen=True)
class Measure:
    """How the cells of one metric become a table.

    Attributes:
        metric: Its name in the records.
        title: Above the table.
        context: What must be equal in one table.
        columns: Behind the model.
        texts: How many of the columns, the model's among them, hold text.
        note: What the numbers are.
    """

    metric: str
    title: str
    context: Callable[[Cell], Context]
    columns: Sequence[Column]
    texts: int
    note: str


def _value(name: str, places: int | None = None) -> Callable[[Cell], Entry]:
    return lambda cell: number(cell.number(name), cell.number(f"{name}_se"), places)


def _share(name: str) -> Callable[[Cell], Entry]:
    return lambda cell: share(cell.number(name), cell.number(f"{name}_se"))


def _setting(name: str) -> Callable[[Cell], Entry]:
    def entry(cell: Cell) -> Entry:
        value = cell.record.settings.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return Entry(plain(value), float(value))
        return word("" if value is None else str(value).replace("_", " "))

    return entry


DRAWN: Sequence[Column] = (
    ("sampler", lambda cell: word(sampler_words(cell))),
    ("drawn at", lambda cell: word(change_words(cell))),
    ("steps", lambda cell: whole(cell.steps)),
)

LAMBADA_ROW = "method", "noise_samples", "examples"
BOUND_ROW = "noise_samples", "method"
LATENCY_ROW = "batch_size", "form", "runs", "dtype"


def of_machine(cell: Cell) -> dict[str, Any]:
    """The context of a time: the length of the texts, its settings and the machine."""
    length = {"length": cell.draw.get("length")}
    return {**length, **of_settings(cell, LATENCY_ROW), "machine": machine_of(cell)}


MEASURES = (
    Measure(
        "diversity",
        "Diversity",
        of_draw,
        (
            *DRAWN,
            ("entropy", _value("entropy", 3)),
            ("entropy of all", _value("pooled_entropy", 3)),
            ("distinct 1 %", _share("distinct_1")),
            ("distinct 2 %", _share("distinct_2")),
            ("distinct 3 %", _share("distinct_3")),
            ("repeated 4-grams %", _share("repeated_4")),
            ("tokens", _value("length", 1)),
        ),
        3,
        "Entropy of the tokens of one text, mean over texts, and of all texts together, in nats;"
        " different n-grams over n-grams, all texts together; 4-grams of a text that it repeats.",
    ),
    Measure(
        "self_bleu",
        "Self-BLEU of continuations",
        of_draw_and_settings,
        (*DRAWN, ("self-BLEU", _value("self_bleu", 2))),
        3,
        "How alike the continuations of one prompt are: lower is more varied.",
    ),
    Measure(
        "mauve",
        "MAUVE",
        of_draw_and_settings,
        (*DRAWN, ("MAUVE", _value("mauve", 3))),
        3,
        "How near the law of the continuations is to that of real text, from 0 to 1; it depends on"
        " the features and the number of texts, so compare within this table only.",
    ),
    Measure(
        "lambada",
        "LAMBADA",
        partial(of_settings, rows=LAMBADA_ROW),
        (
            ("taught steps", lambda cell: whole(cell.record.taught_steps)),
            ("accuracy %", _share("accuracy")),
            ("perplexity of the last word", _value("perplexity")),
            ("by", _setting("method")),
            ("examples", lambda cell: whole(cell.number("examples"))),
        ),
        1,
        "Accuracy: every token of the last word is the likeliest, in one pass. Perplexity: exact,"
        " or by Monte Carlo of the bound, as the column says; an upper bound for a denoiser.",
    ),
    Measure(
        "bound",
        "Likelihood of real text",
        partial(of_settings, rows=BOUND_ROW),
        (
            ("is", lambda cell: word("exact" if cell.result.get("exact") else "upper bound")),
            ("nats a token", _value("nats_per_token", 3)),
            ("perplexity", _value("perplexity")),
            ("bits a byte", _value("bits_per_byte", 3)),
        ),
        2,
        "A denoiser's is an upper bound (its negative ELBO), an autoregressive model's is exact;"
        " tokens of two tokenizers do not compare, bytes do.",
    ),
    Measure(
        "latency",
        "Latency",
        of_machine,
        (
            ("sampler", lambda cell: word(sampler_words(cell))),
            ("form", _setting("form")),
            ("batch", _setting("batch_size")),
            ("steps", lambda cell: whole(cell.steps)),
            ("passes", lambda cell: whole(cell.number("passes"))),
            ("network in", _setting("dtype")),
            ("seconds a batch", lambda cell: seconds(cell.number("seconds"))),
            ("least", lambda cell: seconds(cell.number("seconds_least"))),
            ("most", lambda cell: seconds(cell.number("seconds_most"))),
            ("seconds a sample", lambda cell: seconds(cell.number("seconds_per_sample"))),
            ("tokens a second", lambda cell: whole(cell.number("tokens_per_second"))),
        ),
        3,
        "Wall time of sampling: the median run, the fastest and the slowest; the autoregressive"
        " model keeps its keys and values.",
    ),
)


def measure_blocks(suite: Suite, metric: str) -> list[Block]:
    """The cells of one metric, those together that compare."""
    measure = next(measure for measure in MEASURES if measure.metric == metric)
    return blocks(suite.of(metric), measure.context)


def measure_tables(suite: Suite) -> Iterator[Table]:
    """One table a metric and block, in the order of ``MEASURES``."""
    for measure in MEASURES:
        for block in measure_blocks(suite, measure.metric):
            head = ["model", *(name for name, _ in measure.columns)]
            cells = ranked(suite, block.cells)
            rows = [[word(c.model), *(entry(c) for _, entry in measure.columns)] for c in cells]
            said = [measure.note, *notes(suite, cells, without_machine(block.context))]
            title = titled(measure.title, block)
            yield without_empty(Table(title, head, rows, said, texts=measure.texts))


def without_machine(context: Context) -> Context:
    """The machine is named by what the notes say of the environment."""
    return {name: value for name, value in context.items() if name != "machine"}
