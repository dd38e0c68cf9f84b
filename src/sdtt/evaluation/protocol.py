"""Protocols: one YAML file says everything that is measured for one table."""

import dataclasses
import difflib
import itertools
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml

from sdtt.diffusion.categorical import Transform
from sdtt.evaluation.mask_sets import Noise
from sdtt.sampling.settings import KINDS, SAMPLERS, SamplerName, SampleSettings

Config = TypeVar("Config")

METRICS = (
    "perplexity",
    "diversity",
    "self_bleu",
    "readability",
    "mauve",
    "best_of",
    "lambada",
    "bound",
    "tasks",
    "latency",
)
"""What can be measured; the first six of samples, the others of models."""

OF_SAMPLES = METRICS[:6]

Who = Literal["all", "teacher", "students"]

FOLDERS = (
    Path(__file__).parents[1] / "protocols",  # of a wheel
    Path(__file__).parents[3] / "configs" / "evaluation",  # of a checkout
)
"""Where the protocols that come with the package lie."""


@dataclass(frozen=True)
class Grid:
    """Draws of diffusion models: every combination of some settings.

    Attributes:
        axes: Field of ``SampleSettings`` to the values that it takes.
        num_samples: Samples of each combination.
        length: Tokens of a sample; the model's length if None.
        of: Which models draw them: all, the teachers (not distilled), or the students.

    Raises:
        ValueError: If a setting is unknown or outside its range.
    """

    axes: Mapping[str, tuple[Any, ...]]
    num_samples: int = 256
    length: int | None = None
    of: Who = "all"

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _check_names(self.axes, [each.name for each in dataclasses.fields(SampleSettings)], "draws")
        _positive(self, "num_samples", "length")
        if self.of not in get_args(Who):
            raise ValueError(f"draws: of is one of {', '.join(get_args(Who))}, got {self.of!r}")
        list(self.settings())

    def settings(self) -> Iterator[SampleSettings]:
        """Each combination, the last axis fastest."""
        for values in itertools.product(*self.axes.values()):
            yield SampleSettings(**dict(zip(self.axes, values, strict=True)))


@dataclass(frozen=True)
class Autoregressive:
    """Draws of causal models: every combination of temperature, top_p and seed."""

    temperature: tuple[float, ...] = (1.0,)
    top_p: tuple[float, ...] = (1.0,)
    seed: tuple[int, ...] = (0,)
    top_k: int | None = None
    repetition_penalty: float = 1.0
    num_samples: int = 256
    length: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(self, "num_samples", "length", "batch_size")
        for temperature, top_p in itertools.product(self.temperature, self.top_p):
            Transform(temperature, top_p, self.top_k, self.repetition_penalty)

    def settings(self) -> Iterator[dict[str, Any]]:
        """Each combination; what changes nothing is left out."""
        own: dict[str, Any] = {} if self.top_k is None else {"top_k": self.top_k}
        if self.repetition_penalty != 1:
            own["repetition_penalty"] = self.repetition_penalty
        for temperature, top_p, seed in itertools.product(self.temperature, self.top_p, self.seed):
            yield {"temperature": temperature, "top_p": top_p, "seed": seed, **own}


@dataclass(frozen=True)
class RealText:
    """Real text beside the samples: blocks of the same length.

    Attributes:
        text: A named text (see ``bound.TEXTS``) or a file.
        num_samples: Blocks.
        seed: Which blocks.
    """

    text: str
    num_samples: int = 256
    seed: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(self, "num_samples")


@dataclass(frozen=True)
class Perplexity:
    """Under the judge; see ``judge.judge_texts``."""

    batch_size: int = 64
    window: int | None = None
    stride: int | None = None
    eos: Literal["scored", "cut"] = "scored"

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(self, "batch_size", "window", "stride")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ValueError(
                f"perplexity: stride {self.stride} skips tokens, for it is longer than the window "
                f"{self.window}; give at most {self.window}"
            )


@dataclass(frozen=True)
class SelfBleu:
    """Self-BLEU: each continuation against the others of its group."""

    references: int = 16

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(self, "references")


@dataclass(frozen=True)
class Readability:
    """The share of word trigrams that a text knows.

    Attributes:
        text: A named text or a file whose trigrams count as known.
    """

    text: str = ""


@dataclass(frozen=True)
class MauveSettings:
    """Prompts from a text, continued by each model, beside what people wrote [SDTT, sec. 5].

    Attributes:
        text: A named text or a file.
        prompts: How many.
        prompt_tokens: Tokens of a prompt.
        new_tokens: Tokens of a continuation.
        continuations: Of each prompt.
        seeds: Of k-means.
        scale: c of the divergence curve.
        features: A model; the judge if None.
        draws: How they are continued, as ``Protocol.draws``.
    """

    text: str
    prompts: int = 1024
    prompt_tokens: int = 50
    new_tokens: int = 50
    continuations: int = 5
    seeds: int = 5
    scale: float = 5.0
    features: str | None = None
    batch_size: int = 64
    draws: tuple[Grid, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(
            self, "prompts", "prompt_tokens", "new_tokens", "continuations", "seeds", "batch_size"
        )
        if not 0 < self.scale < math.inf:
            raise ValueError(f"mauve: scale must be a positive number, got {self.scale}")


@dataclass(frozen=True)
class Lambada:
    """The last word of each passage."""

    form: tuple[Literal["openai", "original"], ...] = ("openai",)
    limit: int | None = None
    noise_samples: int = 16
    exact_up_to: int = 5
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(self, "limit", "noise_samples", "batch_size")
        Noise(samples=self.noise_samples, exact_tokens=self.exact_up_to)


@dataclass(frozen=True)
class Bound:
    """-log p of named texts, or its upper bound.

    Attributes:
        text: Named texts or files.
        blocks: The first so many; all if None.
        length: Tokens of a block; each model's own length if None, and then models of other
            lengths have other blocks, and cannot be compared.
    """

    text: tuple[str, ...] = ("wikitext-2",)
    blocks: int | None = None
    length: int | None = None
    noise_samples: int = 1
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(self, "blocks", "length", "noise_samples", "batch_size")
        Noise(samples=self.noise_samples)


@dataclass(frozen=True)
class Tasks:
    """Tasks of lm-evaluation-harness.

    Attributes:
        names: Of tasks, groups or tags, or patterns of them.
        include_path: A folder of tasks of one's own, as YAML of the harness.
        num_fewshot: Examples in each context; what each task says if None.
        sampling: Field of ``SampleSettings`` to its value, of tasks with answers that are written.
            What it leaves open is as the task says (temperature, top_p and top_k; greedy where it
            does not sample), else the library's default, for every model alike.
    """

    names: tuple[str, ...] = ()
    include_path: str | None = None
    num_fewshot: int | None = 0
    limit: int | None = None
    noise_samples: int = 128
    batch_size: int = 64
    seed: int = 0
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(self, "limit", "noise_samples", "batch_size")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ValueError(f"num_fewshot must be at least 0, got {self.num_fewshot}")
        Noise(samples=self.noise_samples)
        fields = [each.name for each in dataclasses.fields(SampleSettings)]
        own = [name for name in fields if name not in ("seed", "batch_size")]
        _check_names(self.sampling, own, "sampling of tasks")
        SampleSettings(**self.sampling)


@dataclass(frozen=True)
class Latency:
    """Seconds and tokens a second against steps, and of causal models."""

    sampler: SamplerName = "dilated"
    steps: tuple[int, ...] = (8, 16, 32, 64)
    batch_size: tuple[int, ...] = (1, 8)
    length: int | None = None
    runs: int = 3
    form: tuple[Literal["eager", "compiled"], ...] = ("eager",)

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(self, "steps", "batch_size", "length", "runs")
        for name in ("steps", "batch_size", "form"):
            _once(name, getattr(self, name))
        counting = [
            name
            for name, (_, own) in SAMPLERS.items()
            if any(each.name == "steps" for each in dataclasses.fields(own))
        ]
        if self.sampler in SAMPLERS and self.sampler not in counting:
            raise ValueError(
                f"latency is measured against steps, and the sampler {self.sampler!r} counts none; "
                f"give one of {', '.join(counting)}"
            )
        for steps in self.steps:
            SampleSettings(sampler=self.sampler, steps=steps)


@dataclass(frozen=True)
class BestOf:
    """The best of n samples under a scorer.

    Attributes:
        scorer: A causal model; the judge if None.
        n: How many are chosen from.
    """

    scorer: str | None = None
    n: tuple[int, ...] = (1, 2, 4, 8, 16)

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _positive(self, "n")


@dataclass(frozen=True)
class Protocol:
    """Everything that one table needs.

    Attributes:
        name: Of the protocol.
        metrics: Which of ``METRICS``.
        judge: The causal model that judges.
        draws: How diffusion models are sampled.
        control_temperatures: At these the teachers are drawn as well, wherever ``draws`` says 1:
            between them the control of a student is interpolated.
        autoregressive: How causal models are sampled.
        real_text: Beside the samples.

    Raises:
        ValueError: If a metric is unknown, or lacks what it needs.
    """

    name: str = "flags"
    metrics: tuple[str, ...] = ("perplexity", "diversity")
    judge: str = "judge"
    draws: tuple[Grid, ...] = ()
    control_temperatures: tuple[float, ...] = ()
    autoregressive: tuple[Autoregressive, ...] = ()
    real_text: RealText | None = None
    perplexity: Perplexity = field(default_factory=Perplexity)
    self_bleu: SelfBleu = field(default_factory=SelfBleu)
    readability: Readability = field(default_factory=Readability)
    mauve: MauveSettings | None = None
    best_of: BestOf = field(default_factory=BestOf)
    lambada: Lambada = field(default_factory=Lambada)
    bound: Bound = field(default_factory=Bound)
    tasks: Tasks = field(default_factory=Tasks)
    latency: Latency = field(default_factory=Latency)

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _check_names(self.metrics, METRICS, "metrics")
        counts = [grid.num_samples for grid in self.draws]
        counts += [each.num_samples for each in self.autoregressive]
        if "best_of" in self.metrics and counts and min(self.best_of.n) > min(counts):
            raise ValueError(
                f"best_of chooses from {min(self.best_of.n)} samples at least, and a draw has "
                f"{min(counts)}: give a smaller n, or more num_samples"
            )
        for metric, missing in (
            ("mauve", self.mauve is None and "a section 'mauve' with its 'text'"),
            ("readability", not self.readability.text and "'readability: {text: ...}'"),
            ("tasks", not self.tasks.names and "'tasks: {names: [...]}', or --tasks"),
        ):
            if metric in self.metrics and missing:
                raise ValueError(f"the metric {metric} needs {missing} in the protocol")


def load_protocol(source: str | Path) -> Protocol:
    """A protocol by name or from a file.

    Args:
        source: quick, paper, full, or a path.

    Raises:
        ValueError: If there is none, or it holds what no protocol has.
    """
    path = Path(source)
    if not path.is_file():
        known = {file.stem: file for folder in FOLDERS for file in sorted(folder.glob("*.yaml"))}
        if str(source) not in known:
            raise ValueError(
                f"there is no protocol {str(source)!r}; there are {', '.join(known)}, or a file of "
                "your own"
            )
        path = known[str(source)]
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML ({error})".replace("\n", " ")) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a protocol is a mapping of names to settings")
    try:
        return _built(Protocol, {"name": path.stem, **values}, "")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def written(protocol: Protocol) -> str:
    """The protocol as YAML that `load_protocol` reads back."""
    return yaml.safe_dump(_plain(protocol), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Grid):
        own = {name: list(axis) for name, axis in value.axes.items()}
        return own | {name: getattr(value, name) for name in ("num_samples", "length", "of")}
    if dataclasses.is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(element) for element in value] if isinstance(value, tuple | list) else value


def _built(kind: type[Config], values: Any, where: str) -> Config:
    """A dataclass from a mapping: its fields checked by name and type, scalars made tuples."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is a mapping of names to settings, got {values!r:.60}")
    if kind is Grid:
        return typing.cast("Config", _grid(values))
    hints = typing.get_type_hints(kind)
    _check_names(values, list(hints), where or "a protocol")
    return kind(**{name: _value(hints[name], each, name) for name, each in values.items()})


def _grid(values: Mapping[str, Any]) -> Grid:
    own = {name: values[name] for name in ("num_samples", "length", "of") if name in values}
    axes = {name: axis for name, axis in values.items() if name not in own}
    lists = {name: tuple(a) if isinstance(a, list) else (a,) for name, a in axes.items()}
    return Grid({name: tuple(_fractions(name, axis)) for name, axis in lists.items()}, **own)


def _fractions(name: str, axis: Iterable[Any]) -> Iterator[Any]:
    """A whole number where YAML may leave out the point, as the fraction that it is.

    1 and 1.0 are one law, and would be two draws.
    """
    for value in axis:
        yield float(value) if KINDS.get(name) is float and type(value) is int else value


def _value(hint: Any, value: Any, where: str) -> Any:
    """A YAML value as the type of a field wants it."""
    origin, arguments = typing.get_origin(hint), get_args(hint)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_value(arguments[0], item, where) for item in items)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        return _value(next(a for a in arguments if a is not types.NoneType), value, where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} is one of {', '.join(arguments)}, got {value!r}")
        return value
    if origin is Mapping or dataclasses.is_dataclass(hint):
        return _nested(hint, value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{where} wants a {hint.__name__}, got {value!r}")
    return value


def _nested(hint: Any, value: Any, where: str) -> Any:
    """A section, or a field that is a mapping itself, whose names its dataclass checks."""
    if dataclasses.is_dataclass(hint):
        return _built(typing.cast("type[Any]", hint), value, where)
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is a mapping of names to settings, got {value!r}")
    return {n: tuple(each) if isinstance(each, list) else each for n, each in value.items()}


def _check_names(given: Iterable[str], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5) or known
            raise ValueError(f"{where} has no {name!r}; nearest: {', '.join(near)}")


def _once(name: str, values: Sequence[Any]) -> None:
    """Refuses a value that is named twice."""
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"{name} names {twice[0]!r} twice")


def _positive(settings: Any, *names: str) -> None:
    """Refuses a field, or one of its values, that is below 1; None is none."""
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and (type(number) is not int or number < 1):
                raise ValueError(f"{name} must be at least 1, got {number!r}")
