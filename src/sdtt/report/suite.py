"""All cells of a report, the teacher among its models, and what stands below every table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdtt.evaluation.records import Record
from sdtt.report.blocks import Context, plain, settings_words
from sdtt.report.cells import Cell
from sdtt.report.matched import rank


@dataclass(frozen=True)
class Suite:
    """What some evaluations measured.

    Attributes:
        cells: Of every metric.
        teacher: The label of the model that students are compared with; None where there is none.
    """

    cells: Sequence[Cell]
    teacher: str | None

    def of(self, metric: str) -> list[Cell]:
        """The cells of one metric."""
        return [cell for cell in self.cells if cell.record.metric == metric]

    def at(self, metric: str, cell: Cell) -> Cell | None:
        """The cell of another metric on the same texts."""
        found = (other for other in self.of(metric) if other.place == cell.place)
        return next(found, None)


def ranked(suite: Suite, cells: Sequence[Cell]) -> list[Cell]:
    """Cells in the order of rows."""
    return sorted(cells, key=lambda cell: rank(cell, suite.teacher))


def is_plain(cell: Cell) -> bool:
    """Whether its texts are drawn from the model's own law."""
    return cell.temperature == 1 and cell.top_p == 1


def shown(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of a main table: plain draws, and others where a model has no plain ones."""
    plain_ones = {_but_law(cell) for cell in cells if is_plain(cell)}
    return [cell for cell in cells if is_plain(cell) or _but_law(cell) not in plain_ones]


def _but_law(cell: Cell) -> str:
    changes = "temperature", "top_p"
    return f"{cell.model} {sorted((k, str(v)) for k, v in cell.draw.items() if k not in changes)}"


def notes(suite: Suite, cells: Sequence[Cell], context: Context) -> list[str]:
    """The settings of a table in sentences: judge, draws, tokens counted, seeds, versions."""
    records = [record for cell in cells for record in cell.records]
    known = {name: value for name, value in context.items() if value is not None}
    found = [f"Settings: {settings_words(known)}."] if known else []
    found += _draws(suite, cells)
    tokens = sum(record.tokens for record in records)
    time = sum(record.seconds for record in records)
    found += [f"Counted: {tokens:,} tokens in {time:,.0f} s."] if tokens else []
    return [*found, *environment_words(records)]


def precisions(suite: Suite, cells: Sequence[Cell]) -> dict[str, list[str]]:
    """The types that networks computed in, each with its models, where the records tell."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        told = cell if cell.record.metric == "latency" else suite.at("samples", cell)
        dtype = told.record.settings.get("dtype") if told else None
        if dtype and cell.model not in found.setdefault(dtype, []):
            found[dtype].append(cell.model)
    return found


def _draws(suite: Suite, cells: Sequence[Cell]) -> list[str]:
    drawn = [(r.draw or {}) for cell in cells for r in cell.records if r.draw]
    parts = []
    sizes = sorted({int(draw["num_samples"]) for draw in drawn if draw.get("num_samples")})
    if sizes:
        parts.append(f"{_span(sizes)} samples a seed")
    seeds = sorted({str(draw["seed"]) for draw in drawn if draw.get("seed") is not None})
    if seeds:
        parts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}")
    if any(len(cell.records) > 1 for cell in cells):
        parts.append("rows of several seeds are their mean, with their errors combined")
    kinds = sorted(precisions(suite, cells).items())
    if len(kinds) > 1:
        named = (f"{dtype} ({', '.join(models)})" for dtype, models in kinds)
        parts.append(f"networks in {' and '.join(named)}")
    elif kinds:
        parts.append(f"networks in {kinds[0][0]}")
    return [f"Draws: {'; '.join(parts)}."] if parts else []


def _span(values: Sequence[int]) -> str:
    low, high = f"{values[0]:,}", f"{values[-1]:,}"
    return low if low == high else f"{low} to {high}"


def environment_words(records: Iterable[Record]) -> list[str]:
    """Versions, device and commands of some measurements."""
    values: dict[str, list[str]] = {}
    for record in records:
        for name, value in record.environment.items():
            known = values.setdefault(name, [])
            if plain(value) not in known:
                known.append(plain(value))
    commands = values.pop("command", [])
    words = ", ".join(f"{name.replace('_', ' ')} {' or '.join(v)}" for name, v in values.items())
    found = [f"Measured with: {words}."] if words else []
    return [*found, *(f"Command: {command}" for command in commands)]
