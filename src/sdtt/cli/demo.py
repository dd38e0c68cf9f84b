"""`sdtt demo`: the whole method on a small scale, in minutes on two CPU cores."""

import copy
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.utils import logging

from sdtt import __version__
from sdtt.cli.console import note, progress
from sdtt.cli.options import command, resolved
from sdtt.cli.run_folder import RunFolder, prepare, save_config
from sdtt.cli.train import QUIET, run_training
from sdtt.data.corpus import documents
from sdtt.data.packing import Blocks, load_blocks
from sdtt.data.tokenizer import train_tokenizer
from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.evaluation.suite import Sampling, draw_samples, measure, measure_control, measure_model
from sdtt.models.blocks import BlocksModel
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.checkpoints import load_model
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM, preset
from sdtt.report.demo import write_report
from sdtt.sampling.autoregressive import sample_autoregressive
from sdtt.sampling.settings import SampleSettings
from sdtt.training.distill import SDTTTrainer
from sdtt.training.pretrain import CausalTrainer, MDLMTrainer, PretrainConfig, initialise_from
from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.trainer import StreamTrainer

TEACHER_STEPS = (64, 32, 16, 8, 4, 2)
STUDENT_STEPS = (64, 16, 8, 4, 2)
CONTROL_STEPS = (16, 8, 4, 2)
CONTROL_TEMPERATURES = 3.5
"""Temperatures that the search for a control takes on average: only to plan the time."""

BATCH = 16
"""Texts an update: at so few tokens many small updates learn more than few large ones."""

TIME = {"judge": 0.15, "initial": 0.11, "teacher": 0.29, "distill": 0.13}
"""Shares of the time; what is left measures."""

DISTILL: dict[str, Any] = {
    "rounds": 2,
    "teacher_steps": 4,
    "start_steps": 64,
    "learning_rate": 3e-4,
    "ema_decay": 0.0,
}
"""64 -> 16 -> 4 steps: few rounds of large steps, for small ones carry no signal (docs/demo.md)."""

PROBE_UPDATES = 6
SDTT_COST = 2.5
"""An SDTT update with k = 4 over a pretraining update, measured on two CPU cores."""


@dataclass(frozen=True)
class DemoSettings:
    """How long the demo may take, and where it writes."""

    output: Path = field(metadata={"help": "folder that everything is written to"})
    data: str = field(
        default="python-docs", metadata={"help": "text; the default needs no download"}
    )
    minutes: float = field(
        default=7.0, metadata={"help": "time to fill; the updates follow from the probed speed"}
    )
    seed: int = field(default=0, metadata={"help": "of everything"})
    overwrite: bool = field(
        default=False,
        metadata={"help": "delete an earlier demo in --output first", "flag_only": True},
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.minutes <= 0:
            raise ValueError(f"minutes must be above 0, got {self.minutes}")


@dataclass(frozen=True)
class Text:
    """What all stages read.

    Attributes:
        tokenizer: A BPE of the corpus.
        train: Blocks to train on.
        validation: Blocks of other documents.
        shape: The network's, for a masked or a causal model.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Blocks
    validation: Blocks
    shape: dict[str, Any]


class Clock:
    """Seconds by stage, and what is left of the time."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.total - (time.perf_counter() - self.start)


@dataclass(frozen=True)
class Models:
    """What is measured, and by whom; students by round, from 1."""

    judge: Any
    autoregressive: Any
    teacher: Any
    students: dict[int, Any]


def demo(settings: DemoSettings) -> None:
    """Pretrain, distill, sample, measure and report, in minutes on two CPU cores.

    Writes --output/report.md with tables, a plot and texts, and --output/metrics.json.
    """
    logging.disable_progress_bar()
    for folder in ("", "judge", "initial", "teacher", "distill"):
        prepare(settings.output / folder, resume=False, overwrite=settings.overwrite)
    save_config(settings.output, resolved(settings), verb="demo")
    clock = Clock(settings.minutes * 60)
    with clock.stage("text"):
        text = _text(settings)
    with clock.stage("probe"):
        update_seconds = _probe(settings, text)
    models, updates = _train_all(settings, text, clock, update_seconds)
    metrics, samples = _measure_all(settings, text, models, clock)
    metrics["settings"] |= {
        "updates": updates,
        "seconds": {stage: round(seconds, 1) for stage, seconds in clock.seconds.items()},
        "command": shlex.join(["sdtt", *sys.argv[1:]]),
    }
    path = write_report(metrics, samples, settings.output)
    print(path)


def _text(settings: DemoSettings) -> Text:
    tiny = preset("tiny")
    tokenizer = train_tokenizer(documents(settings.data), tiny.vocab_size)
    blocks = load_blocks(settings.data, tokenizer, tiny.model_length)
    shape = tiny.shape | {
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return Text(tokenizer, blocks.train, blocks.validation, shape)


def _config(settings: DemoSettings, output: str, updates: int, rate: float) -> dict[str, Any]:
    return QUIET | {
        "output_dir": str(settings.output / output),
        "max_steps": updates,
        "per_device_train_batch_size": BATCH,
        "learning_rate": rate,
        "warmup_steps": min(50, updates // 5),
        "attn_implementation": "eager",
        "save_strategy": "no",
        "logging_steps": max(1, updates // 10),
        "use_cpu": True,
    }


class _Ticks(TrainerCallback):
    """The times at which updates ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())


def _probe(settings: DemoSettings, text: Text) -> float:
    """Seconds of one update, the median of a few behind the first."""
    trainer = CausalTrainer(
        CausalLM(CausalConfig(**text.shape)),
        PretrainConfig(**_config(settings, "judge", PROBE_UPDATES, 1e-3)),
        text.train,
        text.tokenizer,
    )
    ticks = _Ticks()
    trainer.add_callback(ticks)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return median(after - before for before, after in pairwise(ticks.times))


def _train_all(
    settings: DemoSettings, text: Text, clock: Clock, update_seconds: float
) -> tuple[Models, dict[str, int]]:
    """Judge, teacher from a causal model that is not the judge, students; and their updates."""
    updates = {
        name: max(10, round(share * clock.total / update_seconds)) for name, share in TIME.items()
    }
    updates["distill"] = max(2, round(updates["distill"] / SDTT_COST / DISTILL["rounds"]))

    def pretrain(name: str, model: BlocksModel, seed: int, rate: float) -> BlocksModel:
        config = PretrainConfig(
            **_config(settings, name, updates[name], rate), seed=settings.seed + seed
        )
        kind = CausalTrainer if isinstance(model, CausalLM) else MDLMTrainer
        _run(kind(model, config, text.train, text.tokenizer), name, clock)
        model.eval()  # type: ignore[no-untyped-call]
        return model

    torch.manual_seed(settings.seed)
    judge = pretrain("judge", CausalLM(CausalConfig(**text.shape)), 1, 2e-3)
    initial = pretrain("initial", CausalLM(CausalConfig(**text.shape)), 2, 2e-3)
    teacher = MDLMForMaskedLM(MDLMConfig(**text.shape))
    initialise_from(teacher, initial)
    pretrain("teacher", teacher, 3, 2e-3)
    config = SDTTConfig(
        **_config(settings, "distill", 0, DISTILL["learning_rate"])
        | DISTILL
        | {"steps_per_round": updates["distill"], "warmup_steps": 10, "max_steps": -1},
        seed=settings.seed + 4,
    )
    student = copy.deepcopy(teacher)
    trainer = SDTTTrainer(
        student, teacher, args=config, train_dataset=text.train, processing_class=text.tokenizer
    )
    _run(trainer, "distill", clock)
    rounds = [config.plan.at(index * updates["distill"]) for index in range(config.rounds)]
    students = {
        each.index + 1: load_model(
            settings.output / "distill" / "students" / str(each.student_sampling_steps)
        )
        for each in rounds
    }
    for model in students.values():
        model.set_attn_implementation("eager")
    return Models(judge, initial, teacher, students), updates


def _run(trainer: StreamTrainer, name: str, clock: Clock) -> None:
    output = Path(trainer.args.output_dir or ".")
    with clock.stage(name):
        run_training(trainer, RunFolder(output), name, resumable=False)
    if not isinstance(trainer, SDTTTrainer):
        trainer.save_to(output)


def _measure_all(
    settings: DemoSettings, text: Text, models: Models, clock: Clock
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The metrics, and texts to read, with as many samples as the time left allows."""
    with clock.stage("measure"):
        how = Sampling(_affordable(models, clock), settings=_sampling(settings.seed))
        judge, texts = models.judge, {}
        jobs = len(TEACHER_STEPS) + len(models.students) * len(STUDENT_STEPS + CONTROL_STEPS)
        metrics: dict[str, Any] = {"teacher": {}, "students": {}}
        with progress(jobs, "measure", "measurements") as advance:
            for steps in TEACHER_STEPS:
                record, ids = measure_model(models.teacher, steps, judge, how)
                metrics["teacher"][str(steps)] = record
                texts[f"teacher, {steps} steps"] = ids
                advance(1)
            for number, student in models.students.items():
                rows = metrics["students"][str(number)] = {}
                for steps in STUDENT_STEPS:
                    rows[str(steps)], ids = measure_model(student, steps, judge, how)
                    texts[f"student of round {number}, {steps} steps"] = ids
                    advance(1)
                for steps in CONTROL_STEPS:
                    row = rows[str(steps)]
                    try:
                        row["control"] = measure_control(
                            models.teacher, steps, row["entropy"], judge, how
                        )
                    except ValueError as error:
                        note(f"round {number}, {steps} steps: {error}")
                    advance(1)
        length = text.shape["model_length"]
        drawn = sample_autoregressive(
            models.autoregressive, num_samples=how.num_samples, length=length, seed=settings.seed
        )
        metrics["ar"] = measure(drawn.tolist(), judge)
        metrics["data"] = measure(text.validation[: how.num_samples].tolist(), judge)
        bound = validation_nelbo(models.teacher, text.validation)
        metrics["settings"] = _settings(settings, text, models, how) | {
            "teacher_validation_nelbo": bound.nats_per_token,
            "teacher_bits_per_byte": bound.bits_per_byte,
        }
    last = max(models.students)
    shown = ("teacher, 64 steps", "teacher, 4 steps", f"student of round {last}, 4 steps")
    decoded = {name: text.tokenizer.batch_decode(texts[name][:3]) for name in shown}
    decoded["real text"] = text.tokenizer.batch_decode(text.validation[:3].tolist())
    return metrics, decoded


def _sampling(seed: int) -> SampleSettings:
    """The process as it is published; `sdtt generate` takes the dilated order."""
    return SampleSettings(sampler="ancestral", seed=seed)


def _affordable(models: Models, clock: Clock) -> int:
    """Samples of each measurement, so that all of them fit into the time left."""
    trial = Sampling(64, settings=_sampling(0))
    draw_samples(models.teacher, 4, trial)
    start = time.perf_counter()
    draw_samples(models.teacher, 4, trial)
    pass_seconds = (time.perf_counter() - start) / 4 / trial.num_samples
    length = models.teacher.config.model_length

    def passes(ladder: tuple[int, ...]) -> float:
        # a step in which a text reveals nothing costs it no pass
        return sum(steps * (1 - (1 - 1 / steps) ** length) + 1 for steps in ladder)

    each = passes(STUDENT_STEPS) + CONTROL_TEMPERATURES * passes(CONTROL_STEPS)
    total = passes(TEACHER_STEPS) + len(models.students) * each + 3 * length
    affordable: float = clock.left / (pass_seconds * total)
    return int(min(max(affordable // 16 * 16, 64), 512))


def _settings(settings: DemoSettings, text: Text, models: Models, how: Sampling) -> dict[str, Any]:
    student_steps = {
        str(number): Path(model.config.name_or_path).name
        for number, model in models.students.items()
    }
    return {
        "length": text.shape["model_length"],
        "data": settings.data,
        "training_blocks": len(text.train),
        "parameters": models.teacher.num_parameters(),
        "shape": {name: value for name, value in text.shape.items() if value is not None},
        "batch_size": BATCH,
        "distill": DISTILL,
        "student_sampling_steps": student_steps,
        "num_samples": how.num_samples,
        "seed": settings.seed,
        "sampler": "ancestral",
        "draw_dtype": "float64",
        "judge": "a causal model of the same text that made nothing of what it judges",
        "autoregressive": "the causal model that the teacher started from",
        "versions": {
            "sdtt": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": torch.get_num_threads(),
    }


COMMAND = command(demo, example="sdtt demo --output runs/demo")
