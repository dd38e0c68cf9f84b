"""What a saved model's folder, and the run that it lies in, say of it; no weights are read."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml

from sdtt.training.rounds import SAMPLING_STEPS, RoundPlan

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
"""Names of safetensors, and what they are called elsewhere."""
VERB = re.compile(r"^# sdtt (\w+) --config", re.MULTILINE)
VERSION = re.compile(r"^# sdtt (\d\S*)", re.MULTILINE)


@dataclass(frozen=True)
class Saved:
    """A saved model.

    Attributes:
        config: Of its config.json.
        parameters: Numbers in its weights files; tied weights count once.
        dtypes: The types they are stored in.
    """

    config: Mapping[str, Any]
    parameters: int
    dtypes: tuple[str, ...]

    @property
    def taught_steps(self) -> int | None:
        """The sampling steps that it was distilled for; None where it was not."""
        steps: int | None = self.config.get(SAMPLING_STEPS)
        return steps

    @property
    def has_code(self) -> bool:
        """Whether it loads without this package."""
        return "auto_map" in self.config


@dataclass(frozen=True)
class Training:
    """The run that made a model.

    Attributes:
        verb: Of sdtt.
        version: Of sdtt.
        settings: Every option of the verb, by name.
        plan: Of the rounds; None where the run was no distillation.
        round: Which of them left this model, from 0; None where that is not known.
        updates: Up to the last record of that round, or of the run; None without records.
    """

    verb: str
    version: str
    settings: Mapping[str, Any]
    plan: RoundPlan | None
    round: int | None
    updates: int | None


def read_saved(folder: Path) -> Saved:
    """What a model's folder says.

    Raises:
        ValueError: If it holds no config or no weights, or a file is damaged or cut short.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no model's folder: it has no config.json") from error
    if kind != "mdlm":
        raise ValueError(f"{folder} holds a model of type {kind!r}; a card is made of 'mdlm' ones")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} is no model's folder: it has no weights (*.safetensors)")
    tensors = [tensor for file in files for tensor in _header(file)]
    names = dict.fromkeys(DTYPES.get(str(t["dtype"]), str(t["dtype"])) for t in tensors)
    return Saved(config, sum(prod(tensor["shape"]) for tensor in tensors), tuple(names))


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
    """
    model = folder.resolve()
    model = model.parent if model.name == "ema" else model
    run = model.parent.parent if model.parent.name == "students" else model
    file = run / "run.yaml"
    if not file.is_file():
        return None
    text = file.read_text("utf-8")
    settings = yaml.safe_load(text) or {}
    verb, version = VERB.search(text), VERSION.search(text)
    plan = _plan(settings) if verb and verb[1] == "distill" else None
    index = None
    if plan is not None and model.parent.name == "students" and model.name in plan.folders:
        index = plan.folders.index(model.name)
    return Training(
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
    except (KeyError, ValueError):  # of another version
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


def hub_name(source: object) -> str | None:
    """The source, if it is the name of something on the hub and nothing of this machine."""
    name = str(source).partition(":")[0]
    return name if HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def shown_name(source: object) -> str:
    """A source as others may read it: of a path the last name only."""
    path = Path(str(source))
    is_local = path.is_absolute() or path.exists() or len(path.parts) > 2
    return f"{path.name} (local)" if is_local else str(source)
