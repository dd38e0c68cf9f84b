"""Tables of the metrics that need no control: diversity, MAUVE, LAMBADA, bounds, tasks, latency."""

import math
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
)
from sdtt.report.cells import Cell
from sdtt.report.matched import rank
from sdtt.report.quality import machine_of
from sdtt.report.rendering import Entry, Table, number, seconds, share, whole, without_empty, word
from sdtt.report.suite import Suite, notes

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
LATENCY_ROW = "batch_size", "form", "runs"


def of_machine(cell: Cell) -> dict[str, Any]:
    """The context of a time: its settings and the machine."""
    return {**of_settings(cell, LATENCY_ROW), "machine": machine_of(cell)}


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
            ("seconds a batch", lambda cell: seconds(cell.number("seconds"))),
            ("seconds a sample", lambda cell: seconds(cell.number("seconds_per_sample"))),
            ("tokens a second", lambda cell: whole(cell.number("tokens_per_second"))),
        ),
        3,
        "Wall time of sampling; the autoregressive model keeps its keys and values.",
    ),
)


def measure_blocks(suite: Suite, metric: str) -> list[Block]:
    """The cells of one metric, those together that compare."""
    measure = next(measure for measure in MEASURES if measure.metric == metric)
    return blocks(suite.of(metric), measure.context)


def measure_tables(suite: Suite) -> Iterator[Table]:
    """One table a metric and block, in the order of ``MEASURES``; tasks and best of n follow."""
    for measure in MEASURES:
        for block in measure_blocks(suite, measure.metric):
            head = ["model", *(name for name, _ in measure.columns)]
            cells = sorted(block.cells, key=lambda cell: rank(cell, suite.teacher))
            rows = [[word(c.model), *(entry(c) for _, entry in measure.columns)] for c in cells]
            said = [measure.note, *notes(cells, _without_machine(block.context))]
            title = _titled(measure.title, block)
            yield without_empty(Table(title, head, rows, said, texts=measure.texts))
    yield from _tasks_tables(suite)
    yield from _best_of_tables(suite)


def _titled(title: str, block: Block) -> str:
    return f"{title}: {block.heading}" if block.heading else title


def _without_machine(context: Context) -> Context:
    """The machine is named by what the notes say of the environment."""
    return {name: value for name, value in context.items() if name != "machine"}


# ---------------------------------------------------------------- tasks


def tasks_blocks(suite: Suite) -> list[Block]:
    """Tasks side by side: the columns are their own, the settings one."""
    return blocks(suite.of("tasks"), partial(of_settings, rows=("task", "noise_samples")))


def _tasks_tables(suite: Suite) -> Iterator[Table]:
    """A row a model, a column a score that has an error."""
    for block in tasks_blocks(suite):
        scores = list(dict.fromkeys(pair for cell in block.cells for pair in _scores(cell)))
        rows = []
        for model in dict.fromkeys(c.model for c in _ranked(suite, block.cells)):
            of_task = {_task(cell): cell for cell in block.cells if cell.model == model}
            rows.append([word(model), *(_score(of_task.get(task), name) for task, name in scores)])
        head = ["model", *(f"{task} {_score_words(name)}" for task, name in scores)]
        said = ["By lm-evaluation-harness, ± one standard error; a denoiser is scored by its ELBO."]
        said += notes(block.cells, block.context)
        yield Table(_titled("Tasks", block), head, rows, said)


def _ranked(suite: Suite, cells: Sequence[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: rank(cell, suite.teacher))


def _task(cell: Cell) -> str:
    return str(cell.record.settings.get("task", "task"))


def _scores(cell: Cell) -> list[tuple[str, str]]:
    return [(_task(cell), name) for name in cell.result if f"{name}_se" in cell.result]


def _is_share(name: str) -> bool:
    return name.startswith(("acc", "exact_match", "f1"))


def _score_words(name: str) -> str:
    return f"{name.replace('_', ' ')}{' %' * _is_share(name)}"


def _score(cell: Cell | None, name: str) -> Entry:
    if cell is None:
        return number(math.nan)
    measured = cell.number(name), cell.number(f"{name}_se")
    return share(*measured) if _is_share(name) else number(*measured)


# ---------------------------------------------------------------- best of n


def best_of_blocks(suite: Suite) -> list[Block]:
    """Curves of one scorer, texts of one kind, times of one machine."""
    return blocks(
        suite.of("best_of"),
        lambda cell: {**of_draw_and_settings(cell), "machine": machine_of(cell)},
    )


def _best_of_tables(suite: Suite) -> Iterator[Table]:
    for block in best_of_blocks(suite):
        rows = []
        for cell in _ranked(suite, block.cells):
            for entry in curve_entries(cell):
                rows.append([*_best_of_row(cell, entry)])
        head = [*("model", "sampler", "drawn at", "steps", "n", "seconds a chosen text")]
        head += ["its NLL, nats a token", "its entropy"]
        said = [
            "The best of n texts under the scorer, whose choice is no quality by itself: the same"
            " scorer judges it, and the entropy says what it costs.",
            *notes(block.cells, _without_machine(block.context)),
        ]
        title = _titled("Best of n", block)
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
