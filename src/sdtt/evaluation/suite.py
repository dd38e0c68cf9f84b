"""Measurements of samples, models and controls, each a flat record with all its settings."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sdtt.evaluation.control import match_entropy
from sdtt.evaluation.diversity import Ids, diversity
from sdtt.evaluation.judge import judge_perplexity
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import sample
from sdtt.sampling.settings import SampleSettings

Record = dict[str, Any]

JUDGE_BATCH = 64
"""Texts a pass of the judge, where nothing else is said."""


@dataclass(frozen=True)
class Sampling:
    """How the samples of a measurement are drawn.

    Attributes:
        num_samples: Samples of each measurement.
        length: Tokens of a sample; the model's length if None.
        settings: The sampler and its settings; the steps are those of the measurement.

    Raises:
        ValueError: If a number is out of its range.
    """

    num_samples: int = 256
    length: int | None = None
    settings: SampleSettings = field(default_factory=SampleSettings)

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {self.num_samples}")
        if self.length is not None and self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")

    @property
    def judge_batch(self) -> int:
        """Texts a pass of the judge: as many as a pass of the sampler, if that is said."""
        return self.settings.batch_size or JUDGE_BATCH

    def at(self, steps: int, temperature: float | None = None) -> SampleSettings:
        """The settings at one number of steps, and at another temperature if one is given."""
        value = self.settings.temperature if temperature is None else temperature
        return replace(self.settings, steps=steps, temperature=value)


def without_nan(record: Record) -> Record:
    """The record with None where a number is not defined, such as an error of one sample."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in record.items()
    }


def draw_samples(
    model: Any, steps: int, how: Sampling, temperature: float | None = None
) -> Int[Tensor, "B L"]:
    """Unconditional samples of a model as token ids."""
    length = how.length or model.config.model_length
    canvas = canvas_of(model, length, how.num_samples).to(model.device)
    return sample(model, canvas, **vars(how.at(steps, temperature)))


def measure(
    texts: Sequence[Ids],
    judge: Any,
    *,
    batch_size: int = JUDGE_BATCH,
    for_judge: Sequence[Ids] | None = None,
) -> Record:
    """Judge perplexity, and diversity beside it.

    Args:
        texts: Token ids of the samples.
        judge: A causal language model.
        batch_size: Texts a pass of the judge.
        for_judge: The same texts in the judge's own ids, where its tokenizer is another one.
    """
    judgement = judge_perplexity(judge, for_judge or texts, batch_size=batch_size)
    record = {
        "perplexity": judgement.perplexity,
        "perplexity_se": judgement.perplexity * judgement.nll_se,
        **asdict(diversity(texts)),
    }
    return {
        **without_nan(record),
        "num_samples": len(texts),
        "tokens_judged": judgement.tokens,
        "prepended_bos": judgement.prepended_bos,
        "judge_dtype": str(judge.dtype).removeprefix("torch."),
    }


def _settings(model: Any, steps: int, how: Sampling, temperature: float | None = None) -> Record:
    return how.at(steps, temperature).record() | {
        "length": how.length or model.config.model_length,
        "dtype": str(model.dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }


def measure_model(
    model: Any,
    steps: int,
    judge: Any,
    how: Sampling,
    *,
    retokenise: Callable[[list[list[int]]], list[list[int]]] | None = None,
) -> tuple[Record, list[list[int]]]:
    """One model at one number of steps: its record and its samples.

    Args:
        model: A denoiser with a config.
        steps: Of the sampler.
        judge: A causal language model.
        how: How samples are drawn.
        retokenise: Turns the model's ids into the judge's, where tokenizers differ.
    """
    start = time.perf_counter()
    texts = draw_samples(model, steps, how).tolist()
    seconds = time.perf_counter() - start
    record = _settings(model, steps, how)
    record |= {"seconds_sampling": seconds}
    for_judge = retokenise(texts) if retokenise else None
    record |= measure(texts, judge, batch_size=how.judge_batch, for_judge=for_judge)
    return record | {"retokenised": retokenise is not None}, texts


def measure_control(
    teacher: Any,
    steps: int,
    entropy: float,
    judge: Any,
    how: Sampling,
    *,
    retokenise: Callable[[list[list[int]]], list[list[int]]] | None = None,
) -> Record:
    """The teacher at the same steps, cooled to a student's entropy: the control of its gain.

    Args:
        teacher: A denoiser with a config.
        steps: Those of the student.
        entropy: The student's mean unigram entropy of a sample, in nats.
        judge: A causal language model.
        how: How the student's samples were drawn; the temperature is the control's own.
        retokenise: Turns the model's ids into the judge's, where tokenizers differ.

    Raises:
        ValueError: If no temperature gives that entropy.
    """
    match = match_entropy(partial(_at, teacher, steps, how), entropy)
    record = _settings(teacher, steps, how, match.temperature)
    for_judge = retokenise(match.samples) if retokenise else None
    record |= measure(match.samples, judge, batch_size=how.judge_batch, for_judge=for_judge)
    return record | {"retokenised": retokenise is not None, "matched_entropy": entropy}


def _at(teacher: Any, steps: int, how: Sampling, temperature: float) -> Int[Tensor, "B L"]:
    return draw_samples(teacher, steps, how, temperature)


def measure_ladder(
    model: Any, ladder: Sequence[int], judge: Any, how: Sampling, **options: Any
) -> Iterator[tuple[Record, list[list[int]]]]:
    """``measure_model`` at each number of steps of a ladder."""
    for steps in ladder:
        yield measure_model(model, steps, judge, how, **options)
