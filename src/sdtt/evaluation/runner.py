"""Carries out a protocol: what is measured already is left, what is drawn already is read."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from sdtt.evaluation.checks import check_names
from sdtt.evaluation.context import Context, Measured
from sdtt.evaluation.drawing import Drawn, draw
from sdtt.evaluation.jobs import Group, Job
from sdtt.evaluation.measurements import measure
from sdtt.evaluation.records import (
    JUDGES,
    Record,
    Sample,
    append,
    defined,
    read_folder,
    read_samples,
    write_samples,
)
from sdtt.evaluation.subjects import fingerprint_of
from sdtt.evaluation.timing import device_name
from sdtt.models.placement import accelerator

RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Share:
    """Which part of the work is this process's.

    Attributes:
        index: Of the process, from 0.
        count: Processes.
    """

    index: int = 0
    count: int = 1

    @property
    def file(self) -> str:
        """The file that this process writes its records to."""
        return RECORDS if self.index == 0 else f"records.{self.index}.jsonl"


def missing(groups: Sequence[Group], folder: Path) -> list[Group]:
    """What an evaluation's folder has no record of yet; a group without its samples is whole."""
    known: set[str] = set()
    if any(folder.glob("records*.jsonl")):
        known = {record.request for record in read_folder(folder)}
    result = []
    for group in groups:
        jobs = tuple(job for job in group.jobs if group.request(job) not in known)
        drawn = group.draw is None or (folder / group.file).is_file()
        if jobs and not drawn:
            jobs = (group.jobs[0], *(job for job in jobs if job.metric != "samples"))
        if jobs:
            result.append(replace(group, jobs=jobs))
    return result


def run(
    groups: Sequence[Group],
    context: Context,
    folder: Path,
    *,
    share: Share = Share(),
    on_progress: Callable[[str, int], None] = lambda _, __: None,
) -> Iterator[list[Record]]:
    """Measures, and writes each record as soon as it is made.

    Groups are dealt to the processes in turn; none waits for another.

    Args:
        groups: As ``missing`` gives them.
        context: Judge, texts, models.
        folder: Of the evaluation.
        share: Which of the groups are this process's.
        on_progress: Told of (what is being done, how much more of it is done), now and then: tokens
            of samples, texts, passages or blocks of a metric, requests of a task.

    Yields:
        The records of each job.

    Raises:
        ValueError: If something cannot be measured; what is measured stays.
    """
    check_names(groups, context.data_root, on_progress)
    context.seconds |= _known_seconds(folder)
    for group in groups[share.index :: share.count]:
        samples: list[Sample] | None = None
        for job in group.jobs:
            words = _words(group, job)
            on_progress(words, 0)
            context.advance = _told(on_progress, words)
            start = time.perf_counter()
            if job.metric == "samples":
                samples, found = _drawn(group, context, folder)
            else:
                if samples is None:
                    samples = _samples_of(group, folder)
                found = measure(context, group, job, samples)
            seconds = time.perf_counter() - start
            records = [_record(group, job, each, seconds, share) for each in found]
            append(folder / share.file, *records)
            yield records


def _known_seconds(folder: Path) -> dict[str, float]:
    """Seconds a sample by the file of samples, of what was drawn in earlier runs."""
    records = read_folder(folder) if any(folder.glob("records*.jsonl")) else []
    drawn = [record.result for record in records if record.metric == "samples"]
    return {result["file"]: result["seconds_per_sample"] for result in drawn}


def _told(on_progress: Callable[[str, int], None], words: str) -> Callable[[int], None]:
    return lambda count: on_progress(words, count)


def _words(group: Group, job: Job) -> str:
    how = {} if group.draw is None else group.draw.record()
    named = [group.subject.label, how.get("sampler"), how.get("steps") and f"{how['steps']} steps"]
    named.append(job.settings.get("task") or job.settings.get("text"))
    return f"{job.metric} of " + ", ".join(str(word) for word in named if word)


def _drawn(group: Group, context: Context, folder: Path) -> tuple[list[Sample], list[Measured]]:
    """Samples, written to their file, and what they cost."""
    assert group.draw is not None
    found = _draw(group, context)
    write_samples(folder / group.file, found.samples)
    count = len(found.samples)
    context.seconds[group.file] = found.seconds / count
    result = {
        "file": group.file,
        "samples": count,
        "seconds_per_sample": found.seconds / count,
        "passes_per_sample": found.passes,
    }
    tokens = sum(len(sample.ids or ()) - sample.prompt_tokens for sample in found.samples)
    return found.samples, [Measured(result, tokens, {"dtype": found.dtype})]


def _draw(group: Group, context: Context) -> Drawn:
    assert group.draw is not None
    if group.subject.kind == "text":
        return context.real_text(group.draw)
    loaded = context.loaded(group.subject)
    prompts = None
    if group.draw.prompted is not None:
        prompts = context.prompts(loaded.tokenizer, group.draw).prompts
    return draw(loaded, group.draw, prompts, context.advance)


def _samples_of(group: Group, folder: Path) -> list[Sample] | None:
    if group.subject.kind == "samples":
        return read_samples(Path(group.subject.source))
    return None if group.draw is None else read_samples(folder / group.file)


def _record(group: Group, job: Job, measured: Measured, seconds: float, share: Share) -> Record:
    subject = group.subject
    draw = measured.draw if group.draw is None else group.draw.record()
    settings = {**job.settings, **(measured.settings or {}), **_files_of(job)}
    return Record(
        metric=job.metric,
        model=subject.label,
        kind=subject.kind,
        result=defined(measured.result),
        source=subject.source,
        taught_steps=subject.taught_steps,
        draw=draw,
        # what the draw says is not said again
        settings={name: value for name, value in settings.items() if name not in (draw or {})},
        seconds=seconds,
        tokens=measured.tokens,
        environment=_environment(share),
        request=group.request(job),
        fingerprint=subject.fingerprint,
        time=time.time(),
    )


def _files_of(job: Job) -> dict[str, str]:
    """What tells a judge from one of the same name and other weights."""
    found = {f"{role}_files": fingerprint_of(job.settings.get(role) or "") for role in JUDGES}
    return {name: files for name, files in found.items() if files}


def _environment(share: Share) -> dict[str, Any]:
    return {
        "sdtt": version("sdtt"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": device_name(accelerator() or torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processes": share.count,
    }
