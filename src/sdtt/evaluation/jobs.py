"""What a protocol asks of some subjects: draws, and what is measured of each; nothing is run."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sdtt.evaluation.drawing import Draw
from sdtt.evaluation.lambada import FORMS
from sdtt.evaluation.protocol import OF_SAMPLES, Bound, Grid, MauveSettings, Protocol
from sdtt.evaluation.records import JUDGES
from sdtt.evaluation.subjects import Subject, fingerprint_of
from sdtt.evaluation.task_model import CAUSAL, LAW
from sdtt.evaluation.texts import fingerprint_of_folder, fingerprint_of_text, local_copy
from sdtt.sampling.settings import SampleSettings

UNCONDITIONAL = tuple(name for name in OF_SAMPLES if name not in ("mauve", "self_bleu"))
"""Metrics of unconditional samples; the other two are of continuations."""

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One measurement to be made.

    Attributes:
        metric: "samples", or one of ``protocol.METRICS``.
        settings: What is asked for, as plain values.
        answers: How answers are sampled where a task has any: only then a record says it.
    """

    metric: str
    settings: Settings
    answers: Settings | None = None


@dataclass(frozen=True)
class Group:
    """What is measured of one draw, or of one model; one process makes it all.

    Attributes:
        subject: Of whom.
        draw: What is drawn first; None where nothing is.
        jobs: What is measured, in order.
        data_root: Folder with copies of the named texts; they are downloaded if None.
    """

    subject: Subject
    draw: Draw | None
    jobs: tuple[Job, ...]
    data_root: Path | None = None

    def request(self, job: Job) -> str:
        """A digest of everything that the measurement depends on."""
        draw = None if self.draw is None else self.draw.record()
        who = [self.subject.label, self.subject.source, self.subject.fingerprint]
        judges = [job.settings.get(name) for name in JUDGES]
        files = [fingerprint_of(judge) for judge in judges if judge]
        texts = [job.settings.get(name) for name in ("text", "reference")]
        texts += [self.draw.prompted["prompts"]] if self.draw and self.draw.prompted else []
        found = [fingerprint_of_text(text, self.data_root) for text in filter(None, texts)]
        if job.metric == "lambada":
            copy = local_copy(FORMS[job.settings["form"]], self.data_root)
            found += [] if copy is None else [fingerprint_of_text(str(copy))]
        folder = job.settings.get("include_path")
        found += [fingerprint_of_folder(folder)] if folder else []
        files += [each for each in found if each]
        answers = [] if job.answers is None else [job.answers]
        return digest([job.metric, who, draw, job.settings, files, *answers])

    @property
    def file(self) -> str:
        """The name of the file of its samples, within the evaluation's folder."""
        assert self.draw is not None
        draw = self.draw.record()
        words = [self.subject.label, draw["sampler"], str(draw.get("steps") or "")]
        name = re.sub(r"[^\w.-]+", "-", "-".join(word for word in words if word))
        return f"samples/{name}-{digest([self.subject.fingerprint, draw])[:8]}.jsonl"


def digest(value: Any) -> str:
    """Of plain values, as JSON; 16 hexadecimal digits."""
    words = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def groups_of(
    protocol: Protocol, subjects: Sequence[Subject], data_root: Path | None = None
) -> list[Group]:
    """Everything that a protocol asks of some subjects, model by model."""
    found = [group for subject in subjects for group in _of_subject(protocol, subject)]
    return [dataclasses.replace(group, data_root=data_root) for group in found]


def unmeasured(protocol: Protocol, groups: Sequence[Group]) -> dict[str, str]:
    """The metrics of a protocol that no group measures, each with what it lacks."""
    measured = {job.metric for group in groups for job in group.jobs}
    return {name: _needed(name) for name in protocol.metrics if name not in measured}


def _needed(name: str) -> str:
    if name not in OF_SAMPLES:
        return "a model"
    if name in UNCONDITIONAL:
        return "samples of a model: it, and 'draws' or 'autoregressive' in the protocol"
    return "continuations: a model, and a section 'mauve' with its 'text' in the protocol"


def _of_subject(protocol: Protocol, subject: Subject) -> Iterator[Group]:
    for what in _draws(protocol, subject):
        yield Group(subject, what, tuple(_of_draw(protocol, subject, what)))
    if subject.kind == "samples":
        wanted = [name for name in protocol.metrics if name in ("self_bleu", *UNCONDITIONAL)]
        jobs = [Job(name, _settings(protocol, name)) for name in wanted if name != "best_of"]
        yield Group(subject, None, tuple(jobs))
    if subject.kind in ("diffusion", "autoregressive"):
        for job in _of_model(protocol, subject):
            yield Group(subject, None, (job,))


def _draws(protocol: Protocol, subject: Subject) -> Iterator[Draw]:
    """The draws of one subject, each once.

    Raises:
        ValueError: If one is longer than the model.
    """
    found = list(_unconditional(protocol, subject))
    if protocol.mauve is not None and {"mauve", "self_bleu"} & set(protocol.metrics):
        found += list(_prompted(protocol, protocol.mauve, subject))
    for what in found:
        if subject.kind != "text" and subject.length is not None and what.length > subject.length:
            raise ValueError(
                f"texts of {what.length} tokens are asked for, {subject.label} writes at most "
                f"{subject.length}; give a smaller length"
                + (", or fewer prompt_tokens and new_tokens" if what.prompted else "")
            )
    yield from {digest(what.record()): what for what in found}.values()


def _unconditional(protocol: Protocol, subject: Subject) -> Iterator[Draw]:
    if not set(UNCONDITIONAL) & set(protocol.metrics):
        return
    if subject.kind == "diffusion":
        for grid in protocol.draws:
            length = grid.length or _length(subject)
            for how in _of_grid(grid, subject, protocol.control_temperatures):
                yield Draw(how, grid.num_samples, length)
    elif subject.kind == "autoregressive":
        for each in protocol.autoregressive:
            length = each.length or _length(subject)
            for one in each.settings():
                yield Draw({**one, "batch_size": each.batch_size}, each.num_samples, length)
    elif subject.kind == "text" and protocol.real_text is not None:
        for length, seed in product(_lengths(protocol, subject), protocol.real_text.seed):
            how = {"sampler": "text", "seed": seed}
            yield Draw(how, protocol.real_text.num_samples, length)


def _of_grid(grid: Grid, subject: Subject, cooler: Sequence[float]) -> Iterator[Any]:
    """The settings of a grid; of a teacher also at the temperatures of the control."""
    taught = subject.taught_steps is not None
    if (grid.of == "students") != taught and grid.of != "all":
        return
    for how in grid.settings():
        yield how
        if not taught and how.temperature == 1:
            for temperature in cooler:
                yield dataclasses.replace(how, temperature=temperature)


def _prompted(protocol: Protocol, mauve: MauveSettings, subject: Subject) -> Iterator[Draw]:
    count, length = mauve.prompts * mauve.continuations, mauve.prompt_tokens + mauve.new_tokens
    shared = {
        "prompts": mauve.text,
        "prompt_tokens": mauve.prompt_tokens,
        "continuations": mauve.continuations,
    }
    if subject.kind == "diffusion":
        for grid in mauve.draws or protocol.draws:
            for how in _of_grid(grid, subject, ()):
                yield Draw(how, count, length, shared)
    elif subject.kind == "autoregressive":
        for each in protocol.autoregressive:
            for one in each.settings():
                yield Draw({**one, "batch_size": each.batch_size}, count, length, shared)


def _lengths(protocol: Protocol, real: Subject) -> list[int]:
    """Of real text: those of the samples beside it."""
    asked = [each.length for each in protocol.draws]
    asked += [each.length for each in protocol.autoregressive]
    return list(dict.fromkeys(length or _length(real) for length in asked or [None]))


def _length(subject: Subject) -> int:
    if subject.length is None:
        raise ValueError(
            f"{subject.label} does not say how long its texts are (no max_position_embeddings): "
            "give a length in the protocol; the metric bound cannot do without"
        )
    return subject.length


def _of_draw(protocol: Protocol, subject: Subject, what: Draw) -> Iterator[Job]:
    yield Job("samples", {})
    own = UNCONDITIONAL if what.prompted is None else ("mauve", "self_bleu")
    for name in protocol.metrics:
        if name in own and not _senseless(name, subject, what):
            yield Job(name, _settings(protocol, name))


def _senseless(name: str, subject: Subject, what: Draw) -> bool:
    """Self-BLEU of one continuation, or the best of real texts, which cost no seconds."""
    alone = what.prompted is not None and what.prompted["continuations"] < 2
    return (name == "self_bleu" and alone) or (name == "best_of" and subject.kind == "text")


def _settings(protocol: Protocol, name: str) -> dict[str, Any]:
    """What a metric of samples is asked for."""
    judged = {"judge": protocol.judge}
    match name:
        case "perplexity":
            own = dataclasses.asdict(protocol.perplexity)
            return judged | {key: own[key] for key in ("window", "stride", "eos")}
        case "best_of":
            scorer = protocol.best_of.scorer or protocol.judge
            own = dataclasses.asdict(protocol.perplexity)
            read = {key: own[key] for key in ("window", "stride", "eos")}
            return judged | read | {"scorer": scorer, "n": list(protocol.best_of.n)}
        case "mauve":
            assert protocol.mauve is not None
            names = ("text", "seeds", "scale", "new_tokens")
            own = {name: getattr(protocol.mauve, name) for name in names}
            return own | {"features": protocol.mauve.features or protocol.judge}
        case "self_bleu":
            return dataclasses.asdict(protocol.self_bleu)
        case "readability":
            return {"reference": protocol.readability.text}
    return {}


def _of_model(protocol: Protocol, subject: Subject) -> Iterator[Job]:
    """Metrics that need the model itself."""
    for name in protocol.metrics:
        if name == "lambada":
            own = dataclasses.asdict(protocol.lambada)
            for form in protocol.lambada.form:
                yield Job(name, {**_without(own, "batch_size"), "form": form})
        elif name == "bound":
            own = _without(dataclasses.asdict(protocol.bound), "batch_size")
            own["length"] = _block_length(protocol.bound, subject)
            for text in protocol.bound.text:
                yield Job(name, {**own, "text": text})
        elif name == "tasks":
            own = _without(dataclasses.asdict(protocol.tasks), "batch_size", "names", "sampling")
            for task in protocol.tasks.names:
                yield Job(name, {"task": task, **own}, _answers(protocol.tasks.sampling, subject))
        elif name == "latency":
            yield Job(name, _latency(protocol, subject))


def _block_length(asked: Bound, subject: Subject) -> int:
    """Of the blocks of a bound."""
    if asked.length is None:
        return _length(subject)
    if subject.length is not None and asked.length > subject.length:
        raise ValueError(
            f"bound: blocks of {asked.length} tokens are asked for, {subject.label} reads at most "
            f"{subject.length}; give a smaller length"
        )
    return asked.length


def _answers(given: Settings, subject: Subject) -> dict[str, Any]:
    """Every setting of answers, but what is left to the tasks themselves."""
    if subject.kind == "autoregressive":
        return {name: given[name] for name in CAUSAL if name in given}
    left = {"seed", "batch_size", *LAW} - given.keys()
    return _without(SampleSettings(**given).record(), *left)


def _latency(protocol: Protocol, subject: Subject) -> dict[str, Any]:
    """All settings at once, for they take turns; a causal model has no steps."""
    own = dataclasses.asdict(protocol.latency)
    if subject.kind == "diffusion":
        return own
    return _without(own, "sampler", "steps")


def _without(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
