"""What decides the weights of a run: recorded in every checkpoint, compared on resuming."""

import dataclasses
import hashlib
import inspect
import json
import math
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.trainer_utils import SaveStrategy

from sdtt.training.data_state import tells_its_text
from sdtt.training.state import SETTINGS

INHERITED = (
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("max_grad_norm", "lr_scheduler_type", "lr_scheduler_kwargs", "max_steps", "fp16"),
)
"""Those of transformers' own settings that decide; of ours all do but these:"""
FREE = frozenset(
    {"per_device_train_batch_size", "global_batch_size"}  # the texts of an update are recorded
    | {"gradient_accumulation_steps", "gather_dtype", "teacher_sharding", "merge_lora"}
    | {"logging_steps", "save_steps", "save_total_limit", "logging_nan_inf_filter"}
    | {"sample_every", "sample_count", "sample_steps", "sample_sampler", "judge", "peak_tflops"}
    | {"on_nonfinite", "max_skipped", "ema_device", "override_on_resume"}
)
FIXED = frozenset({"student", "optim"})
"""Another of these does not fit what a checkpoint holds."""
SETS_DECAY = frozenset({"max_steps", "decay_share", "warmup_steps"})
FOLLOWING = frozenset({"lr_scheduler_kwargs"})
"""What follows from these in pretraining, so that who lets them differ lets it."""
PROBES = 8
SEEDS = 2**32
"""So many seeds numpy takes, which transformers seeds too."""

Changes = dict[str, tuple[Any, Any]]


def check_faults(config: Any) -> None:
    """Refuses settings under which a run could not begin, or be kept from loss.

    Raises:
        ValueError: Naming the setting, its value and the way out.
    """
    if config.save_strategy == SaveStrategy.STEPS and config.save_steps <= 0:
        raise ValueError(
            f"save_steps must be above 0, got {config.save_steps}; save_strategy='no' saves no "
            "checkpoint"
        )
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_skipped"):
        if getattr(config, name) < 1:
            each = "; every process needs a text" if name.startswith("per_device") else ""
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}{each}")
    _check_ranges(config)
    for name, choices in (("on_nonfinite", ("stop", "skip")), ("ema_device", ("same", "cpu"))):
        if getattr(config, name) not in choices:
            words = " or ".join(map(repr, choices))
            raise ValueError(f"{name} must be {words}, got {getattr(config, name)!r}")
    for name, reason in {
        "enable_jit_checkpoint": "it saves in mid-update; SIGTERM saves at the end of one anyway",
        "logging_nan_inf_filter": "it would hide a loss that is not finite",
    }.items():
        if getattr(config, name):
            raise ValueError(f"{name} cannot be set: {reason}")
    if config.accelerator_config.split_batches:
        raise ValueError(
            "accelerator_config.split_batches cannot be set: a batch could be smaller than the "
            "number of processes; per_device_train_batch_size counts the texts of each"
        )


def _check_ranges(config: Any) -> None:
    """Refuses settings that transformers takes, and fails of in other words, or never tells."""
    if config.save_total_limit is not None and config.save_total_limit < 1:
        raise ValueError(
            f"save_total_limit must be at least 1, got {config.save_total_limit}; none keeps all"
        )
    for name in ("learning_rate", "weight_decay"):
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{name} must lie in [0, inf), got {getattr(config, name)}")
    if not (config.max_grad_norm or 0) >= 0:
        raise ValueError(
            f"max_grad_norm must be at least 0, got {config.max_grad_norm}; 0 clips nothing"
        )
    if not 0 <= config.seed < SEEDS:
        raise ValueError(f"seed must lie in 0 .. {SEEDS - 1}, got {config.seed}")
    attention = config.attn_implementation
    if "/" not in attention and attention not in ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()):
        raise ValueError(f"unknown attn_implementation {attention!r}; use sdpa, or eager")


def settings_of(trainer: Any) -> dict[str, Any]:
    """The settings that decide the weights, and what tells one run's model and data from another's.

    Args:
        trainer: A trainer that has not begun.

    Returns:
        Name to a value that JSON can hold.
    """
    args = trainer.args
    own = {
        name
        for base in type(args).__mro__
        if issubclass(base, TrainingArguments) and base is not TrainingArguments
        for name in inspect.get_annotations(base)
    }
    fields = [f.name for f in dataclasses.fields(args) if f.name in own | set(INHERITED)]
    derived = {"max_steps"} if hasattr(args, "plan") else set()  # it follows from the rounds
    if getattr(args, "round_learning_rates", None):
        derived.add("learning_rate")
    if getattr(args, "ladder", None):
        derived |= {"rounds", "start_steps", "teacher_steps"}
    record = {name: _plain(getattr(args, name)) for name in fields if name not in FREE | derived}
    record |= {
        "batch": trainer.stream.batch,
        "student": _shape(trainer.model),
    }
    if not tells_its_text(trainer.stream):
        record["data"] = _data(trainer.stream.blocks)
    teacher = getattr(trainer, "teacher", None)
    return record if teacher is None else record | {"teacher": _shape(teacher)}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)


def _shape(model: Any) -> str:
    """A model's class, its number of parameters, and a digest of their names and shapes."""
    kind = type(model).__name__.removeprefix("FSDP")  # whether it lies in parts says nothing
    if not isinstance(model, nn.Module):
        return kind
    shapes = sorted((name, tuple(p.shape)) for name, p in model.named_parameters())
    count = sum(p.numel() for p in model.parameters())
    digest = hashlib.sha256(repr(shapes).encode()).hexdigest()[:8]
    return f"{kind} of {count:,} parameters ({digest})"


def _data(blocks: Any) -> str:
    """How many texts there are, and a digest of some, evenly spread."""
    count = len(blocks)
    chosen = sorted({index * count // PROBES for index in range(PROBES)} | {count - 1})
    digest = hashlib.sha256(
        repr([torch.as_tensor(blocks[index]).tolist() for index in chosen]).encode()
    )
    return f"{count:,} texts of {len(blocks[0])} ids ({digest.hexdigest()[:8]})"


def save_settings(checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Writes them into a checkpoint."""
    (checkpoint / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")


def changes_since(
    checkpoint: Path, settings: Mapping[str, Any], allowed: Collection[str]
) -> Changes:
    """What differs from the settings that a checkpoint was made under, all of it allowed.

    A setting that only one of the two knows came or went with a version and is not compared.

    Args:
        checkpoint: A whole one.
        settings: Those of now.
        allowed: Names that may differ.

    Returns:
        Name to the value in the checkpoint and the one of now.

    Raises:
        ValueError: If something else differs, or what cannot; each with both values.
    """
    file = checkpoint / SETTINGS
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    now = json.loads(json.dumps(settings))
    changes: Changes = {
        name: (saved[name], now[name]) for name in now if name in saved and saved[name] != now[name]
    }
    free = set(allowed) | (FOLLOWING if SETS_DECAY & set(allowed) else set())
    refused = [name for name in changes if name not in free or name in FIXED]
    if not refused:
        return changes
    words = "; ".join(
        f"{name}: {changes[name][0]!r} in the checkpoint, {changes[name][1]!r} now"
        for name in refused
    )
    may = [name for name in changes if name not in FIXED]
    may = [name for name in may if name not in FOLLOWING or not SETS_DECAY & set(may)]
    words += f"; set global_batch_size={changes['batch'][0]}" if "batch" in refused else ""
    flag = f"override_on_resume={','.join(may)} (--override-on-resume {','.join(may)})"
    way = f", or name what may differ: {flag}" if set(refused) - FIXED else ""
    raise ValueError(
        f"cannot resume {checkpoint} with other settings ({words})\ngive those of the run{way}"
    )


def apply_changes(trainer: Any, fresh: list[dict[str, Any]], fresh_rates: list[float]) -> None:
    """Gives a loaded optimiser and scheduler the settings of now: what they loaded is of then.

    Args:
        trainer: Its optimiser and scheduler hold a checkpoint's state.
        fresh: The optimiser's groups before loading; their parameters are not looked at.
        fresh_rates: The scheduler's learning rates before warm-up and decay, before loading.
    """
    scheduler = trainer.lr_scheduler
    for group, now in zip(trainer.optimizer.param_groups, fresh, strict=True):
        group.update({name: value for name, value in now.items() if name != "params"})
    scheduler.base_lrs = list(fresh_rates)
    laws = getattr(scheduler, "lr_lambdas", None)
    if laws is not None:
        rates = [
            rate * law(scheduler.last_epoch) for rate, law in zip(fresh_rates, laws, strict=True)
        ]
        for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates
