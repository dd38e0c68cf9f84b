"""The records of a pair, teacher and students, read once: seeds averaged into cells."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sdtt.evaluation.frontier import Point

Record = Mapping[str, Any]
Who = Literal["teacher", "student", "autoregressive", "text"]

WHO = "teacher", "student", "autoregressive", "text"
REQUIRED = "who", "name", "nll", "entropy"
SETTING = "who", "name", "student_steps", "order", "steps", "temperature", "top_p", "draws"


@dataclass(frozen=True)
class Cell:
    """What one model scores at one setting, over all its seeds.

    Attributes:
        who: What kind of thing made the texts.
        name: What it is called in tables and figures.
        student_steps: The number of steps that a student was made for.
        order: The order of revelation; None where there is none.
        steps: Sampling steps; None for real text.
        temperature: Of the draws.
        top_p: Of the draws.
        draws: The precision that tokens are drawn in.
        nll: ln of the judge perplexity, in nats: the mean over seeds.
        nll_se: Its standard error, those of the seeds combined; nan where one is missing.
        entropy: Mean unigram entropy of a sample, in nats.
        entropy_se: Its standard error.
        covariance: Of NLL and entropy, as means over the samples; 0 where not measured.
        trigrams: The share of word trigrams that the reference knows; nan where not measured.
        trigrams_se: Its standard error.
        seconds: A sample; nan where not measured.
        seeds: How many.
        spread: Standard deviation of the NLL over seeds; nan for one.
    """

    who: Who
    name: str
    student_steps: int | None
    order: str | None
    steps: int | None
    temperature: float
    top_p: float
    draws: str
    nll: float
    nll_se: float
    entropy: float
    entropy_se: float
    covariance: float
    trigrams: float
    trigrams_se: float
    seconds: float
    seeds: int
    spread: float

    @property
    def perplexity(self) -> float:
        """Under the judge."""
        return math.exp(self.nll)

    @property
    def point(self) -> Point:
        """As a measurement on the frontier."""
        measured = self.nll, self.nll_se, self.entropy, self.entropy_se, self.covariance
        return Point(self.temperature, *measured)

    @property
    def plain(self) -> bool:
        """Whether it is drawn from the model's own law, exactly."""
        return self.temperature == 1 and self.top_p == 1 and self.draws == "float64"


@dataclass(frozen=True)
class Pair:
    """All cells of a pair, and the tokens in a sample."""

    length: int
    cells: list[Cell]

    def of(self, who: Who) -> list[Cell]:
        """The cells of one kind."""
        return [cell for cell in self.cells if cell.who == who]


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file, one JSON object a line; blank lines are skipped.

    Raises:
        ValueError: If a line is no record, with its number.
    """
    records = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number} is not JSON: {error}") from error
        try:
            _check(record)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        records.append(record)
    return records


def _check(record: object) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"a record is a JSON object, got {record!r:.60}")
    missing = [name for name in REQUIRED if record.get(name) is None]
    if missing:
        raise ValueError(f"the record has no {missing[0]!r}")
    if record["who"] not in WHO:
        raise ValueError(f"'who' is one of {', '.join(WHO)}, got {record['who']!r}")
    if record["who"] in ("teacher", "student") and record.get("steps") is None:
        raise ValueError(f"a {record['who']} has 'steps'")


def read_pair(records: Sequence[Record]) -> Pair:
    """Cells from records: those that differ in nothing but the seed are averaged.

    Raises:
        ValueError: If there is no teacher, samples differ in length, or a seed comes twice.
    """
    for record in records:
        _check(record)
    lengths = {int(r["length"]) for r in records if r["who"] != "text" and r.get("length")}
    if len(lengths) != 1:
        raise ValueError(f"records of one length belong together, got {sorted(lengths)}")
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_setting(record), []).append(record)
    cells = [_cell(setting, group) for setting, group in groups.items()]
    if not any(cell.who == "teacher" for cell in cells):
        raise ValueError("the records need a teacher, which everything is compared with")
    return Pair(lengths.pop(), cells)


def _setting(record: Record) -> tuple[Any, ...]:
    """All that makes a cell, as ``SETTING`` names it."""
    optional = (record.get("student_steps"), record.get("order"), record.get("steps"))
    temperature, top_p = (float(_or(record.get(key), 1.0)) for key in ("temperature", "top_p"))
    draws = _or(record.get("draws"), "float64")
    return record["who"], record["name"], *optional, temperature, top_p, draws


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _cell(setting: tuple[Any, ...], group: Sequence[Record]) -> Cell:
    seeds = [record.get("seed") for record in group]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the seed {max(seeds, key=seeds.count)} comes twice at {setting}")
    nll = _numbers(group, "nll")
    return Cell(
        **dict(zip(SETTING, setting, strict=True)),
        nll=_mean(nll),
        nll_se=_combined(group, "nll_se"),
        entropy=_mean(_numbers(group, "entropy")),
        entropy_se=_combined(group, "entropy_se"),
        covariance=sum(_or(r.get("covariance"), 0.0) for r in group) / len(group) ** 2,
        trigrams=_mean(_numbers(group, "trigrams")),
        trigrams_se=_combined(group, "trigrams_se"),
        seconds=_mean(_numbers(group, "seconds_per_sample")),
        seeds=len(group),
        spread=float(np.std(nll, ddof=1)) if len(nll) > 1 else math.nan,
    )


def _numbers(group: Iterable[Record], name: str) -> list[float]:
    return [float(_or(record.get(name), math.nan)) for record in group]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _combined(group: Sequence[Record], name: str) -> float:
    """The error of a mean over seeds: sqrt(sum se^2) / n."""
    return math.hypot(*_numbers(group, name)) / len(group)
