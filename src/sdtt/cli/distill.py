"""`sdtt distill`: a student that needs fewer steps, round after round."""

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
from sdtt.cli.train import MAY_DIFFER, QUIET, WITHHELD, run_training, spare, validate
from sdtt.models.checkpoints import load_model, load_outline, load_tokenizer_of
from sdtt.training.distill import SDTTConfig, SDTTTrainer
from sdtt.training.estimate import estimate_of_distillation
from sdtt.training.probe import random_texts
from sdtt.training.trainer import peak_of


@dataclass(frozen=True)
class DistillSettings(TextSettings):
    """What is distilled, on which text."""

    model: Path = field(kw_only=True, metadata={"help": "folder of the model to distill"})


def distill(
    settings: DistillSettings, run: RunFolder, training: Given[SDTTConfig], dry_run: DryRun
) -> None:
    """Distill a model, round by round, into one that needs fewer steps (SDTT).

    Each round's student is a loadable model in --output/students/STEPS.
    """
    args = training.make(output_dir=str(run.output), **QUIET)
    if dry_run.dry_run:
        _plan(settings, training, args, dry_run)
        return
    tokenizer = load_tokenizer_of(settings.model)
    model = load_model(settings.model, dtype=torch.float32)
    blocks = settings.blocks(tokenizer, model.config.model_length)
    trainer = SDTTTrainer(model, args=args, train_dataset=blocks.train, processing_class=tokenizer)
    spare(run, settings.model)
    run.open(resolved(settings, run, training), verb="distill", may_differ=MAY_DIFFER)
    run_training(trainer, run, "distill")
    validate(trainer, blocks.validation)
    students = [
        trainer.plan.folder_of(index * args.steps_per_round) for index in range(args.rounds)
    ]
    note("students: " + " ".join(str(run.output / "students" / name) for name in students))


def _plan(
    settings: DistillSettings, training: Given[SDTTConfig], args: SDTTConfig, dry_run: DryRun
) -> None:
    logging.disable_progress_bar()  # transformers' own, for reading weights
    probed = dry_run.updates > 0
    model = (
        load_model(settings.model, dtype=torch.float32) if probed else load_outline(settings.model)
    )
    estimate = estimate_of_distillation(args, model, peak_of(args))

    def trainer(config: Any) -> SDTTTrainer:
        texts = random_texts(model, config.per_device_train_batch_size)
        return SDTTTrainer(model, args=config, train_dataset=texts)

    dry_run.show(f"distill {settings.model}", estimate, training, trainer)


COMMAND = command(
    distill,
    withhold=WITHHELD | {"max_steps"},
    example="sdtt distill --model runs/teacher --data python-docs --output runs/student",
)
