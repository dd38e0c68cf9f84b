"""Samples of a subject: unconditional, or behind prompts; who was revealed when."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sdtt.evaluation.records import Sample
from sdtt.evaluation.subjects import Loaded
from sdtt.evaluation.timing import wait
from sdtt.sampling.autoregressive import sample_autoregressive
from sdtt.sampling.canvas import canvas_of, check_ids
from sdtt.sampling.generate import sample
from sdtt.sampling.reveal import Step
from sdtt.sampling.settings import SampleSettings

SHOWN = 4
"""Samples of a draw whose tokens are kept as strings, with the step that revealed each."""


Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Draw:
    """What is drawn: everything but the model.

    Attributes:
        how: Settings of a sampler; fields of the autoregressive one; of real text the seed.
        num_samples: Samples; with prompts, their number times continuations.
        length: Tokens of a text, its prompt included.
        prompted: The prompts' text, tokens and continuations, for the record.
    """

    how: SampleSettings | dict[str, Any]
    num_samples: int
    length: int
    prompted: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """Every setting, as plain values."""
        if isinstance(self.how, SampleSettings):
            own = self.how.record()
        elif "sampler" in self.how:  # real text
            own = dict(self.how)
        else:
            own = {"sampler": "autoregressive", **self.how, "draw_dtype": "float64"}
        size = {"num_samples": self.num_samples, "length": self.length}
        return own | size | (self.prompted or {})


@dataclass(frozen=True)
class Drawn:
    """Samples, and what they cost.

    Attributes:
        samples: In order.
        seconds: Of the whole draw.
        passes: Of the network, a sample, on average.
        dtype: Of the weights; "" where no model wrote them.
    """

    samples: list[Sample]
    seconds: float = 0.0
    passes: float = 0.0
    dtype: str = ""


def draw(loaded: Loaded, what: Draw, prompts: Rows | None, advance: Callable[[int], None]) -> Drawn:
    """Samples of a model.

    Args:
        loaded: The model and its tokenizer.
        what: How, and how many.
        prompts: Prompts of one length, in the ids of the model; nothing stands in front if None.
        advance: Told of tokens as they are written.

    Raises:
        ValueError: If a setting does not go with the model.
    """
    fronts = None if prompts is None or what.prompted is None else torch.tensor(list(prompts))
    each = what.prompted["continuations"] if what.prompted else 1
    if fronts is not None:
        fronts = fronts.repeat_interleave(each, 0)
    _ = loaded.fast  # is made once, and not counted
    wait(loaded.model.device)
    start = time.perf_counter()
    if isinstance(what.how, SampleSettings):
        ids, passes, revealed = _diffuse(loaded, what, what.how, fronts, advance)
    else:
        ids, passes, revealed = _continue(loaded, what, what.how, fronts, advance)
    wait(loaded.model.device)
    seconds = time.perf_counter() - start
    front = 0 if fronts is None else fronts.shape[1]
    samples = samples_of(loaded.tokenizer, ids.tolist(), prompt_tokens=front, revealed=revealed)
    if fronts is not None:
        samples = [replace(one, group=index // each) for index, one in enumerate(samples)]
    return Drawn(samples, seconds, passes, str(loaded.model.dtype).removeprefix("torch."))


def samples_of(
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    *,
    prompt_tokens: int = 0,
    revealed: Sequence[Sequence[int]] = (),
) -> list[Sample]:
    """Rows of ids as samples, decoded; of the first few also the string of each token."""
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    result = []
    for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
        tokens = tokenizer.batch_decode([[token] for token in row]) if index < SHOWN else None
        steps = revealed[index] if index < len(revealed) else None
        result.append(Sample(row, text, prompt_tokens=prompt_tokens, revealed=steps, tokens=tokens))
    return result


def _canvas(loaded: Loaded, what: Draw, fronts: Int[Tensor, "B T"] | None) -> Int[Tensor, "B L"]:
    model = loaded.model
    if fronts is None:
        return canvas_of(model, what.length, what.num_samples)
    check_ids(model, fronts.unique().tolist(), model.config.vocab_size)
    canvas = torch.full((len(fronts), what.length), model.mask_token_id)
    canvas[:, : fronts.shape[1]] = fronts
    return canvas


def _diffuse(
    loaded: Loaded,
    what: Draw,
    how: SampleSettings,
    fronts: Int[Tensor, "B T"] | None,
    advance: Callable[[int], None],
) -> tuple[Int[Tensor, "B L"], float, list[list[int]]]:
    """Ids, passes a sample, and for the first samples the step that revealed each position."""
    canvas = _canvas(loaded, what, fronts)
    shown = torch.full((min(SHOWN, len(canvas)), what.length), -1)
    passes = 0

    def on_step(first: int, step: Step) -> None:
        nonlocal passes
        passes += len(step.texts)
        advance(len(step.rows))
        if first >= len(shown):  # reading the others would wait for the device
            return
        rows = step.rows.cpu() + first * what.length
        rows = rows[rows < shown.numel()]
        shown.view(-1)[rows] = step.index

    ids = sample(loaded.fast, canvas.to(loaded.model.device), on_step=on_step, **vars(how))
    return ids, passes / len(canvas), shown.tolist()


def _continue(
    loaded: Loaded,
    what: Draw,
    how: dict[str, Any],
    fronts: Int[Tensor, "B T"] | None,
    advance: Callable[[int], None],
) -> tuple[Int[Tensor, "B L"], float, list[list[int]]]:
    """The same of a causal model, which reveals from the left."""
    ids = sample_autoregressive(
        loaded.fast,
        num_samples=what.num_samples,
        length=what.length,
        prompts=fronts,
        on_token=advance,
        **how,
    )
    front = 0 if fronts is None else fronts.shape[1]
    passes = what.length - front
    order = [-1] * front + list(range(passes))
    return ids, float(passes), [order] * min(SHOWN, what.num_samples)
