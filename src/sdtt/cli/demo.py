"""`sdtt demo`: a shipped teacher, distilled and measured in minutes on two CPU cores."""

import copy
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from sdtt import __version__
from sdtt.cli.console import note, progress
from sdtt.cli.options import command, resolved
from sdtt.cli.run_folder import RunFolder, check_free, prepare, save_config
from sdtt.cli.train import QUIET, run_training, spare
from sdtt.data.packing import load_blocks
from sdtt.evaluation.judge_samples import retokeniser
from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.evaluation.suite import (
    Record,
    Sampling,
    draw_samples,
    measure,
    measure_control,
    measure_model,
)
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.models.mdlm import MDLMForMaskedLM, preset
from sdtt.models.shipped import is_here, shipped
from sdtt.report.demo import write_report
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import sample
from sdtt.sampling.settings import SampleSettings
from sdtt.training.distill import SDTTTrainer
from sdtt.training.pretrain import CausalTrainer, PretrainConfig
from sdtt.training.probe import FOR_PROBE, probe
from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.trainer import StreamTrainer

TEACHER_STEPS = (64, 16, 8, 4)
STUDENT_STEPS = (16, 8, 4)
CONTROL_STEPS = (8, 4)
DILATED_STEPS = (8, 4)
CONTROL_TEMPERATURES = 3.5
"""Temperatures that the search for a control takes on average: only to plan the time."""

BATCH = 16
"""Texts an update, and texts that the teacher writes at a time."""

TIME = {"texts": 0.15, "judge": 0.15, "distill": 0.4}
"""Shares of the time, the first two where they are needed; what is left measures."""

WRITING_STEPS = 32
"""Dilated steps in which the teacher writes: from 16 on more change nothing (results/orders)."""

DISTILL: dict[str, Any] = {
    "rounds": 2,
    "teacher_steps": 4,
    "start_steps": 64,
    "learning_rate": 1e-4,
    "ema_decay": 0.0,
}
"""64 -> 16 -> 4 steps: few rounds of large steps, for small ones carry no signal (docs/demo.md)."""

PROBE_UPDATES = 3


@dataclass(frozen=True)
class DemoSettings:
    """What the demo distills, how long it may take, and where it writes."""

    output: Path = field(metadata={"help": "folder that everything is written to"})
    model: Path = field(
        default=Path("teacher"), metadata={"help": "the teacher: a folder, or a shipped model"}
    )
    data: str | None = field(
        default=None, metadata={"help": "text; by default what the teacher itself writes"}
    )
    judge: str | None = field(
        default=None,
        metadata={"help": "causal language model; the shipped one, or else one that is trained"},
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
class Teacher:
    """The model that is distilled.

    Attributes:
        model: In float32.
        tokenizer: Saved with it.
        length: L, tokens of a text.
    """

    model: MDLMForMaskedLM
    tokenizer: PreTrainedTokenizerBase
    length: int


@dataclass(frozen=True)
class Text:
    """What the students are trained on.

    Attributes:
        train: Texts of L ids.
        validation: Held-out blocks of real text; None where the teacher wrote it all.
        about: A sentence that says what it is.
    """

    train: Any
    validation: Any | None
    about: str


@dataclass(frozen=True)
class Judge:
    """Who measures.

    Attributes:
        model: A causal language model.
        retokenise: Turns the teacher's ids into the judge's, where tokenizers differ.
        about: A sentence that says who it is.
    """

    model: Any
    retokenise: Callable[[list[list[int]]], list[list[int]]] | None
    about: str


def demo(settings: DemoSettings) -> None:
    """Distill the shipped teacher, and measure teacher, students and controls, in minutes.

    Without --data no text is needed: the students learn from what the teacher writes. Writes
    --output/report.md with tables, a plot and texts, and --output/metrics.json.
    """
    logging.disable_progress_bar()
    clock = Clock(settings.minutes * 60)
    with clock.stage("load"):
        teacher = _teacher(settings)
        judge = _ready_judge(settings, teacher)
    run = RunFolder(settings.output, overwrite=settings.overwrite)
    spare(run, settings.model)
    runs = [run, *(RunFolder(settings.output / name) for name in ("distill", "judge"))]
    runs = runs[:2] if judge else runs
    how: dict[str, bool] = {"resume": False, "overwrite": run.overwrite, "resumable": False}
    for each in runs:
        check_free(each.output, **how)
    text = None
    if settings.data is not None:  # a wrong one is refused while the earlier demo is still there
        with clock.stage("texts"):
            text = _text_of(settings.data, teacher)
    for each in runs:
        prepare(each.output, **how)
    save_config(run.output, resolved(settings), verb="demo")
    try:
        print(_demonstrated(settings, teacher, text, judge, clock))
    except Exception:
        for each in runs:
            each.withdraw()
        raise


def _demonstrated(
    settings: DemoSettings, teacher: Teacher, text: Text | None, judge: Judge | None, clock: Clock
) -> Path:
    """Trains, measures and reports; the path of the report."""
    if text is None:
        with clock.stage("texts"):
            text = _own_text(settings, teacher, clock)
    judge = judge or _trained_judge(settings, teacher, text, clock)
    students, updates = _students(settings, teacher, text, clock)
    with clock.stage("measure"):
        metrics, samples = _measured(settings, teacher, students, judge, text, clock)
    metrics["about"] = f"{_about_teacher(settings, teacher)} {text.about} {judge.about}"
    metrics["settings"] |= {
        "updates_a_round": updates,
        "seconds": {stage: round(seconds, 1) for stage, seconds in clock.seconds.items()},
        "command": shlex.join(["sdtt", *sys.argv[1:]]),
    }
    return write_report(metrics, samples, settings.output)


# ---------------------------------------------------------------- teacher, text, judge


def _teacher(settings: DemoSettings) -> Teacher:
    model = load_model(settings.model, dtype=torch.float32)
    if not isinstance(model, MDLMForMaskedLM):
        raise ValueError(f"the demo distills models of ours, got a {type(model).__name__}")
    return Teacher(model, load_tokenizer_of(settings.model), model.config.model_length)


def _about_teacher(settings: DemoSettings, teacher: Teacher) -> str:
    size = teacher.model.num_parameters() / 1e6
    return (
        f"The teacher is {settings.model}: {size:.1f}M parameters, {teacher.length} tokens a text."
    )


def _text_of(data: str, teacher: Teacher) -> Text:
    """The text that was given."""
    blocks = load_blocks(data, teacher.tokenizer, teacher.length)
    about = f"The students learned on {len(blocks.train):,} texts of {data}."
    return Text(blocks.train, blocks.validation, about)


def _own_text(settings: DemoSettings, teacher: Teacher, clock: Clock) -> Text:
    """What the teacher writes."""
    steps = min(WRITING_STEPS, teacher.length)
    # another seed than that of the measurements, which else would draw these very texts
    how = SampleSettings(sampler="dilated", steps=steps, seed=settings.seed + 1)
    texts = _written(teacher, how, TIME["texts"] * clock.total)
    about = (
        f"This is data-free distillation: no text was read. The students learned on {len(texts):,}"
        f" texts that the teacher itself wrote (dilated order, {steps} steps, temperature 1), so"
        " they can learn to write sooner what it writes, and nothing else."
    )
    return Text(texts, None, about)


def _written(teacher: Teacher, how: SampleSettings, seconds: float) -> Int[Tensor, "N L"]:
    """Texts of the teacher: a batch, and more as long as there is time."""
    model = teacher.model.for_inference()
    canvas = canvas_of(model, teacher.length, BATCH)
    until = time.perf_counter() + seconds
    parts: list[Tensor] = []
    with progress(None, "texts of the teacher", "texts") as advance:
        while not parts or time.perf_counter() < until:
            parts.append(sample(model, canvas, first_index=BATCH * len(parts), **vars(how)))
            advance(BATCH)
    return torch.cat(parts)


def _ready_judge(settings: DemoSettings, teacher: Teacher) -> Judge | None:
    """The one that is asked for, or the shipped one; None where there is none."""
    if settings.judge is None and not is_here("judge"):
        return None
    source = settings.judge or shipped("judge")
    model = load_model(source, causal=True, dtype=torch.float32)
    own = load_tokenizer_of(source)
    name = settings.judge or "the causal model shipped beside the pair, of other weights than both"
    about = f"The judge is {name}."
    retokenise = retokeniser(teacher.tokenizer, own)
    if retokenise is not None:
        note("the judge has another tokenizer: samples are retokenised for it")
    return Judge(model, retokenise, about)


def _trained_judge(settings: DemoSettings, teacher: Teacher, text: Text, clock: Clock) -> Judge:
    """A small causal model of the demo's texts."""
    note("there is no shipped judge here (it is in the repository): training one on the texts")
    config = teacher.model.config
    names = ("vocab_size", "model_length", "mask_token_id", "bos_token_id", "eos_token_id")
    shape = preset("tiny").shape | {name: getattr(config, name) for name in names}

    def trainer(updates: int, **others: Any) -> StreamTrainer:
        torch.manual_seed(settings.seed)
        model = CausalLM(CausalConfig(**shape))
        args = _config(settings, "judge", updates, learning_rate=2e-3, max_steps=updates) | others
        return CausalTrainer(model, PretrainConfig(**args), text.train, teacher.tokenizer)

    with clock.stage("judge"):
        updates = max(5, round(TIME["judge"] * clock.total / _update_seconds(trainer)))
        running = trainer(updates)
        run_training(running, RunFolder(settings.output / "judge"), "judge", resumable=False)
    model: Any = running.model
    about = (
        "No judge is shipped with an installed package (the repository has one), so a causal model"
        f" of {model.num_parameters() / 1e6:.1f}M parameters was trained on the same texts for"
        f" {updates} updates: its perplexities are comparable within this report only."
    )
    return Judge(model.eval(), None, about)


# ---------------------------------------------------------------- students


def _config(settings: DemoSettings, folder: str, updates: int, **others: Any) -> dict[str, Any]:
    return QUIET | {
        "output_dir": str(settings.output / folder),
        "per_device_train_batch_size": BATCH,
        "warmup_steps": min(10, updates // 5),
        "attn_implementation": "eager",
        "save_strategy": "no",
        "logging_steps": max(1, updates // 10),
        "use_cpu": True,
        "seed": settings.seed,
        **others,
    }


def _update_seconds(trainer: Callable[..., StreamTrainer]) -> float:
    """Seconds of an update on this machine."""
    probed = partial(trainer, PROBE_UPDATES, **FOR_PROBE)
    return probe(probed, updates=PROBE_UPDATES, accumulation=1).seconds_per_update


def _students(
    settings: DemoSettings, teacher: Teacher, text: Text, clock: Clock
) -> tuple[dict[int, MDLMForMaskedLM], int]:
    """The student of each round, from 1; and the updates of a round."""

    def trainer(updates: int, **others: Any) -> SDTTTrainer:
        args = _config(settings, "distill", updates, steps_per_round=updates) | DISTILL | others
        return SDTTTrainer(
            copy.deepcopy(teacher.model),
            args=SDTTConfig(**args),
            train_dataset=text.train,
            processing_class=teacher.tokenizer,
        )

    with clock.stage("probe"):
        seconds = _update_seconds(trainer)
    updates = max(2, round(TIME["distill"] * clock.total / seconds / DISTILL["rounds"]))
    with clock.stage("distill"):
        running = trainer(updates)
        folder = RunFolder(settings.output / "distill")
        run_training(running, folder, "distill", resumable=False)
    names = [str(settings.output / "distill/students" / name) for name in running.plan.folders]
    return {number: load_model(name) for number, name in enumerate(names, 1)}, updates


# ---------------------------------------------------------------- measurements


def _measured(
    settings: DemoSettings,
    teacher: Teacher,
    students: dict[int, MDLMForMaskedLM],
    judge: Judge,
    text: Text,
    clock: Clock,
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The metrics, and texts to read, with as many samples as the time left allows."""
    first = teacher.model.for_inference()
    # the process as it is published; `sdtt generate` takes the dilated order
    process = SampleSettings(sampler="ancestral", seed=settings.seed)
    how = Sampling(_affordable(first, len(students), clock), settings=process)
    dilated = replace(how, settings=SampleSettings(sampler="dilated", seed=settings.seed))
    jobs = len(TEACHER_STEPS) + len(students) * len(STUDENT_STEPS + CONTROL_STEPS)
    metrics: dict[str, Any] = {"students": {}, "dilated": {"students": {}}}
    with progress(jobs + 2 * len(DILATED_STEPS), "measure", "measurements") as advance:
        rows = partial(_rows, judge=judge, advance=advance)
        metrics["teacher"], texts = rows(first, TEACHER_STEPS, how)
        shown = {f"teacher, {steps} steps": texts[steps][:3] for steps in (64, 4)}
        metrics["dilated"]["teacher"], _ = rows(first, DILATED_STEPS, dilated)
        for number, student in students.items():
            fast = student.for_inference()
            own, texts = rows(fast, STUDENT_STEPS, how)
            metrics["students"][str(number)] = own
            _add_controls(own, first, how, judge=judge, advance=advance)
        shown[f"student of round {number}, 4 steps"] = texts[4][:3]
        metrics["dilated"]["students"][str(number)], _ = rows(fast, DILATED_STEPS, dilated)
    metrics["settings"] = _settings(settings, teacher, students, text, how)
    if text.validation is not None:
        shown["real text"] = text.validation[:3].tolist()
        real = text.validation[: how.num_samples].tolist()
        for_judge = judge.retokenise(real) if judge.retokenise else None
        metrics["data"] = measure(real, judge.model, for_judge=for_judge)
        bound = validation_nelbo(teacher.model, text.validation)
        metrics["settings"]["teacher_validation_nelbo"] = bound.nats_per_token
        metrics["settings"]["teacher_bits_per_byte"] = bound.bits_per_byte
    return metrics, {name: teacher.tokenizer.batch_decode(ids) for name, ids in shown.items()}


def _rows(
    model: Any,
    ladder: tuple[int, ...],
    how: Sampling,
    *,
    judge: Judge,
    advance: Callable[[int], None],
) -> tuple[dict[str, Record], dict[int, list[list[int]]]]:
    """A model's record and its samples, each by steps."""
    records, texts = {}, {}
    for steps in ladder:
        records[str(steps)], texts[steps] = measure_model(
            model, steps, judge.model, how, retokenise=judge.retokenise
        )
        advance(1)
    return records, texts


def _add_controls(
    records: dict[str, Record],
    teacher: Any,
    how: Sampling,
    *,
    judge: Judge,
    advance: Callable[[int], None],
) -> None:
    """Puts the control of a student beside it, where some temperature gives one."""
    for steps in CONTROL_STEPS:
        own = records[str(steps)]
        try:
            own["control"] = measure_control(
                teacher, steps, own["entropy"], judge.model, how, retokenise=judge.retokenise
            )
        except ValueError as error:
            note(f"no control at {steps} steps: {error}")
        advance(1)


def _affordable(teacher: MDLMForMaskedLM, students: int, clock: Clock) -> int:
    """Samples of each measurement, so that all of them fit into the time left."""
    trial = Sampling(BATCH, settings=SampleSettings(sampler="ancestral"))
    draw_samples(teacher, 4, trial)
    start = time.perf_counter()
    draw_samples(teacher, 4, trial)
    pass_seconds = (time.perf_counter() - start) / 4 / trial.num_samples
    length = teacher.config.model_length

    def passes(ladder: tuple[int, ...]) -> float:
        # a step in which a text reveals nothing costs it no pass; the judge makes one
        return sum(steps * (1 - (1 - 1 / steps) ** length) + 1 for steps in ladder)

    each = passes(STUDENT_STEPS) + CONTROL_TEMPERATURES * passes(CONTROL_STEPS)
    total = passes(TEACHER_STEPS) + students * each + 2 * passes(DILATED_STEPS)
    affordable: float = clock.left / (pass_seconds * total)
    return int(min(max(affordable // BATCH, 1), 32)) * BATCH


def _settings(
    settings: DemoSettings,
    teacher: Teacher,
    students: dict[int, MDLMForMaskedLM],
    text: Text,
    how: Sampling,
) -> dict[str, Any]:
    shape = teacher.model.config.shape
    return {
        "model": str(settings.model),
        "length": teacher.length,
        "data": settings.data or "written by the teacher",
        "training_texts": len(text.train),
        "parameters": teacher.model.num_parameters(),
        "shape": {name: value for name, value in shape.items() if value is not None},
        "batch_size": BATCH,
        "distill": DISTILL,
        "student_sampling_steps": {
            str(number): student.config.sdtt_sampling_steps for number, student in students.items()
        },
        "num_samples": how.num_samples,
        "seed": settings.seed,
        "sampler": how.settings.sampler,
        "draw_dtype": "float64",
        "versions": {
            "sdtt": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": torch.get_num_threads(),
    }


COMMAND = command(demo, example="sdtt demo --output runs/demo")
