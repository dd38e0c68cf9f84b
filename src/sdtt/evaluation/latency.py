"""Latency and throughput: seconds of a batch of texts, against steps or token by token."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count, product
from typing import Any

from sdtt.diffusion.denoiser import Denoiser
from sdtt.evaluation.timing import Timing, interleaved
from sdtt.models.copying import copy_with
from sdtt.sampling.autoregressive import sample_autoregressive
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import compile_network, sample
from sdtt.sampling.settings import SampleSettings

FORMS = ("eager", "compiled")
"""Whether the network runs as it is written, or through torch.compile."""

SHAPES = 256
"""Shapes that compiled code may have: beyond torch's own 8 it would run eager, unsaid."""

RUNS = 5
"""Runs of each setting, where nothing else is said."""


@dataclass(frozen=True)
class Latency:
    """What a batch of texts costs at one setting.

    Attributes:
        steps: Of the sampler; None where the settings count none, as of autoregression.
        batch_size: Texts at a time.
        length: Tokens of a text.
        form: "eager" or "compiled".
        runs: How often it was timed, behind one run that was not.
        seconds: Of a batch: the median run.
        seconds_least: The fastest run.
        seconds_most: The slowest run.
        passes: Of the network for a batch; a pass may take fewer texts than there are.
    """

    steps: int | None
    batch_size: int
    length: int
    form: str
    runs: int
    seconds: float
    seconds_least: float
    seconds_most: float
    passes: int

    @property
    def seconds_per_sample(self) -> float:
        """Seconds of a batch over its texts."""
        return self.seconds / self.batch_size

    @property
    def tokens_per_second(self) -> float:
        """Tokens of a batch over its seconds."""
        return self.batch_size * self.length / self.seconds


@dataclass(frozen=True)
class _Cell:
    """One setting."""

    batch_size: int
    form: str
    steps: int | None
    length: int


@dataclass
class _Batch:
    """The texts of one setting, written when it is called; counts the passes of the last time."""

    write: Callable[[], int]
    passes: int = 0

    def __call__(self) -> None:
        self.passes = self.write()


def latency(
    model: Any,
    *,
    steps: Sequence[int] = (),
    batch_sizes: Sequence[int] = (1,),
    length: int | None = None,
    runs: int = RUNS,
    forms: Sequence[str] = ("eager",),
    settings: SampleSettings | None = None,
    on_run: Callable[[int, int], None] | None = None,
) -> list[Latency]:
    """Seconds of whole batches of texts: the time of ``sample`` or ``sample_autoregressive``.

    Every setting writes its texts once to warm up, which is when code is compiled. Then all of them
    take turns, ``runs`` times, so that what slows a machine down slows all of them. A run is
    timed until the device has finished. A model's own kind says how it writes: a ``Denoiser``
    by its sampler from an empty canvas, a causal language model token by token with a static cache.

    A model is timed in the form in which it is given: ``sdtt generate`` samples from
    ``model.for_inference()``, and from ``pack(model)`` of our own causal model.

    Args:
        model: A denoiser, or a transformers causal language model with a BOS; it is not changed.
        steps: Steps of the sampler; if empty those of the settings. A causal model has none.
        batch_sizes: Texts at a time.
        length: Tokens of a text; the model's own length by default.
        runs: How often each setting is timed.
        forms: "eager", "compiled", or both.
        settings: Sampler, temperature and the like. Of a causal model temperature, top_p, top_k,
            repetition_penalty and seed count.
        on_run: Called with (runs that are done, all runs, those to warm up included).

    Returns:
        One result a setting: batch sizes outermost, then forms, then steps.

    Raises:
        ValueError: If a number is out of its range, nothing is to be timed, steps are given for a
            causal model, or the model cannot be compiled.

    Source: the setting of the paper's latencies is SDTT, sec. 5 (1.3B, batch 8, 1,024 tokens).
    """
    _check(model, steps, batch_sizes, runs, forms)
    how = settings or SampleSettings()
    ladder: Sequence[int | None] = steps or [None]
    if isinstance(model, Denoiser):
        write, longest = _diffusion, model.config.model_length  # type: ignore[attr-defined]
        networks = {form: _in_form(model, form) for form in forms}
        ladder = steps or [how.record().get("steps")]
    else:
        write, longest = _autoregression, getattr(model.config, "max_position_embeddings", None)
        networks = dict.fromkeys(forms, model)
    tokens = longest if length is None else length
    if tokens is None:
        raise ValueError(f"{type(model).__name__} does not say how long its texts are: give length")
    cells = [_Cell(*each, tokens) for each in product(batch_sizes, forms, ladder)]
    batches = {cell: _Batch(write(networks[cell.form], cell, how)) for cell in cells}
    done, total = count(1), len(cells) * (1 + runs)

    def after() -> None:
        if on_run is not None:
            on_run(next(done), total)

    with _all_shapes_compiled() if "compiled" in forms else nullcontext():
        timings = interleaved(batches, runs, model.device, after)
    return [_result(cell, timings[cell], batches[cell].passes) for cell in cells]


def _check(
    model: Any,
    steps: Sequence[int],
    batch_sizes: Sequence[int],
    runs: int,
    forms: Sequence[str],
) -> None:
    for name, values in (("batch_sizes", batch_sizes), ("forms", forms)):
        if not values:
            raise ValueError(f"{name} is empty: there is nothing to time")
    for name, value in (("runs", runs), ("batch_size", min(batch_sizes))):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, several in (("steps", steps), ("batch_sizes", batch_sizes), ("forms", forms)):
        if len(set(several)) < len(several):
            raise ValueError(f"{name} holds one value twice: {', '.join(map(str, several))}")
    strange = [form for form in forms if form not in FORMS]
    if strange:
        raise ValueError(f"a form is one of {', '.join(FORMS)}, got {strange[0]!r}")
    if steps and not isinstance(model, Denoiser):
        raise ValueError(
            f"{type(model).__name__} writes token by token and has no steps; leave steps out"
        )


def _in_form(denoiser: Any, form: str) -> Any:
    """The denoiser, or one on its weights: a copy is not compiled, whatever the original is."""
    if form == "eager" and not getattr(denoiser, "is_compiled", False):
        return denoiser
    twin = copy_with(denoiser, lambda weight: weight)
    if form == "compiled":
        compile_network(twin)
    return twin


def _diffusion(model: Any, cell: _Cell, settings: SampleSettings) -> Callable[[], int]:
    how = replace(settings, batch_size=cell.batch_size, compile=False)  # it is, where it should be
    if cell.steps is not None:
        how = replace(how, steps=cell.steps)
    canvas = canvas_of(model, cell.length, cell.batch_size).to(model.device)

    def write() -> int:
        steps: list[int] = []
        sample(model, canvas, on_step=lambda _, step: steps.append(step.index), **vars(how))
        return len(steps)

    return write


def _autoregression(model: Any, cell: _Cell, settings: SampleSettings) -> Callable[[], int]:
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
    how = {name: getattr(settings, name) for name in names}
    how |= {"length": cell.length, "compile": cell.form == "compiled"}

    def write() -> int:
        size = cell.batch_size
        sample_autoregressive(model, num_samples=size, batch_size=size, **how)
        return cell.length  # behind BOS, and behind each token but the last

    return write


def _result(cell: _Cell, timing: Timing, passes: int) -> Latency:
    return Latency(
        steps=cell.steps,
        batch_size=cell.batch_size,
        length=cell.length,
        form=cell.form,
        runs=len(timing.seconds),
        seconds=timing.median,
        seconds_least=min(timing.seconds),
        seconds_most=max(timing.seconds),
        passes=passes,
    )


@contextmanager
def _all_shapes_compiled() -> Iterator[None]:
    """Lets code have ``SHAPES`` compiled shapes, and fails rather than run more of them eager."""
    from torch._dynamo import config  # seconds to import, and only here needed

    with config.patch(
        recompile_limit=SHAPES,
        accumulated_recompile_limit=4 * SHAPES,
        fail_on_recompile_limit_hit=True,
    ):
        yield
