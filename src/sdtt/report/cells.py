"""Records of an evaluation become cells: those that differ in nothing but the seed are averaged."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sdtt.evaluation.frontier import Point
from sdtt.evaluation.records import JUDGES, Record, read_folder

SIZES = frozenset({"seed", "num_samples", "batch_size"})
"""Of a draw: more of the same, not another law. Sample i is a function of seed and i."""

LOGARITHMS = "nll", "nats_per_token"
"""Means in nats, whose exponential is the perplexity."""

COUNTS = frozenset({"samples", "examples", "empty"})

ONE_TEXT = frozenset({"lambada", "bound", "tasks"})
"""Metrics of given texts, the same ones under every seed."""

TIMED = frozenset({"latency", "best_of"})
"""Metrics that are another measurement on another machine."""


@dataclass(frozen=True)
class Cell:
    """What one model scores in one metric at one setting, over all its seeds.

    Attributes:
        record: The first of its records.
        draw: Of the texts, without what makes only more of the same; empty where nothing was drawn.
        result: The mean over the seeds, with errors combined; a count is a sum.
        records: One a seed.
    """

    record: Record
    draw: Mapping[str, Any]
    result: Mapping[str, Any]
    records: Sequence[Record]

    @property
    def model(self) -> str:
        """Its label."""
        return self.record.model

    @property
    def steps(self) -> int | None:
        """Sampling steps; None where there are none, as of an autoregressive model."""
        steps = self.draw.get("steps")
        return None if steps is None else int(steps)

    @property
    def temperature(self) -> float:
        """Of the draws."""
        return float(_or(self.draw.get("temperature"), 1.0))

    @property
    def top_p(self) -> float:
        """Of the draws."""
        return float(_or(self.draw.get("top_p"), 1.0))

    @cached_property
    def place(self) -> str:
        """Model and draw: cells of several metrics at one place are of the same texts."""
        return json.dumps([self.model, self.draw], sort_keys=True, default=str)

    def number(self, name: str) -> float:
        """A number of the result; nan where it is missing or not defined."""
        value = self.result.get(name)
        return float(value) if isinstance(value, (int, float)) else math.nan

    @property
    def point(self) -> Point:
        """As a measurement on the frontier; nan where something is missing."""
        covariance = self.number("covariance")
        return Point(
            temperature=self.temperature,
            nll=self.number("nll"),
            nll_se=self.number("nll_se"),
            entropy=self.number("entropy"),
            entropy_se=self.number("entropy_se"),
            covariance=0.0 if math.isnan(covariance) else covariance,
        )


def read_runs(folders: Sequence[Path]) -> list[Record]:
    """The records of several evaluations, files of samples with their whole path.

    A label that means one model here and another there, or one whose files have changed, is
    followed by its folder. What two folders measured alike is taken from the first.

    Raises:
        ValueError: If a folder holds no records, or a line is none of this version.
    """
    read = {folder: read_folder(folder) for folder in folders}
    sources: dict[str, set[tuple[Any, ...]]] = {}
    for records in read.values():
        for record in records:
            sources.setdefault(record.model, set()).add(_who(record))
    found: dict[str, Record] = {}
    for folder, records in read.items():
        for record in records:
            several = len(sources[record.model]) > 1 and len(read) > 1
            label = f"{record.model} ({folder})" if several else record.model
            here = replace(_with_path(record, folder), model=label)
            found.setdefault(here.key + _machine(here), here)
    return list(found.values())


def _who(record: Record) -> tuple[Any, ...]:
    # of real text it says which tokenizer cut it, which is the first model's
    files = record.fingerprint if record.kind in ("diffusion", "autoregressive") else ""
    return record.source, record.kind, record.taught_steps, files


def _with_path(record: Record, folder: Path) -> Record:
    if record.metric != "samples" or not record.result.get("file"):
        return record
    return replace(
        record, result={**record.result, "file": str(folder / str(record.result["file"]))}
    )


def read_cells(records: Iterable[Record]) -> list[Cell]:
    """Cells from records, in the order of the first record of each.

    The mean over n seeds of a value has the error sqrt(sum se^2) / n, and a covariance is summed
    and divided by n^2; where all are of one text (see ``ONE_TEXT``) the error is the mean error.
    ln perplexity is averaged, and the perplexity made of it. One seed measured twice, with more
    samples, counts once, with the most.
    """
    groups: dict[str, dict[Any, Record]] = {}
    for record in _without_known_files(list(records)):
        seeds = groups.setdefault(_identity(record), {})
        seed = _seed(record)
        if seed not in seeds or _size(record) > _size(seeds[seed]):
            seeds[seed] = record
    return [_cell(list(seeds.values())) for seeds in groups.values()]


def _without_known_files(records: Sequence[Record]) -> list[Record]:
    """Records that name a judge's files only where two of one name had different ones.

    Records of before they were kept have none: that says nothing of them.
    """
    found: dict[tuple[str, Any], set[Any]] = {}
    for record in records:
        for role in JUDGES:
            key = role, record.settings.get(role)
            found.setdefault(key, set()).add(record.settings.get(f"{role}_files"))
    several = {key for key, files in found.items() if len(files - {None}) > 1}

    def stripped(record: Record) -> Record:
        known = [role for role in JUDGES if (role, record.settings.get(role)) not in several]
        settings = dict(record.settings)
        for role in known:
            settings.pop(f"{role}_files", None)
        return replace(record, settings=settings)

    return [stripped(record) for record in records]


def _identity(record: Record) -> str:
    parts = [record.metric, record.model, _law(record.draw), _without(record.settings, "seed")]
    return json.dumps(parts, sort_keys=True, default=str) + _machine(record)


def _machine(record: Record) -> str:
    """Of a time, where it was taken."""
    if record.metric not in TIMED:
        return ""
    known = _without(record.environment, "command")
    return json.dumps(known, sort_keys=True, default=str)


def _law(draw: Mapping[str, Any] | None) -> dict[str, Any]:
    draw = draw or {}
    return {k: v for k, v in draw.items() if k not in SIZES and v is not None}


def _without(settings: Mapping[str, Any], left_out: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != left_out}


def _seed(record: Record) -> str:
    """Of the draw and of the metric's own chance."""
    return f"{(record.draw or {}).get('seed')} {record.settings.get('seed')}"


def _size(record: Record) -> int:
    return int(_or((record.draw or {}).get("num_samples"), 0))


def _cell(group: Sequence[Record]) -> Cell:
    first = group[0]
    results = [record.result for record in group]
    mean = averaged(results, one_text=first.metric in ONE_TEXT)
    return Cell(first, _law(first.draw), mean, group)


def averaged(results: Sequence[Mapping[str, Any]], *, one_text: bool = False) -> dict[str, Any]:
    """The mean of results, by name; None where one is not defined.

    Args:
        results: Of one metric and setting, one a seed.
        one_text: Whether all are of the same texts, and a seed is that of masks only: their errors
            do not fall by averaging, but for that of the masks, and a count stays.
    """
    if len(results) == 1:
        return dict(results[0])
    mean = {name: _averaged(name, [r.get(name) for r in results]) for name in results[0]}
    if one_text:
        for name, value in mean.items():
            known = [result[name] for result in results if name in result]
            if value is not None and name.endswith("_se") and name != "noise_se":
                mean[name] = math.fsum(known) / len(known)
            elif name in COUNTS:
                mean[name] = known[0]
    for name in LOGARITHMS:
        if mean.get(name) is not None and "perplexity" in mean:
            mean["perplexity"] = math.exp(mean[name])
            error = mean.get(f"{name}_se")
            mean["perplexity_se"] = None if error is None else mean["perplexity"] * error
    return mean


def _averaged(name: str, values: Sequence[Any]) -> Any:
    n = len(values)
    if all(isinstance(value, list) for value in values):
        return _joined([entry for value in values for entry in value])
    if any(value is None for value in values):
        return None
    if isinstance(values[0], (bool, str)) or not isinstance(values[0], (int, float)):
        return values[0]
    if name in COUNTS:
        return sum(values)
    if name.endswith("_se"):
        return math.hypot(*values) / n
    return sum(values) / (n**2 if name == "covariance" else n)


def _joined(entries: Sequence[Any]) -> list[Any]:
    """Values of all seeds; of a curve, the mean at each n."""
    if not all(isinstance(entry, dict) and "n" in entry for entry in entries):
        return list(entries)
    at: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in entries:
        at.setdefault(entry["n"], []).append(entry)
    return [{**averaged(group), "n": n} for n, group in at.items()]


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
