"""`sdtt distill`: a student that needs fewer steps, round after round."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from sdtt.cli.console import note
from sdtt.cli.options import Given, command, resolved
from sdtt.cli.pretrain import TextSettings
from sdtt.cli.run_folder import RunFolder
from sdtt.cli.train import QUIET, WITHHELD, may_differ, run_training, spare, validate
from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.training.distill import SDTTConfig, SDTTTrainer


@dataclass(frozen=True)
class DistillSettings(TextSettings):
    """What is distilled, on which text."""

    model: Path = field(kw_only=True, metadata={"help": "folder of the model to distill"})


def distill(settings: DistillSettings, run: RunFolder, training: Given[SDTTConfig]) -> None:
    """Distill a model, round by round, into one that needs fewer steps (SDTT).

    Each round's student is a loadable model in --output/students/STEPS.
    """
    args = training.make(output_dir=str(run.output), **QUIET)
    tokenizer = load_tokenizer_of(settings.model)
    model = load_model(settings.model, dtype=torch.float32)
    blocks = settings.blocks(tokenizer, model.config.model_length)
    trainer = SDTTTrainer(model, args=args, train_dataset=blocks.train, processing_class=tokenizer)
    spare(run, settings.model)
    run.open(resolved(settings, run, training), verb="distill", may_differ=may_differ(args))
    run_training(trainer, run, "distill")
    validate(trainer, blocks.validation)
    students = [
        trainer.plan.folder_of(index * args.steps_per_round) for index in range(args.rounds)
    ]
    note("students: " + " ".join(str(run.output / "students" / name) for name in students))


COMMAND = command(
    distill,
    withhold=WITHHELD | {"max_steps"},
    example="sdtt distill --model runs/teacher --data python-docs --output runs/student",
)
