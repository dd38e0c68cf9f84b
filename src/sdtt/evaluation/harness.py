"""The tasks of the LM evaluation harness (``lm_eval``) for our models.

Needs ``pip install "sdtt[evaluation]"``. ``HarnessLM`` is the class to be declared as an entry
point, ``sdtt = "sdtt.evaluation.harness:HarnessLM"``; it is made when it is first asked for, since
its base class is the harness's.
"""

import contextlib
import io
import logging
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdtt.evaluation.task_index import find_tasks, harness_module
from sdtt.evaluation.task_model import NOISE_SAMPLES, Progress, TaskModel

BOOTSTRAP = 1000
"""Draws of the harness's bootstrap, for errors that have no closed form (of a perplexity)."""


@dataclass(frozen=True)
class TaskResult:
    """What the harness says of one task, or of a group of them.

    Attributes:
        task: Its name.
        examples: How many documents were scored.
        num_fewshot: Examples in the context of each; None of a group whose tasks differ.
        version: Of the task's definition.
        metrics: Such as acc and acc_se, acc_norm and acc_norm_se; of a filter other than "none"
            its name follows, as in exact_match_strict_match. None where the harness has no error.
        noise_se: Root mean square of the standard error of a request's log-likelihood by the masks
            that were drawn, in nats; 0 where all is exact, None where no likelihood was asked for.
        draw: Every setting that answers were sampled with; None where none were asked for.
    """

    task: str
    examples: int
    num_fewshot: int | None
    version: str
    metrics: Mapping[str, float | None]
    noise_se: float | None
    draw: Mapping[str, Any] | None = None


def evaluate_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    noise_samples: int = NOISE_SAMPLES,
    seed: int = 0,
    batch_size: int | None = None,
    include_path: Path | str | None = None,
    include_defaults: bool = True,
    progress: Progress | None = None,
    **sampling: Any,
) -> list[TaskResult]:
    """Tasks of the harness, through its ``simple_evaluate``.

    Args:
        model: As for ``pair_likelihoods``.
        tokenizer: The model's.
        tasks: Names of tasks, groups and tags, or patterns of them.
        num_fewshot: Examples in each context; what the task says if None.
        limit: Only the first so many documents of each task.
        noise_samples: Sets of masks for each continuation of a denoiser.
        seed: Of masks, answers and few-shot examples, and of tasks that shuffle by a global
            generator; the caller's generators are left as they were.
        batch_size: Texts a pass; by memory if None.
        include_path: A folder of further tasks, as YAML.
        include_defaults: Whether the harness's own tasks are looked through.
        progress: Makes progress bars; what the harness itself prints is held back.
        **sampling: How answers are sampled, see ``TaskModel``; what is left open is as the task
            says, or the library's default, whatever the model's generation_config.json says.

    Returns:
        One a task and group, in the harness's order.

    Raises:
        ValueError: If the harness is not installed, there is no such task, or its data cannot be
            loaded.
    """
    harness_lm = harness_class()
    evaluator = harness_module("lm_eval.evaluator")
    with _quiet() as streams, _seeded(seed):
        manager, names = find_tasks(tasks, include_path, include_defaults=include_defaults)
        lm = harness_lm(
            model,
            tokenizer,
            noise_samples=noise_samples,
            seed=seed,
            batch_size=batch_size,
            progress=None if progress is None else _aloud(progress, streams),
            follow_generation_config=False,
            **sampling,
        )
        try:
            found = evaluator.simple_evaluate(
                model=lm,
                tasks=names,
                num_fewshot=num_fewshot,
                limit=limit,
                bootstrap_iters=BOOTSTRAP,
                log_samples=False,
                task_manager=manager,
                random_seed=None,  # these are seeded above, and given back as they were
                numpy_random_seed=None,
                torch_random_seed=None,
                fewshot_random_seed=seed,
            )
        except Exception as error:
            way_out = _way_out_of(error)
            if way_out is None:
                raise
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"the harness cannot load the data of {', '.join(names)} ({reason}); {way_out}"
            ) from error
    return [_result(task, found, lm) for task in found["results"]]


def check_tasks(
    tasks: Sequence[str],
    include_path: Path | str | None = None,
    on_read: Callable[[str, int], None] = lambda _, __: None,
) -> None:
    """Refuses tasks that the harness does not have.

    Args:
        tasks: Names of tasks, groups and tags, or patterns of them.
        include_path: A folder of further tasks, as YAML.
        on_read: Told of (what is being read, how much more of it is), where the index takes long.

    Raises:
        ValueError: If the harness is not installed, or has no such task; it names the nearest.
    """
    harness_class()
    with _quiet() as streams:
        find_tasks(tasks, include_path, on_read=_told_aloud(on_read, streams))


@cache
def harness_class() -> Any:
    """``TaskModel`` as a subclass of ``lm_eval.api.model.LM``.

    Raises:
        ValueError: If the harness is not installed.
    """
    return type("HarnessLM", (TaskModel, harness_module("lm_eval.api.model").LM), {})


def __getattr__(attribute: str) -> Any:
    if attribute == "HarnessLM":
        return harness_class()
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")


def _way_out_of(error: Exception) -> str | None:
    """What may be done about data that ``datasets`` does not load; None of another error."""
    if isinstance(error, OSError):  # not there, or no network
        return "fetch it where there is a network"
    if isinstance(error, RuntimeError) and str(error).startswith("Dataset scripts"):
        return (
            "datasets runs no scripts any more: copy the task into --include-path, with a "
            "dataset_path that holds the data as files"
        )
    if isinstance(error, harness_module("datasets").exceptions.DatasetsError):
        return "look whether its files are whole, and as the task says"
    return None


def _result(task: str, found: Mapping[str, Any], lm: TaskModel) -> TaskResult:
    row = found["results"][task]
    metrics: dict[str, float | None] = {}
    for key, value in row.items():
        metric, comma, filtered = key.partition(",")
        if not comma:
            continue
        is_error = metric.endswith("_stderr")
        label = metric.removesuffix("_stderr")
        label += "" if filtered == "none" else f"_{filtered.replace('-', '_')}"
        number = float(value) if isinstance(value, int | float) else math.nan
        metrics[f"{label}_se" if is_error else label] = None if math.isnan(number) else number
    errors = lm.noise_errors.get(task)
    return TaskResult(
        task=task,
        examples=int(row.get("sample_len") or 0),
        num_fewshot=found.get("n-shot", {}).get(task),
        version=str(found.get("versions", {}).get(task)),
        metrics=metrics,
        noise_se=math.sqrt(sum(e**2 for e in errors) / len(errors)) if errors else None,
        draw=lm.draws.get(task),
    )


Streams = tuple[Any, Any]


@contextlib.contextmanager
def _quiet() -> Iterator[Streams]:
    """Holds back what the harness logs and prints, and its bootstrap in processes of its own.

    Yields:
        The standard streams as they were.
    """
    logger = logging.getLogger("lm_eval")
    level, before = logger.level, os.environ.get("DISABLE_MULTIPROC")
    logger.setLevel(logging.CRITICAL)
    os.environ["DISABLE_MULTIPROC"] = "1"
    held = io.StringIO()
    streams = (sys.stdout, sys.stderr)
    try:
        with contextlib.redirect_stdout(held), contextlib.redirect_stderr(held):
            yield streams
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generators at a seed, and after that as they were: tasks shuffle by them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # those of accelerators shuffle nothing
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _aloud(progress: Progress, streams: Streams) -> Progress:
    """Progress bars on the streams as they were before they were held back."""

    @contextlib.contextmanager
    def shown(total: int, what: str, unit: str) -> Iterator[Any]:
        out, err = streams
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            progress(total, what, unit) as advance,
        ):
            yield advance

    return shown


def _told_aloud(
    on_read: Callable[[str, int], None], streams: Streams
) -> Callable[[str, int], None]:
    """The same, on the streams as they were before they were held back."""

    def told(words: str, count: int) -> None:
        out, err = streams
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            on_read(words, count)

    return told
