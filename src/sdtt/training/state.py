"""What survives a restart, and how a checkpoint is known to be whole.

A checkpoint folder holds, beside what transformers' Trainer writes (student, optimiser, scheduler,
random state, the update reached):

* ``ema.safetensors``       the averaged weights
* ``teacher.safetensors``   the teacher of the round, and ``teacher.json`` its round, the updates at
                            which rounds have ended, and what the held-out texts have shown since
* ``progress.json``         what belongs to updates that no record has told of yet (`Progress`)
* ``skipped.json``          how many updates had nothing to learn from, and were skipped
* ``settings.json``         what decides the weights of the run (``training/settings.py``)
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
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

EMA = "ema.safetensors"
TEACHER = "teacher.safetensors"
TEACHER_ROUND = "teacher.json"
SKIPPED = "skipped.json"
PROGRESS = "progress.json"
SETTINGS = "settings.json"
MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"  # transformers' own: the update that was reached
ABANDONED = ".abandoned"


@dataclass
class Progress:
    """What a record of several updates needs of those that a checkpoint lies behind.

    Attributes:
        loss_sums: The losses since the last record, summed, of each process.
        recorded: The update of the last record.
        skipped: Updates that were left out, in all, for want of a finite gradient.
        skipped_in_a_row: Those up to now with no good one in between.
        skipped_since_record: Those that the last record does not know of, and in a distillation
            those with nothing masked.
    """

    loss_sums: list[float] = field(default_factory=list)
    recorded: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    skipped_since_record: int = 0

    def save(self, checkpoint: Path) -> None:
        """Writes it into a checkpoint; JSON gives every bit of a float back."""
        (checkpoint / PROGRESS).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> "Progress | None":
        """That of a checkpoint; None where it was saved without."""
        path = checkpoint / PROGRESS
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def share(self, process: int, processes: int) -> float:
        """The losses of one process; other numbers of processes divide them evenly."""
        if len(self.loss_sums) == processes:
            return self.loss_sums[process]
        return sum(self.loss_sums) / len(self.loss_sums) if self.loss_sums else 0.0


def _sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(paths: Iterable[Path]) -> None:
    """Waits until files are on the disk, and the folders that name them."""
    files = list(paths)
    for path in files:
        _sync(path)
    for folder in {path.parent for path in files}:
        with suppress(OSError):  # some file systems know no such call for folders
            _sync(folder)


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


def put_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record to the end, in place of one of the same update and names."""

    def is_new(line: str) -> bool:
        with suppress(ValueError):
            other = json.loads(line)
            return other.keys() != record.keys() or other["step"] != record["step"]
        return True

    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [*filter(is_new, lines), json.dumps(record)]
    write_aside(path, "".join(line + "\n" for line in kept))


def _step(record: str) -> float:
    """The update of a record; past all others if a kill has cut it short."""
    try:
        return float(json.loads(record)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _files(checkpoint: Path) -> list[Path]:
    return sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MANIFEST)


def write_manifest(checkpoint: Path) -> None:
    """Marks a checkpoint as complete, once all of it is on the disk."""
    files = _files(checkpoint)
    sync_all(files)
    record = {str(path.relative_to(checkpoint)): _digest(path) for path in files}
    write_aside(checkpoint / MANIFEST, json.dumps(record, indent=1))
    sync_all([checkpoint / MANIFEST])


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is whole.

    Whole is a folder whose files are those of its manifest, no more and no less: transformers'
    Trainer takes up whatever it finds, and goes on without what it does not find.
    """
    manifest = checkpoint / MANIFEST
    if not manifest.is_file():
        return f"{checkpoint} is incomplete: its saving did not finish (no {MANIFEST})"
    try:
        record = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        return f"{manifest} is damaged: not JSON"
    if not isinstance(record, dict) or TRAINER_STATE not in record:
        return f"{manifest} is damaged: it does not list the files of a checkpoint"
    for name, expected in record.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{checkpoint} is damaged: {name} is missing"
        if _digest(path) != expected:
            return f"{checkpoint} is damaged: {name} is not the file that was saved"
    for path in _files(checkpoint):
        name = str(path.relative_to(checkpoint))
        if name not in record and not path.name.startswith("."):  # hidden: the file system's own
            return f"{checkpoint} is damaged: {name} was not saved with it (remove that file)"
    return None


def update_of(checkpoint: Path) -> int:
    """The update that a checkpoint reached, whatever its folder is called."""
    return int(json.loads((checkpoint / TRAINER_STATE).read_text("utf-8"))["global_step"])


def checkpoints(output: Path) -> list[Path]:
    """All checkpoint folders of a run, whole or not, newest update first."""
    prefix = PREFIX_CHECKPOINT_DIR + "-"
    found = [
        path
        for path in output.glob(f"{prefix}*")
        if path.is_dir() and path.name.removeprefix(prefix).isdigit()
    ]
    return sorted(found, key=_update, reverse=True)


def _update(checkpoint: Path) -> int:
    """The update that a checkpoint was saved after."""
    return int(checkpoint.name.rpartition("-")[2])


def last_complete_checkpoint(output: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and what is wrong with the newer ones, in words."""
    faults: list[str] = []
    for checkpoint in checkpoints(output):
        problem = fault(checkpoint)
        if problem is None:
            return checkpoint, faults
        faults.append(problem)
    return None, faults


def remove_checkpoint(checkpoint: Path) -> None:
    """Deletes a checkpoint, if it is there; cut short, what is left of it is no checkpoint."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    if checkpoint.exists():
        shutil.rmtree(checkpoint)


def newest_marked(output: Path, update: int) -> Path | None:
    """The newest checkpoint up to an update that is marked complete; its files are not read.

    A later one is of a course that was left, or was passed over because it is damaged.
    """
    own = (each for each in checkpoints(output) if _update(each) <= update)
    return next((each for each in own if (each / MANIFEST).is_file()), None)


def delete_old_checkpoints(newest: Path, limit: int | None, best: str | None = None) -> int:
    """Keeps ``newest`` and the ``limit - 1`` complete ones before it; all without a limit.

    Checkpoints of later updates do not count: a run that was taken up before them passed them over
    because they are broken.

    Args:
        newest: A checkpoint, which may be one that is not there (any more).
        limit: How many stay.
        best: One that stays besides, as transformers' Trainer names it.

    Returns:
        How many were deleted.
    """
    if limit is None:
        return 0
    older = [each for each in checkpoints(newest.parent) if _update(each) < _update(newest)]
    complete = [each for each in older if (each / MANIFEST).is_file()]
    kept = {path.resolve() for path in (*complete[: limit - 1], *([Path(best)] if best else []))}
    gone = [each for each in older if each.resolve() not in kept]
    for old in gone:
        remove_checkpoint(old)
    return len(gone)


def make_room(missing: Path, limit: int | None, best: str | None = None) -> int:
    """Deletes what the saving of ``missing`` would have driven out, but for the last whole one."""
    return 0 if limit is None else delete_old_checkpoints(missing, max(limit, 2), best)


def abandon_later(output: Path, update: int) -> list[Path]:
    """Renames whole checkpoints of later updates to ``checkpoint-N.abandoned``.

    A run that sets out from an earlier update, or anew, leaves their course. Were they still called
    checkpoints, a restart would take one of them up instead of the run's own.

    Returns:
        What they are called now.
    """
    renamed = []
    for checkpoint in checkpoints(output):
        if _update(checkpoint) > update and fault(checkpoint) is None:
            target = checkpoint.with_name(checkpoint.name + ABANDONED)
            remove_checkpoint(target)
            renamed.append(checkpoint.replace(target))
    return renamed


def save_into(folder: Path, save: Callable[[Path], None]) -> None:
    """Calls ``save(path)`` on a new folder beside or inside ``folder`` and renames it into place.

    A folder that was not there appears whole. In one that was, other files stay, and each file is
    there whole or not at all. If the saving fails, nothing is left of it.
    """
    fresh = not folder.exists()
    aside = folder.with_name(f".{folder.name}.part") if fresh else folder / ".part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        save(aside)
        sync_all(path for path in aside.rglob("*") if path.is_file())
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if fresh:
        aside.replace(folder)
        return
    for path in sorted(aside.iterdir()):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    aside.rmdir()
