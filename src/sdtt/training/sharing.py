"""How an update is shared by processes, so that any number of them gives the same run."""

from typing import Any

import torch

from sdtt.diffusion.uniforms import uniforms


def accumulation_steps(
    global_batch_size: int | None, *, processes: int, per_device: int, given: int
) -> int:
    """The micro-batches that each process sums into an update.

    Args:
        global_batch_size: Texts of an update over all processes; None leaves them to the others.
        processes: How many share them.
        per_device: Texts of a micro-batch.
        given: Micro-batches asked for; 1 may be mended, another number must fit.

    Raises:
        ValueError: If the texts cannot be shared evenly.
    """
    if global_batch_size is None:
        return given
    size = f"global_batch_size={global_batch_size}"
    if global_batch_size < processes:
        raise ValueError(
            f"{size} is less than one text for each of {processes} processes; "
            f"raise it to at least {processes}, or start fewer processes"
        )
    if global_batch_size % processes:
        raise ValueError(
            f"{size} cannot be shared evenly by {processes} processes; use a multiple of "
            f"{processes}, such as {global_batch_size // processes * processes}"
        )
    share = global_batch_size // processes
    if share % per_device:
        fitting = max(n for n in range(1, min(share, per_device) + 1) if share % n == 0)
        raise ValueError(
            f"{size} gives each of {processes} processes {share} texts, no multiple of "
            f"per_device_train_batch_size={per_device}; set that to {fitting}"
        )
    if given not in (1, share // per_device):
        raise ValueError(
            f"{size} needs gradient_accumulation_steps={share // per_device} on {processes} "
            f"processes of {per_device} texts, got {given}; leave it out, it follows"
        )
    return share // per_device


def check_loader(config: Any) -> None:
    """Refuses settings of accelerate that cut batches up: a process takes every n-th whole one.

    Args:
        config: ``TrainingArguments.accelerator_config``.

    Raises:
        ValueError: Naming the setting.
    """
    for name in ("split_batches", "dispatch_batches"):
        if getattr(config, name, None):
            raise ValueError(
                f"accelerator_config cannot set {name}: each process reads its own texts, "
                "per_device_train_batch_size at a time"
            )


def name_dropout(seed: int, place: int) -> None:
    """Makes the dropout of a micro-batch a function of the seed and of its first text's place.

    So it is the same in whichever process runs it, and different in all others.
    """
    (number,) = uniforms(seed, "dropout", [place], 1).flatten().tolist()
    torch.manual_seed(int(number * 2**53))
