"""What survives a restart, and how a checkpoint is known to be whole.

A checkpoint folder holds, beside what transformers' Trainer writes (student, optimiser, scheduler,
random state, the update reached):

* ``ema.safetensors``       the averaged weights
* ``teacher.safetensors``   the teacher of the round, and ``teacher.json`` its round, the updates at
                            which rounds have ended, and what the held-out texts have shown since
* ``skipped.json``          how many updates had nothing to learn from, and were skipped
* ``data.json``             the digest of the text; or, of a stream, how many processes there were
* ``data-<n>.safetensors``  of a stream, where the lanes stand that process n serves
* ``manifest.json``         the size and SHA-256 of every file, renamed in last

The round is a function of the update and of where rounds have ended, the position in encoded data
one of the update; a stream has a state of its own, because what it has read decides where its
blocks begin. A folder without a matching manifest is not a checkpoint: it is never resumed from.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

EMA = "ema.safetensors"
TEACHER = "teacher.safetensors"
TEACHER_ROUND = "teacher.json"
SKIPPED = "skipped.json"
MANIFEST = "manifest.json"


def write_aside(path: Path, text: str) -> None:
    """Writes a file under another name and renames it, so that it is never seen half written."""
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def keep_records(path: Path, step: int) -> None:
    """Drops the records of updates after ``step``, which a run taken up there writes again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if _step(line) <= step]
    write_aside(path, "".join(line + "\n" for line in kept))


def _step(record: str) -> float:
    """The update of a record; past all others if a kill has cut it short."""
    try:
        return float(json.loads(record)["step"])
    except ValueError:
        return math.inf


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def write_manifest(checkpoint: Path) -> None:
    """Marks a checkpoint as complete."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MANIFEST)
    record = {str(path.relative_to(checkpoint)): _digest(path) for path in files}
    write_aside(checkpoint / MANIFEST, json.dumps(record, indent=1))


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is whole."""
    manifest = checkpoint / MANIFEST
    if not manifest.is_file():
        return f"{checkpoint} is incomplete: its saving did not finish (no {MANIFEST})"
    try:
        record = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        return f"{manifest} is damaged: not JSON"
    for name, expected in record.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{checkpoint} is damaged: {name} is missing"
        if _digest(path) != expected:
            return f"{checkpoint} is damaged: {name} is not the file that was saved"
    return None


def checkpoints(output: Path) -> list[Path]:
    """All checkpoint folders of a run, whole or not, newest update first."""
    prefix = PREFIX_CHECKPOINT_DIR + "-"
    found = [
        path
        for path in output.glob(f"{prefix}*")
        if path.is_dir() and path.name.removeprefix(prefix).isdigit()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix(prefix)), reverse=True)


def last_complete_checkpoint(output: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and what is wrong with the newer ones, in words."""
    faults: list[str] = []
    for checkpoint in checkpoints(output):
        problem = fault(checkpoint)
        if problem is None:
            return checkpoint, faults
        faults.append(problem)
    return None, faults


def delete_old_checkpoints(newest: Path, limit: int | None) -> None:
    """Keeps ``newest`` and the ``limit - 1`` checkpoints before it; all without a limit.

    Checkpoints of later updates do not count: a run that was taken up before them passed them over
    because they are broken.
    """
    if limit is None or limit < 1:
        return
    found = checkpoints(newest.parent)
    for old in found[found.index(newest) + limit :]:
        shutil.rmtree(old)


def save_into(folder: Path, save: Callable[[Path], None]) -> None:
    """Calls ``save(path)`` on a new folder inside ``folder`` and renames what it wrote into place.

    Other files of the folder stay; each file is there whole or not at all.
    """
    aside = folder / ".part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save(aside)
    for path in sorted(aside.iterdir()):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    aside.rmdir()
