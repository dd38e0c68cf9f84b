"""`sdtt distill`: a student that needs fewer steps, round after round."""

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from sdtt.cli.console import note
from sdtt.cli.dry_run import DryRun
from sdtt.cli.options import Given, command, resolved
from sdtt.cli.pretrain import TextSettings
from sdtt.cli.run_folder import RunFolder
from sdtt.cli.train import QUIET, WITHHELD, may_differ, run_training, spare, validate
from sdtt.models.adapters import denoiser_from
from sdtt.models.checkpoints import load_model, load_outline, load_tokenizer_of
from sdtt.models.shipped import resolve
from sdtt.training.config import peak_of
from sdtt.training.distill import SDTTTrainer
from sdtt.training.estimate import estimate_of_distillation
from sdtt.training.lora import LoraSettings, with_adapters
from sdtt.training.probe import random_texts
from sdtt.training.rounds import SAMPLING_STEPS
from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.teacher import DTYPES


@dataclass(frozen=True)
class DistillSettings(TextSettings):
    """What is distilled, on which text."""

    model: Path = field(
        kw_only=True,
        metadata={"help": "folder of the model to distill, or teacher: the shipped one"},
    )
    teacher: Path | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "folder of the first teacher, any masked model of the same vocabulary"},
    )


def distill(
    settings: DistillSettings,
    lora: LoraSettings,
    run: RunFolder,
    training: Given[SDTTConfig],
    dry_run: DryRun,
) -> None:
    """Distill a model, round by round, into one that needs fewer steps (SDTT).

    Each round's student is a loadable model in --output/students/STEPS. A student goes on where
    it stopped: --start-steps is then its number of steps by default.
    With --lora-rank only adapters are trained, and the model is held once; they are written to
    --output/students/STEPS/adapter, and merged into a model unless --no-merge-lora.
    """
    training = continued(training, settings.model)
    args = training.make(output_dir=str(run.output), **QUIET)
    if dry_run.dry_run:
        _plan(settings, lora, training, args, dry_run)
        return
    tokenizer = load_tokenizer_of(settings.model)
    held = DTYPES[args.teacher_dtype] or torch.float32
    model = load_model(settings.model, dtype=held if lora.lora_rank else torch.float32)
    teacher = None
    if settings.teacher is not None:
        teacher = denoiser_from(load_model(settings.teacher, dtype=held), tokenizer.mask_token_id)
    blocks = settings.blocks(tokenizer, model.config.model_length, args)
    torch.manual_seed(args.seed)  # of fresh adapters
    student = with_adapters(model, lora)
    trainer = SDTTTrainer(
        student,
        teacher,
        args=args,
        train_dataset=blocks.train,
        eval_dataset=blocks.validation,
        processing_class=tokenizer,
    )
    for source in (settings.model, settings.teacher):
        spare(run, source)
    run.open(resolved(settings, lora, run, training), verb="distill", may_differ=may_differ(args))
    run_training(trainer, run, "distill")
    validate(trainer, blocks.validation)
    note("students: " + " ".join(str(run.output / "students" / name) for name in args.plan.folders))


def continued(training: Given[SDTTConfig], model: Path) -> Given[SDTTConfig]:
    """The options, with the steps of the model for a start where it is a student.

    Args:
        training: The given options.
        model: The folder of the model; one without a config is left to those who load it.
    """
    with suppress(OSError, ValueError):
        config = Path(resolve(model)) / "config.json"
        steps = json.loads(config.read_text(encoding="utf-8")).get(SAMPLING_STEPS)
        given = training.values.get("ladder") or [training.values.get("start_steps")]
        start = given[0]  # type: ignore[index]
        if isinstance(steps, int) and start is None:
            note(f"{model} is a student of {steps} steps: --start-steps {steps}")
            return dataclasses.replace(training, values={**training.values, "start_steps": steps})
        if isinstance(steps, int) and start != steps:
            note(f"{model} is a student of {steps} steps, but the first teacher takes {start}")
    return training


def _plan(
    settings: DistillSettings,
    lora: LoraSettings,
    training: Given[SDTTConfig],
    args: SDTTConfig,
    dry_run: DryRun,
) -> None:
    logging.disable_progress_bar()  # transformers' own, for reading weights

    def load(source: Path) -> Any:
        return load_model(source, dtype=torch.float32) if dry_run.updates else load_outline(source)

    student = with_adapters(load(settings.model), lora)
    teacher = None
    if settings.teacher is not None:
        mask_token_id = load_tokenizer_of(settings.model).mask_token_id
        teacher = denoiser_from(load(settings.teacher), mask_token_id)
    estimate = estimate_of_distillation(args, student, peak_of(args), teacher)

    def trainer(config: Any) -> SDTTTrainer:
        texts = random_texts(student, config.per_device_train_batch_size)
        return SDTTTrainer(student, teacher, args=config, train_dataset=texts, eval_dataset=texts)

    dry_run.show(f"distill {settings.model}", estimate, training, trainer)


COMMAND = command(
    distill,
    withhold=WITHHELD | {"max_steps"},
    example="sdtt distill --model runs/teacher --data python-docs --output runs/student",
)
