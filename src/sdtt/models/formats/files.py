"""Which files a model folder has, by their names; no weights are read."""

import json
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weights_files(folder: Path) -> list[Path]:
    """The files of a model's weights: one, or the shards that its index names.

    Raises:
        ValueError: If there are none, or a shard is missing or outside the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder, sorted(set(weight_map(folder).values())))
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    found = f"{len(others)} files *.safetensors and no {INDEX}" if others else f"no {WEIGHTS}"
    raise ValueError(
        f"{folder} is no complete model folder: it has {found}"
        + (f"; {pickled[0]} is a pickle, which is not read here" if pickled else "")
    )


def weight_map(folder: Path) -> dict[str, str]:
    """The file of each weight, as the index of a folder has it.

    Raises:
        ValueError: If the index is damaged.
    """
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ValueError(f"{folder / INDEX} is damaged: it has no weight_map")
    return {name: str(file) for name, file in where.items()}


def _shards(folder: Path, names: list[str]) -> list[Path]:
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(
            f"{folder / INDEX} is refused: it names a shard outside the folder, {outside[0]}"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(names)} shards are missing, such as {missing[0]}, "
            f"which {INDEX} names; the download is not complete"
        )
    return [folder / name for name in names]


def has_tokenizer(place: Path) -> bool:
    """Whether a folder holds files of a tokenizer."""
    patterns = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "*.model")
    return any(any(place.glob(pattern)) for pattern in patterns)


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: If it is no JSON, or no object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is damaged: it is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: it holds a {type(content).__name__}, not an object")
    return content
