"""The disk that a run writes to: is it writable, is there room, why did a save fail?"""

import errno
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from sdtt.training.sharding import is_sharded
from sdtt.training.state import checkpoints
from sdtt.training.teacher import own_tensors

logger = logging.get_logger(__name__)

WORDS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file has reached the largest size that is allowed",
    errno.EROFS: "the file system is read-only",
}
MOMENTS = {"adam": 2, "sgd": 0}
"""Numbers that an optimiser keeps of each weight, by a part of its name; 1 for others."""


class SaveFailed(OSError):
    """A run ended because its state could not be saved."""


def write_failure(error: BaseException) -> str | None:
    """Why a save failed, in words; None if the error is none of writing."""
    if isinstance(error, OSError):
        return WORDS.get(error.errno or 0) or str(error)
    text = str(error)
    if isinstance(error, SafetensorError):  # the system's error has become text
        number = re.search(r"os error (\d+)", text)
        return (WORDS.get(int(number[1])) if number else None) or text
    if isinstance(error, RuntimeError) and ("inline_container" in text or "StreamWriter" in text):
        return "a file could not be written to its end (torch.save gives no reason)"
    return None


def moments_of(optimizer: Any) -> int:
    """Numbers that an optimiser, named as ``optim`` does, keeps of each weight."""
    return next((n for part, n in MOMENTS.items() if part in str(optimizer).lower()), 1)


def check_writable(output: Path) -> None:
    """Makes a folder and, for a moment, a file in it.

    Raises:
        OSError: If it cannot be made, or takes no files; in words.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        reason = WORDS.get(error.errno or 0) or error.strerror
        raise OSError(
            f"cannot write to output_dir {output}: {reason}; "
            "nothing was trained; choose another folder"
        ) from error


def bytes_of(model: nn.Module) -> int:
    """Bytes of a model's weights and buffers."""
    return _bytes([*model.parameters(), *model.buffers()])


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def checkpoint_bytes(model: nn.Module, teacher: nn.Module | None, optimizer: str, ema: bool) -> int:
    """About what a checkpoint takes: the student, its optimiser's moments, EMA and teacher.

    Of a student with adapters these alone are kept, and of a teacher what it does not share with
    the student; where weights lie in parts nothing is shared.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return (
        (_bytes(trained) if hasattr(model, "peft_config") else bytes_of(model))
        + moments_of(optimizer) * _bytes(trained)
        + (4 * sum(p.numel() for p in trained) if ema else 0)
        + (0 if teacher is None else _bytes_of_teacher(teacher, model))
    )


def _bytes_of_teacher(teacher: nn.Module, student: nn.Module) -> int:
    if is_sharded(teacher) or is_sharded(student):
        return bytes_of(teacher)
    return _bytes(own_tensors(teacher, student).values())


def check_room(output: Path, args: Any, one: int, results: int = 0) -> None:
    """Compares the room on the disk with what a run will take.

    Args:
        output: The folder of the run.
        args: Its config: one checkpoint more than ``save_total_limit`` exists while one is saved.
        one: Bytes of a checkpoint.
        results: Bytes of the models that the run leaves.

    Raises:
        OSError: If not even one checkpoint fits. If less than all does, a warning is logged.
    """
    if args.save_strategy == SaveStrategy.NO:
        return
    own = [path for each in checkpoints(output) for path in each.rglob("*") if path.is_file()]
    free = shutil.disk_usage(output).free + sum(path.stat().st_size for path in own)
    if free < one:
        raise OSError(
            f"a checkpoint takes about {size(one)}, and {output} has room for {size(free)}; "
            "nothing was trained; free some space or choose another output_dir"
        )
    count = (args.save_total_limit or 1) + 1
    if free < count * one + results:
        logger.warning(
            f"{output} has room for {size(free)}; {count} checkpoints of about {size(one)} each "
            f"(save_total_limit={args.save_total_limit}, and the one being saved) and the models "
            f"that the run leaves need {size(count * one + results)}: saves may fail"
        )


def size(count: float) -> str:
    """Bytes in words, such as 1.5 GB."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
