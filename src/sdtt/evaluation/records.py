"""Records of an evaluation: what was measured, of whom, with every setting; no model, no torch."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

VERSION = 1
"""Of the layout of a record; raised when an old one would be misread."""

Kind = Literal["diffusion", "autoregressive", "text", "samples"]
"""What made the texts: a denoiser, a causal model, people, or somebody's file."""

JUDGES = "judge", "scorer", "features"
"""What names another model in the settings of a metric; its files are under ``NAME_files``."""

FRONT = '{"version"'
"""How a line begins."""

FILES = "records*.jsonl"
"""The files of records in an evaluation's folder, one a process."""


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        metric: What was measured, such as "perplexity".
        model: The model's label, one name for one model within a folder.
        kind: What made the texts.
        result: Name to number, text, or a list or mapping of these; None where a number is not
            defined. ``NAME_se`` is the standard error of ``NAME``.
        source: Where the model or its texts come from, as it was given.
        taught_steps: The sampling steps that a student was distilled for; None for others.
        draw: Every setting that the texts were drawn with; None where nothing was drawn.
        settings: Every setting of the metric, such as the judge.
        seconds: That the measurement took.
        tokens: Counted.
        environment: Versions, device and threads.
        request: A digest of what was asked for, by which it is not measured twice; "" if unknown.
        fingerprint: Of the model's files; "" if unknown.
        time: When it was written, in seconds since 1970.

    Raises:
        ValueError: If the kind is unknown, or a number of the result is nan or infinite.
    """

    metric: str
    model: str
    kind: Kind
    result: Mapping[str, Any]
    source: str = ""
    taught_steps: int | None = None
    draw: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    environment: Mapping[str, Any] = field(default_factory=dict)
    request: str = ""
    fingerprint: str = ""
    time: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        for name, value in self.result.items():
            for number in _numbers(value):
                if not math.isfinite(number):
                    raise ValueError(f"{self.metric} of {self.model}: {name} is {number}")

    @property
    def key(self) -> str:
        """What makes it this measurement and no other: metric, model, draw and settings."""
        parts = [self.metric, self.model, self.draw, self.settings]
        return json.dumps(parts, sort_keys=True, default=str)

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps({"version": VERSION, **asdict(self)})


def _numbers(value: Any) -> Iterator[float]:
    """The fractions in a value, however deep."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, float):
        yield value


def defined(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with None where a number is not defined, such as the error of one sample.

    Also within lists and mappings: JSON has no nan.
    """
    return {name: _defined(value) for name, value in result.items()}


def _defined(value: Any) -> Any:
    if isinstance(value, Mapping):
        return defined(value)
    if isinstance(value, list | tuple):
        return [_defined(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def append(path: Path, *records: Record) -> None:
    """Adds records to a file at once; a line that a kill left unfinished is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(b"".join(record.line().encode() + b"\n" for record in records))


def read_folder(folder: Path) -> list[Record]:
    """The records of an evaluation's folder, those of all its processes, each measurement once.

    The newest counts; and of a label that has meant several models, or one whose weights have
    changed since, those of the newest only.

    Raises:
        ValueError: If there is none, or a line is no record of this version.
    """
    files = sorted(folder.glob(FILES))
    if not files:
        raise ValueError(
            f"{folder} holds no {FILES}: it is not the --output of an evaluation; "
            "make one with 'sdtt evaluate --output FOLDER'"
        )
    found = [record for file in files for record in read_file(file)]
    found.sort(key=lambda record: record.time)
    newest = {record.model: record.fingerprint for record in found}
    kept = [record for record in found if record.fingerprint == newest[record.model]]
    return list({record.key: record for record in kept}.values())


def read_file(path: Path) -> list[Record]:
    """The records of one file. A last line that a kill cut short is left out.

    Raises:
        ValueError: If a line is no record of this version.
    """
    records = []
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            if _was_cut(line, error):
                continue
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        records.append(_record(values, f"{path}, line {number}"))
    return records


def _text_of(path: Path) -> str:
    """The text of a file, without the mark that some editors begin it with.

    Raises:
        ValueError: If it is no UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text at its byte {error.start}: save it as UTF-8"
        ) from error


def _was_cut(line: str, error: json.JSONDecodeError) -> bool:
    """Whether a kill left the front of a record: it is measured again, so nothing is lost.

    What is cut lacks something at its end, or the end of a string or a word that began before.
    """
    begun = line.startswith(FRONT) or FRONT.startswith(line)
    rest = line[error.pos :].strip()
    in_string = error.msg.startswith(("Unterminated string", "Invalid \\uXXXX"))
    in_word = any(word.startswith(rest) for word in ("true", "false", "null", "-"))
    in_number = re.fullmatch(r"\.|(\.\d+)?e[+-]?", rest) is not None
    return begun and (in_string or in_word or in_number)


def _record(values: Any, where: str) -> Record:
    if not isinstance(values, dict) or "version" not in values:
        raise ValueError(f"{where}: no record of an evaluation: it has no 'version'")
    version = values.pop("version")
    if version != VERSION:
        raise ValueError(
            f"{where}: a record of layout {version}; this sdtt reads layout {VERSION}: measure "
            "again, or use the sdtt that wrote it"
        )
    if not isinstance(values.get("result"), dict):
        raise ValueError(f"{where}: its 'result' is no mapping of names to numbers")
    try:
        return Record(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


@dataclass(frozen=True)
class Sample:
    """One text of a file of samples.

    Attributes:
        ids: Its tokens, in the vocabulary of what drew it; None where only text is known.
        text: Decoded, special tokens left out; None where only ids are known.
        prompt_tokens: How many of the ids stood there from the beginning, at the front.
        group: Continuations of one prompt share a number.
        revealed: The step that revealed each token, from 0; -1 where it stood there already. None
            where that is not known.
        tokens: Each token as text, for a reader without the tokenizer; None where not written.
    """

    ids: Sequence[int] | None = None
    text: str | None = None
    prompt_tokens: int = 0
    group: int | str | None = None
    revealed: Sequence[int] | None = None
    tokens: Sequence[str] | None = None


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Writes samples as JSON lines, aside first and then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("w", encoding="utf-8") as file:
        for index, sample in enumerate(samples):
            known = {name: value for name, value in asdict(sample).items() if value is not None}
            file.write(json.dumps({"index": index, **known}, ensure_ascii=False) + "\n")
    aside.replace(path)


def read_samples(path: Path) -> list[Sample]:
    """Samples of a file of JSON lines with "ids" or "text", whoever made it.

    Raises:
        ValueError: If it is no UTF-8, there is none, or a line holds neither, or holds them in
            another form.
    """
    samples = []
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        if line.strip():
            samples.append(_sample(line, f"{path}, line {number}"))
    if not samples:
        raise ValueError(f"{path} holds no samples")
    return samples


def _sample(line: str, where: str) -> Sample:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(entry, dict) or (entry.get("ids") is None and entry.get("text") is None):
        raise ValueError(f"{where}: needs a field 'text' or 'ids'")
    ids, text = entry.get("ids"), entry.get("text")
    whole = ids is None or (isinstance(ids, list) and all(type(token) is int for token in ids))
    if not whole or not (text is None or isinstance(text, str)):
        raise ValueError(f"{where}: 'ids' must be a list of whole numbers, 'text' a string")
    if ids == [] or (ids is None and not text):
        raise ValueError(f"{where}: the sample is empty")
    front, group = entry.get("prompt_tokens"), entry.get("group")
    front = 0 if front is None else front
    if type(front) is not int or front < 0 or (ids is not None and front > len(ids)):
        raise ValueError(
            f"{where}: 'prompt_tokens' must be a whole number up to that of ids, got {front!r}"
        )
    if not (group is None or isinstance(group, int | str)):
        raise ValueError(f"{where}: 'group' must be a number or a string, got {group!r}")
    for name in ("revealed", "tokens"):
        if not isinstance(entry.get(name, []), list | None):
            raise ValueError(f"{where}: {name!r} must be a list")
    return Sample(
        ids=ids,
        text=text,
        prompt_tokens=front,
        group=group,
        revealed=entry.get("revealed"),
        tokens=entry.get("tokens"),
    )
