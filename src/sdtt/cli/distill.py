"""`sdtt distill`: a student that needs fewer steps, round after round."""

import dataclasses
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from sdtt.cli.console import note
from sdtt.cli.dry_run import DistillDryRun
from sdtt.cli.options import Given, command, resolved
from sdtt.cli.pretrain import CorpusSettings
from sdtt.cli.run_folder import RunFolder
from sdtt.cli.train import (
    QUIET,
    WITHHELD,
    check_output,
    check_resume,
    may_differ,
    run_training,
    spare,
    validate,
)
from sdtt.data.tokenizer import load_tokenizer
from sdtt.diffusion.denoiser import as_denoiser
from sdtt.models.adapters import denoiser_from
from sdtt.models.checkpoints import (
    load_config,
    load_model,
    load_outline,
    load_tokenizer_of,
    place_of,
)
from sdtt.models.formats import hub
from sdtt.models.formats.files import read_json
from sdtt.models.mdlm import MDLMForMaskedLM, preset
from sdtt.models.published import RELEASES, is_named
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
class DistillSettings(CorpusSettings):
    """What is distilled, on which text."""

    model: Path = field(
        kw_only=True,
        metadata={"help": "the model to distill: folder, hub name, or teacher: the shipped one"},
    )
    tokenizer: str | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "name or folder, for a model saved without one: gpt2 for published MDLM"},
    )
    teacher: Path | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "the first teacher: any masked model of the same vocabulary"},
    )
    attention: Literal["bidirectional", "reveal_causal"] | None = field(
        default=None,
        kw_only=True,
        metadata={
            "help": "of the student, if not the model's: reveal_causal follows the order of "
            "revelation, so that sampling keeps a cache; the first teacher is then the model "
            "(best with --noise-order dilated)"
        },
    )

    def student_and_teacher(self, model: Any, teacher: Any) -> tuple[Any, Any]:
        """The model under the attention that was asked for, and what teaches it.

        Args:
            model: What is distilled.
            teacher: Another that teaches it; None for itself.

        Raises:
            ValueError: If the model knows one attention only.
        """
        if self.attention is None or self.attention == getattr(model.config, "attention", None):
            return model, teacher
        if not hasattr(model, "with_attention"):
            raise ValueError(
                f"--attention is of MDLM models: a {type(model).__name__} knows one attention only"
            )
        return model.with_attention(self.attention), model if teacher is None else teacher

    @property
    def own_tokenizer(self) -> PreTrainedTokenizerBase:
        """The one that was asked for, else the one that was saved with the model.

        Raises:
            ValueError: If there is none.
        """
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        load_config(place_of(self.model))  # of a model that is not there no tokenizer is missing
        try:
            return load_tokenizer_of(place_of(self.model))
        except ValueError as error:
            raise ValueError(
                f"{error}; --tokenizer names another, gpt2 for a published MDLM"
            ) from error


def distill(
    settings: DistillSettings,
    lora: LoraSettings,
    run: RunFolder,
    training: Given[SDTTConfig],
    dry_run: DistillDryRun,
) -> None:
    """Distill a model, round by round, into one that needs fewer steps (SDTT).

    Each round's student is a loadable model in --output/students/STEPS. A student goes on where
    it stopped: --start-steps is then its number of steps by default.
    With --lora-rank only adapters are trained, and the model is held once; they are written to
    --output/students/STEPS/adapter, and merged into a model unless --no-merge-lora.
    """
    ask_hub = not dry_run.dry_run or dry_run.stand_in(place_of(settings.model)) is None
    training = dry_run.of(continued(training, settings.model, ask_hub=ask_hub))
    args = training.make(output_dir=str(run.output), **QUIET)
    if not run.resume:  # a run that an earlier version began may hold what does nothing
        settings.check_stream()
    if dry_run.dry_run:
        _plan(settings, lora, training, args, dry_run)
        return
    check_output(run, settings.data)
    config = resolved(settings, lora, run, training)
    free = may_differ(args, config, run.output)
    tokenizer = settings.own_tokenizer
    held = DTYPES[args.teacher_dtype] or torch.float32
    model = load_model(place_of(settings.model), dtype=held if lora.lora_rank else torch.float32)
    as_denoiser(model)
    teacher = None
    if settings.teacher is not None:
        loaded = load_model(place_of(settings.teacher), dtype=held)
        teacher = denoiser_from(loaded, tokenizer.mask_token_id)
    blocks = settings.blocks(tokenizer, model.config.model_length, args)
    model, teacher = settings.student_and_teacher(model, teacher)
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
    run.open(
        config,
        verb="distill",
        may_differ=free,
        check=lambda: check_resume(trainer, run),
    )
    run_training(trainer, run, "distill", finish=lambda: validate(trainer, blocks.validation))
    note("students: " + " ".join(str(run.output / "students" / name) for name in args.plan.folders))


def continued(
    training: Given[SDTTConfig], model: Path, *, ask_hub: bool = True
) -> Given[SDTTConfig]:
    """The options, with the steps of the model for a start where it is a student.

    Args:
        training: The given options.
        model: A folder, or a name as ``--model`` takes it.
        ask_hub: Whether the config of a model on the hub may be fetched.
    """
    steps = _steps_of(model, ask_hub)
    given = training.values.get("ladder") or [training.values.get("start_steps")]
    start = given[0]  # type: ignore[index]
    if steps is not None and start is None:
        note(f"{model} is a student of {steps} steps: --start-steps {steps}")
        return dataclasses.replace(training, values={**training.values, "start_steps": steps})
    if steps is not None and start != steps:
        note(f"{model} is a student of {steps} steps, but the first teacher takes {start}")
    return training


def _steps_of(model: Path, ask_hub: bool) -> int | None:
    """The steps that a student was taught to sample in; None of others, and where none are said.

    The table of releases says those of a published one, so that nothing is fetched for them. What
    cannot be read is left to those who load it.
    """
    if is_named(model):
        release = RELEASES.get(str(model))
        return None if release is None else release.steps
    with suppress(OSError, ValueError):
        place = resolve(place_of(model))
        if isinstance(place, Path):
            config = read_json(place / "config.json")
        else:
            config = read_json(hub.fetch_config(place)) if ask_hub else {}
        steps = config.get(SAMPLING_STEPS)
        return steps if type(steps) is int else None
    return None


def _plan(
    settings: DistillSettings,
    lora: LoraSettings,
    training: Given[SDTTConfig],
    args: SDTTConfig,
    dry_run: DistillDryRun,
) -> None:
    logging.disable_progress_bar()  # transformers' own, for reading weights
    stand_in = dry_run.stand_in(place_of(settings.model))

    def models(*, weights: bool) -> tuple[Any, Any]:
        if stand_in is None:
            student = _read(settings.model, weights)
        else:
            with torch.device("cpu" if weights else "meta"):
                student = MDLMForMaskedLM(preset(stand_in))
        teacher = None
        if settings.teacher is not None:
            mask_token_id = as_denoiser(student).mask_token_id
            teacher = denoiser_from(_read(settings.teacher, weights), mask_token_id)
        student, teacher = settings.student_and_teacher(student, teacher)
        return with_adapters(student, lora), teacher

    student, teacher = models(weights=False)
    another = None if settings.teacher is None else teacher  # of its own weights
    estimate = estimate_of_distillation(args, student, peak_of(args), another)

    def trainer(config: Any) -> SDTTTrainer:
        own, first = models(weights=True)
        texts = random_texts(own, config.per_device_train_batch_size)
        return SDTTTrainer(own, first, args=config, train_dataset=texts, eval_dataset=texts)

    shape = "" if stand_in is None else f" (not read: the shape of the preset {stand_in})"
    dry_run.show(f"distill {settings.model}{shape}", estimate, training, trainer)


def _read(source: Path, weights: bool) -> Any:
    place = place_of(source)
    return load_model(place, dtype=torch.float32) if weights else load_outline(place)


COMMAND = command(
    distill,
    withhold=WITHHELD | {"max_steps"},
    example="sdtt distill --model runs/teacher --data python-docs --output runs/student",
)
