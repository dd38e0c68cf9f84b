"""`sdtt evaluate`: every metric of a protocol, on one or many models, going on where it stopped."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers.utils import logging

from sdtt.cli.console import note, progress
from sdtt.cli.options import Given, command
from sdtt.evaluation.context import Context
from sdtt.evaluation.jobs import Group, digest, groups_of, unmeasured
from sdtt.evaluation.protocol import (
    METRICS,
    Autoregressive,
    Bound,
    Grid,
    Latency,
    Protocol,
    RealText,
    Tasks,
    load_protocol,
    written,
)
from sdtt.evaluation.records import Record
from sdtt.evaluation.runner import Share, missing, run
from sdtt.evaluation.subjects import Subject, model_subjects, sample_subjects
from sdtt.evaluation.texts import fingerprint_of_text
from sdtt.models.placement import accelerator
from sdtt.report.files import write_aside
from sdtt.sampling.settings import SampleSettings

SAMPLES = 256
"""Of each draw, where nothing is said."""

COOLER = (0.9, 0.8)
"""Temperatures of a teacher beside a student, where flags say how samples are drawn."""


@dataclass(frozen=True)
class EvaluateSettings:
    """What is measured, by whom."""

    output: Path = field(
        metadata={"help": "folder of records and samples; what is there is not measured again"}
    )
    model: tuple[str, ...] = field(
        default=(),
        metadata={"help": "models, joined by commas: folders, hub names, shipped ones; NAME=MODEL"},
    )
    samples: tuple[Path, ...] = field(
        default=(), metadata={"help": "files of JSON lines with text or ids, instead of models"}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "of --samples with ids; that of the judge by default"}
    )
    protocol: str | None = field(
        default=None,
        metadata={"help": "quick, paper, full or a YAML file: says all that is measured"},
    )
    metrics: tuple[str, ...] = field(
        default=(), metadata={"help": f"only these: {', '.join(METRICS)}"}
    )
    judge: str | None = field(
        default=None,
        metadata={"help": "causal model: a folder or a hub name; by default the shipped judge"},
    )
    text: tuple[str, ...] = field(
        default=(), metadata={"help": "texts of the metric bound: names such as wikitext-2, files"}
    )
    tasks: tuple[str, ...] = field(
        default=(), metadata={"help": "tasks of lm-evaluation-harness, such as arc_easy,piqa"}
    )
    include_path: Path | None = field(
        default=None,
        metadata={"help": "folder of tasks of your own, as YAML of lm-evaluation-harness"},
    )
    data_root: Path | None = field(
        default=None,
        metadata={"help": "folder with copies of the named texts, instead of downloads"},
    )
    steps: tuple[int, ...] = field(
        default=(), metadata={"help": "without --protocol: numbers of sampling steps: 4,8,16"}
    )
    control_temperatures: tuple[float, ...] = field(
        default=(),
        metadata={
            "help": "without --protocol: of teachers beside a student; "
            f"{', '.join(map(str, COOLER))} by default"
        },
    )
    num_samples: int | None = field(
        default=None,
        metadata={"help": f"without --protocol: samples of each draw; {SAMPLES} by default"},
    )
    length: int | None = field(
        default=None,
        metadata={"help": "without --protocol: tokens of a sample; the model's by default"},
    )
    real_text: str | None = field(
        default=None, metadata={"help": "without --protocol: real text beside the samples"}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not self.model and not self.samples:
            raise ValueError("give --model, or --samples FILE")
        self._check_files()
        if self.include_path is not None and not self.tasks:
            raise ValueError("--include-path is the folder of --tasks: name those to evaluate")
        if self.real_text is not None and not self.model:
            raise ValueError("--real-text is cut by the tokenizer of a model: give --model")
        self._check_metrics()
        plain = {each.name: each.default for each in dataclasses.fields(self)}
        names = ("steps", "control_temperatures", "num_samples", "length", "real_text")
        given = [name for name in names if getattr(self, name) != plain[name]]
        if self.protocol is not None and given:
            raise _contradicts(given[0])
        if not self.model and given:
            raise _draws_nothing(given[0])

    def _check_files(self) -> None:
        """Refuses what is not there, or belongs to what was not given."""
        for file in self.samples:
            if not file.is_file():
                raise ValueError(f"--samples {file}: there is no such file")
        if self.data_root is not None and not self.data_root.is_dir():
            raise ValueError(f"--data-root {self.data_root}: there is no such folder")
        if self.output.is_file():
            raise ValueError(f"--output {self.output} is a file; records go into a folder")
        if self.tokenizer is not None and not self.samples:
            raise ValueError(
                f"--tokenizer {self.tokenizer} is of the ids of --samples: give these, or leave it "
                "out (a model has its own)"
            )

    def _check_metrics(self) -> None:
        """Refuses what the metrics that are named would leave unread."""
        for flag, asked, metric in (("text", self.text, "bound"), ("tasks", self.tasks, "tasks")):
            if asked and self.metrics and metric not in self.metrics:
                raise ValueError(
                    f"--{flag} {','.join(asked)} is of the metric {metric}, which --metrics "
                    f"{','.join(self.metrics)} leaves out: add it, or leave --{flag} out"
                )


@dataclass
class _Now:
    """What is being done, and how much of it is."""

    words: str = ""
    done: int = 0

    def add(self, words: str, count: int) -> None:
        """Counts; another job begins at none."""
        self.done = count if words != self.words else self.done + count
        self.words = words

    def said(self) -> str:
        """In words."""
        unit = "tokens" if self.words.startswith("samples") else "done"
        return f"{self.words}: {self.done:,} {unit}" if self.done else self.words


def _contradicts(name: str) -> ValueError:
    flag = "--" + name.replace("_", "-")
    return ValueError(f"{flag} does not go with --protocol, which says how samples are drawn")


def _draws_nothing(name: str) -> ValueError:
    flag = "--" + name.replace("_", "-")
    return ValueError(f"{flag} is of samples to be drawn, and --samples are: give --model too")


def evaluate(settings: EvaluateSettings, sampling: Given[SampleSettings]) -> None:
    """Measure models, or files of samples: the metrics of a protocol, or those of the flags.

    Records and samples stay in --output: the same command goes on where it stopped, and a metric
    that is added needs no new sampling. `sdtt report OUTPUT` makes tables and figures of them, with
    each student beside its teacher cooled to the same entropy. The order is dilated by default;
    published numbers are of `--sampler ancestral`. What a model's generation_config.json says is
    not followed here, in answers to tasks neither. Under `accelerate launch -m sdtt evaluate ...`
    the work is split.
    """
    logging.disable_progress_bar()
    # accelerate looks for no other processes without an accelerator, unless it is told of none
    state = PartialState(cpu=accelerator() is None)
    share = Share(state.process_index, state.num_processes)
    subjects = model_subjects(settings.model)
    protocol = _protocol(settings, sampling, subjects)
    if protocol.real_text is not None and settings.model:
        length = next((one.length for one in subjects if one.length), None)
        text = protocol.real_text.text
        # its ids are of the first model's tokenizer
        of_text = list(filter(None, [fingerprint_of_text(text, settings.data_root)]))
        cut_by = digest([text, subjects[0].source, subjects[0].fingerprint, *of_text])
        subjects.append(Subject("real text", text, "text", length=length, fingerprint=cut_by))
    tokenizer = settings.tokenizer or protocol.judge
    subjects += sample_subjects(settings.samples, tokenizer, subjects)
    context = Context(protocol, subjects, settings.data_root, settings.tokenizer)
    asked = groups_of(protocol, subjects, settings.data_root)
    _say_unmeasured(protocol, asked)
    settings.output.mkdir(parents=True, exist_ok=True)
    if share.index == 0:
        text = written(protocol)
        write_aside(settings.output / "protocol.yaml", lambda path: path.write_text(text, "utf-8"))
    groups = missing(asked, settings.output)
    state.wait_for_everyone()  # no record is written before all know what is missing
    own = groups[share.index :: share.count]
    total = sum(len(group.jobs) for group in own)
    if not groups:
        note(f"all of it is measured already: see {settings.output}")
    if not own:
        return
    now = _Now()
    with progress(total, "evaluate", "measurements", status=now.said) as advance:

        def on_progress(words: str, count: int) -> None:
            now.add(words, count)
            advance(0)

        for records in run(groups, context, settings.output, share=share, on_progress=on_progress):
            print("\n".join(map(_line, records)), flush=True)
            advance(1)
    note(f"tables and figures: sdtt report {settings.output}")


def _say_unmeasured(protocol: Protocol, asked: Sequence[Group]) -> None:
    """Notes which metrics have nothing to be measured of, and why; refuses if that is so of all."""
    left = unmeasured(protocol, asked)
    words = "; ".join(f"{metric} needs {needed}" for metric, needed in left.items())
    if len(left) == len(set(protocol.metrics)):
        raise ValueError(f"there is nothing to measure: {words or 'the protocol has no metric'}")
    if left:
        note(f"not measured: {words}")
    kinds = {group.subject.kind for group in asked}
    if protocol.real_text is not None and kinds == {"samples"}:
        note("not measured: real text, which is cut by the tokenizer of a model; give --model")


def _protocol(
    settings: EvaluateSettings, sampling: Given[SampleSettings], subjects: list[Subject]
) -> Protocol:
    """The protocol of the file or of the flags, with what the flags change."""
    if settings.protocol is not None:
        if sampling.values:
            raise _contradicts(next(iter(sampling.values)))
        protocol = load_protocol(settings.protocol)
    else:
        protocol = _of_flags(settings, sampling, subjects)
    changes: dict[str, Any] = {}
    if settings.judge is not None:
        changes["judge"] = settings.judge
    if settings.text:
        changes["bound"] = dataclasses.replace(protocol.bound, text=settings.text)
    if settings.tasks:
        changes["tasks"] = dataclasses.replace(
            protocol.tasks, **_of_tasks(settings, protocol.tasks.include_path)
        )
    if settings.metrics:
        changes["metrics"] = settings.metrics
    elif settings.protocol is not None:
        asked = {"tasks": bool(settings.tasks), "bound": bool(settings.text)}
        more = [name for name, given in asked.items() if given and name not in protocol.metrics]
        changes["metrics"] = (*protocol.metrics, *more)
    return dataclasses.replace(protocol, **changes)


def _of_flags(
    settings: EvaluateSettings, sampling: Given[SampleSettings], subjects: list[Subject]
) -> Protocol:
    """A table of one sampler at several numbers of steps."""
    how = sampling.make()
    plain = {each.name: each.default for each in dataclasses.fields(SampleSettings)}
    changed = [name for name, value in sampling.values.items() if value != plain[name]]
    if changed and not settings.model:
        raise _draws_nothing(changed[0])
    if settings.control_temperatures and how.temperature != 1:
        raise ValueError(
            f"--temperature {how.temperature:g} leaves no draw to control: --control-temperatures "
            "are of teachers beside draws at temperature 1; leave one of them out"
        )
    count = SAMPLES if settings.num_samples is None else settings.num_samples
    axes = {name: (value,) for name, value in sampling.values.items()}
    if settings.steps:
        axes["steps"] = settings.steps  # type: ignore[assignment]
    kinds = {(one.kind, one.taught_steps is not None) for one in subjects}
    both = {("diffusion", True), ("diffusion", False)} <= kinds
    causal = Autoregressive(
        temperature=(how.temperature,),
        top_p=(how.top_p,),
        seed=(how.seed,),
        top_k=how.top_k,
        repetition_penalty=how.repetition_penalty,
        num_samples=count,
        length=settings.length,
        batch_size=how.batch_size or Autoregressive.batch_size,
    )
    sampled = bool(settings.steps or settings.samples)
    metrics: tuple[str, ...] = ("perplexity", "diversity") if sampled else ()
    metrics += ("bound",) if settings.text else ()
    metrics += ("tasks",) if settings.tasks else ()
    if not metrics and not settings.metrics:
        raise ValueError(
            "there is nothing to measure: give --protocol quick, --steps 4,8,16, --metrics, "
            "--text or --tasks"
        )
    real = settings.real_text
    latency = Latency()
    if "latency" in settings.metrics:  # whose samplers count steps
        steps = settings.steps or latency.steps
        latency = Latency(sampler=how.sampler, steps=steps, length=settings.length)
    return Protocol(
        metrics=settings.metrics or metrics,
        draws=(Grid(axes, count, settings.length),),
        control_temperatures=settings.control_temperatures or (COOLER if both else ()),
        autoregressive=(causal,),
        real_text=None if real is None else RealText(real, count),
        bound=Bound(text=settings.text) if settings.text else Bound(),
        tasks=Tasks(**_of_tasks(settings, None), sampling=_of_answers(settings, sampling)),
        latency=latency,
    )


def _of_tasks(settings: EvaluateSettings, folder: str | None) -> dict[str, Any]:
    """What the flags say of tasks."""
    path = settings.include_path
    return {"names": settings.tasks, "include_path": folder if path is None else str(path)}


def _of_answers(settings: EvaluateSettings, sampling: Given[SampleSettings]) -> Mapping[str, Any]:
    """What the flags say of how answers to tasks are sampled: of several steps none."""
    own = {n: value for n, value in sampling.values.items() if n not in ("seed", "batch_size")}
    return {**own, "steps": settings.steps[0]} if len(settings.steps) == 1 else own


def _line(record: Record) -> str:
    """A record as a line of the terminal."""
    draw: Mapping[str, Any] = record.draw or {}
    words = [record.metric.ljust(11), record.model]
    if "sampler" in draw:
        words.append(str(draw["sampler"]))
    if draw.get("steps"):
        words.append(f"{draw['steps']} steps")
    if "temperature" in draw:
        words.append(f"T {draw['temperature']:.2f}")
    for name in ("text", "form", "task", "batch_size"):
        if name in record.settings:
            words.append(str(record.settings[name]))
    return "  ".join(words) + "  " + ", ".join(_numbers(record.result))


def _numbers(result: Mapping[str, Any]) -> list[str]:
    """The numbers of a result, each with its error; of a curve those of its last point."""
    if "curve" in result:
        return _numbers(result["curve"][-1])
    found = []
    for name, value in result.items():
        if type(value) in (float, int) and not name.endswith("_se"):
            error = result.get(f"{name}_se")
            tail = f" ± {error:.2g}" if isinstance(error, float) else ""
            found.append(f"{name} {value:.4g}{tail}")
    return found


COMMAND = command(
    evaluate,
    withhold={"steps"},  # several of them are measured
    example="sdtt evaluate --protocol quick --model student,teacher --output runs/evaluation",
)
