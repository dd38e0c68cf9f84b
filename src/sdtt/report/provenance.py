"""What a saved model's folder, and the run that it lies in, say of it; no weights are read."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml

from sdtt.models.formats.files import INDEX, WEIGHTS, has_tokenizer, read_json, weights_files
from sdtt.models.remote import AUTO_MAP, MODELLING_FILE
from sdtt.training.rounds import SAMPLING_STEPS, RoundPlan

_WORD = r"[A-Za-z0-9][\w.-]*"
HUB_NAME = re.compile(f"{_WORD}/{_WORD}")
HUB_DATASET = re.compile(f"({_WORD}/)?{_WORD}")
OF_DATA = (
    *(".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".bin"),
    *(".gz", ".xz", ".zst", ".zip"),
)
"""What names of files of data end in."""
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
"""Names of safetensors, and what they are called elsewhere."""
_WITHOUT_RUN = "mend it, or move it away for a card that tells nothing of the training"
VERB = re.compile(r"^# sdtt (\w+) --config", re.MULTILINE)
VERSION = re.compile(r"^# sdtt (\d\S*)", re.MULTILINE)


@dataclass(frozen=True)
class Saved:
    """A saved model.

    Attributes:
        config: Of its config.json.
        parameters: Numbers in its weights files; tied weights count once.
        dtypes: The types they are stored in.
        has_code: Whether our modelling file lies with it, so that it loads without this package.
        has_tokenizer: Whether a tokenizer lies with it.
    """

    config: Mapping[str, Any]
    parameters: int
    dtypes: tuple[str, ...]
    has_code: bool
    has_tokenizer: bool

    @property
    def taught_steps(self) -> int | None:
        """The sampling steps that it was distilled for; None where it was not."""
        steps: int | None = self.config.get(SAMPLING_STEPS)
        return steps


@dataclass(frozen=True)
class Training:
    """The run that made a model.

    Attributes:
        folder: Of the run.
        verb: Of sdtt.
        version: Of sdtt.
        settings: Every option of the verb, by name.
        plan: Of the rounds; None where the run was no distillation.
        round: Which of them left this model, from 0; None where that is not known.
        updates: Up to the last record of that round, or of the run; None without records.
    """

    folder: Path
    verb: str
    version: str
    settings: Mapping[str, Any]
    plan: RoundPlan | None
    round: int | None
    updates: int | None


def read_saved(folder: Path) -> Saved:
    """What a model's folder says.

    Raises:
        ValueError: If it holds no config or no weights, a shard is missing, a file is damaged or
            cut short, or the model is of another kind or layout.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} is no model's folder: it has no config.json")
    config = read_json(file)
    kind = config.get("model_type")
    if kind is None:
        raise ValueError(
            f"{folder} holds a model of another layout (its config.json names no model_type): "
            f"'sdtt convert {folder} DEST' makes it one that can be pushed"
        )
    if kind != "mdlm":
        raise ValueError(f"{folder} holds a model of type {kind!r}; a card is made of 'mdlm' ones")
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise ValueError(f"{folder} is no model's folder: it has no weights ({WEIGHTS})")
    tensors = [tensor for file in weights_files(folder) for tensor in _header(file)]
    names = dict.fromkeys(DTYPES.get(str(t["dtype"]), str(t["dtype"])) for t in tensors)
    code = config.get("auto_map") == AUTO_MAP and (folder / MODELLING_FILE.name).is_file()
    return Saved(
        config,
        parameters=sum(prod(tensor["shape"]) for tensor in tensors),
        dtypes=tuple(names),
        has_code=code,
        has_tokenizer=has_tokenizer(folder),
    )


def _header(file: Path) -> list[Mapping[str, Any]]:
    """The tensors of a safetensors file: eight bytes of a length, so much JSON, and the numbers."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(size, 10**8)))
        tensors = [header[name] for name in header if name != "__metadata__"]
        due = 8 + size + max(tensor["data_offsets"][1] for tensor in tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: it is no safetensors file") from error
    if file.stat().st_size != due:
        raise ValueError(
            f"{file} has {file.stat().st_size:,} of its {due:,} bytes: it is cut short"
        )
    return tensors


def read_training(folder: Path) -> Training | None:
    """The run that a model's folder belongs to; None where there is no record of one.

    A run's own folder, one of its ``students/STEPS``, or the averaged weights (``ema``) of either.

    Raises:
        ValueError: If the record is damaged.
    """
    model = folder.resolve()
    model = model.parent if model.name == "ema" else model
    run = model.parent.parent if model.parent.name == "students" else model
    file = run / "run.yaml"
    if not file.is_file():
        return None
    try:
        text = file.read_text("utf-8")
        settings = yaml.safe_load(text) or {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is damaged: it is no YAML; {_WITHOUT_RUN}") from error
    if not isinstance(settings, dict):
        kind = type(settings).__name__
        raise ValueError(f"{file} is damaged: it holds a {kind}, not options; {_WITHOUT_RUN}")
    verb, version = VERB.search(text), VERSION.search(text)
    plan = _plan(settings) if verb and verb[1] == "distill" else None
    index = None
    if plan is not None and model.parent.name == "students" and model.name in plan.folders:
        index = plan.folders.index(model.name)
    return Training(
        folder=run,
        verb=verb[1] if verb else "",
        version=version[1] if version else "",
        settings=settings,
        plan=plan,
        round=index,
        updates=_updates(run / "metrics.jsonl", index),
    )


def _plan(settings: Mapping[str, Any]) -> RoundPlan | None:
    try:
        if settings.get("ladder"):
            return RoundPlan.of_ladder(settings["ladder"], settings["steps_per_round"])
        names = "rounds", "steps_per_round", "start_steps", "teacher_steps"
        return RoundPlan(**{name: settings[name] for name in names})
    except (KeyError, TypeError, ValueError):  # of another version
        return None


def _updates(file: Path, index: int | None) -> int | None:
    """The last update that was recorded, of a round where one is given."""
    if not file.is_file():
        return None
    last = None
    for line in file.read_text("utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # a kill has cut it short
            continue
        if index is None or record.get("round") == index + 1:
            last = record.get("step", last)
    return last


def is_hub_name(name: str, *, dataset: bool = False) -> bool:
    """Whether something on the hub may have a name, as no file of data has.

    Args:
        name: OWNER/NAME.
        dataset: Of a data set it may also be a single word.
    """
    pattern = HUB_DATASET if dataset else HUB_NAME
    return pattern.fullmatch(name) is not None and Path(name).suffix.lower() not in OF_DATA


def hub_name(source: object, run: Path) -> str | None:
    """The source, if it is the name of something on the hub and nothing of this machine.

    Args:
        source: As the run was given it.
        run: Its folder; what a relative path began at lies above it, if not here.
    """
    name = str(source).partition(":")[0]
    return name if is_hub_name(name) and not _is_local(name, run) else None


def shown_name(source: object, run: Path) -> str:
    """A source as others may read it: of a path the last name only; see ``hub_name``."""
    local = _is_local(str(source).partition(":")[0], run)
    return f"{Path(str(source)).name} (local)" if local else str(source)


def _is_local(name: str, run: Path) -> bool:
    path = Path(name)
    if (
        path.is_absolute()
        or name[:1] == "~"
        or len(path.parts) > 2
        or path.suffix.lower() in OF_DATA
    ):
        return True
    if len(path.parts) < 2:
        return path.exists()
    # what is gone since then lay where its folder still is
    return any((base / path.parent).exists() for base in (Path(), run, *run.parents))
