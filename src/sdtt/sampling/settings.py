"""The samplers by name, and everything that a user may set of one."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sdtt.diffusion.categorical import Transform
from sdtt.diffusion.noise import SCHEDULES
from sdtt.sampling.analytic import AnalyticSettings, analytic
from sdtt.sampling.ancestral import AncestralSettings, ancestral
from sdtt.sampling.confidence import SCORES, ConfidenceSettings, confidence
from sdtt.sampling.dilated import DilatedSettings, dilated
from sdtt.sampling.first_hitting import FirstHittingSettings, first_hitting
from sdtt.sampling.reveal import Step

SamplerName = Literal["dilated", "ancestral", "first_hitting", "confidence", "analytic"]

SAMPLERS: Mapping[SamplerName, tuple[Callable[..., Iterator[Step]], type]] = {
    "dilated": (dilated, DilatedSettings),
    "ancestral": (ancestral, AncestralSettings),
    "first_hitting": (first_hitting, FirstHittingSettings),
    "confidence": (confidence, ConfidenceSettings),
    "analytic": (analytic, AnalyticSettings),
}

STEPS = 64
"""Steps where none are asked for and nothing else says how many there are."""


@dataclass(frozen=True)
class SampleSettings:
    """How texts are sampled: which sampler, its settings, the change of the law, seed and batch.

    A setting that is None takes the sampler's own default; one that the sampler does not have is
    refused.

    Raises:
        ValueError: If one lies outside its range, or does not belong to the sampler.
    """

    sampler: SamplerName = field(
        default="dilated", metadata={"help": "which positions are revealed when"}
    )
    steps: int | None = field(
        default=None,
        metadata={
            "help": f"steps, each one pass at most; {STEPS} where the sampler counts steps and "
            "nothing says how many"
        },
    )
    counts: Literal["process", "even", "cosine"] | None = field(
        default=None,
        metadata={"help": "ancestral: positions a step reveals: binomial, equal, or few at first"},
    )
    schedule: str | None = field(
        default=None, metadata={"help": f"alpha(t): {' or '.join(SCHEDULES)}"}
    )
    stratified: bool | None = field(
        default=None, metadata={"help": "dilated: one position at random of each run of neighbours"}
    )
    tokens_per_pass: int | None = field(
        default=None, metadata={"help": "first_hitting: tokens that a pass reveals"}
    )
    score: Literal["probability", "margin", "entropy"] | None = field(
        default=None, metadata={"help": f"confidence: how sure a law is: {', '.join(SCORES)}"}
    )
    threshold: float | None = field(
        default=None,
        metadata={
            "help": "confidence: reveal every position whose score reaches this, instead of steps"
        },
    )
    entropy_bound: float | None = field(
        default=None,
        metadata={
            "help": "confidence: reveal positions whose entropies sum to this, in nats, not steps"
        },
    )
    order: Literal["high", "low", "random"] | None = field(
        default=None,
        metadata={"help": "confidence: the surest first, the least sure first, or at random"},
    )
    order_temperature: float | None = field(
        default=None, metadata={"help": "confidence: size of the Gumbel noise on the scores"}
    )
    block_length: int | None = field(
        default=None, metadata={"help": "confidence: fill blocks of so many tokens from the left"}
    )
    dilation: int | None = field(
        default=None,
        metadata={"help": "confidence: positions of one step lie a multiple of this apart"},
    )
    temperature: float = field(
        default=1.0,
        metadata={"help": "the law is p^(1 / temperature); 0 takes the likeliest token"},
    )
    top_p: float = field(default=1.0, metadata={"help": "nucleus, in (0, 1]; 1 keeps all tokens"})
    top_k: int | None = field(default=None, metadata={"help": "only so many likeliest tokens"})
    repetition_penalty: float = field(
        default=1.0,
        metadata={
            "help": "power to which the probability of a token that the text holds is raised"
        },
    )
    banned: tuple[int, ...] = field(default=(), metadata={"help": "ids that are never drawn"})
    seed: int = field(default=0, metadata={"help": "sample i is a function of seed and i"})
    batch_size: int | None = field(
        default=None,
        metadata={
            "help": "texts a pass; as many as memory is wise for by default; changes no text"
        },
    )
    cache: bool | None = field(
        default=None,
        metadata={
            "help": "keep keys and values of visible tokens; where the model's attention allows it "
            "by default"
        },
    )
    compile: bool = field(
        default=False, metadata={"help": "compile the network with torch.compile"}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        given = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        check_kinds(given)
        for each in dataclasses.fields(self):
            if given[each.name] is None and each.default is not None:
                raise ValueError(f"{each.name} must be {WANTED[KINDS[each.name]][1]}, got None")
        self.transform()
        self.chosen()
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def transform(self) -> Transform:
        """The change of the law before a draw."""
        names = [each.name for each in dataclasses.fields(Transform)]
        return Transform(**{name: getattr(self, name) for name in names})

    def chosen(self) -> Callable[..., Iterator[Step]]:
        """The sampler as a function of (denoiser, z, u=..., v=...), with its settings in it."""
        if self.sampler not in get_args(SamplerName):
            names = ", ".join(get_args(SamplerName))
            raise ValueError(f"unknown sampler {self.sampler!r}; there are {names}")
        run, settings_type = SAMPLERS[self.sampler]
        own = {each.name for each in dataclasses.fields(settings_type)}
        given = {name: getattr(self, name) for name in OF_SAMPLERS}
        given = {name: value for name, value in given.items() if value is not None}
        strange = sorted(given.keys() - own)
        if strange:
            raise ValueError(
                f"{strange[0]}={given[strange[0]]!r} is no setting of the sampler "
                f"{self.sampler!r}; it has {', '.join(sorted(own))}"
            )
        if "steps" in own and not given.keys() & {"steps", "threshold", "entropy_bound"}:
            given["steps"] = STEPS
        return partial(run, settings=settings_type(**given))

    def record(self) -> dict[str, Any]:
        """Every setting that says something, as plain values: those of the sampler filled in."""
        settings = self.chosen().keywords["settings"]  # type: ignore[attr-defined]
        common = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name not in OF_SAMPLERS
        }
        return common | dataclasses.asdict(settings) | {"draw_dtype": "float64"}


def check_kinds(given: Mapping[str, Any]) -> None:
    """Refuses values of another kind than that of their setting, such as "3" steps.

    Args:
        given: By the names of ``SampleSettings``; others are left to those who know them.

    Raises:
        ValueError: Naming the first.
    """
    for name, value in given.items():
        kind = KINDS.get(name)
        if kind is not None and value is not None and not _is(value, kind):
            raise ValueError(f"{name} must be {WANTED[kind][1]}, got {value!r}")


def is_number(value: Any, kind: type) -> bool:
    """Whether a value is a number of a kind, numpy's too; true is none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a kind; true is no number, and a list one of numbers."""
    if kind is tuple:
        return isinstance(value, (list, tuple)) and all(_is(each, int) for each in value)
    return type(value) is bool if kind is bool else is_number(value, WANTED[kind][0])


def _kinds() -> Iterator[tuple[str, type]]:
    """The kind of each setting, by its annotation."""
    for name, hint in get_type_hints(SampleSettings).items():
        union = get_origin(hint) in (Union, UnionType)
        (one,) = [each for each in (get_args(hint) if union else (hint,)) if each is not NoneType]
        yield name, {Literal: str, tuple: tuple}.get(get_origin(one), one)


KINDS = dict(_kinds())

WANTED: Mapping[type, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a name"),
    tuple: (tuple, "a list of whole numbers"),
}
"""What a value is to be an instance of, and how that is said; numpy's numbers are such too."""


def settings_for(model: object, given: Mapping[str, Any]) -> SampleSettings:
    """The given settings; what they leave open as the model's generation config says, if it does.

    Args:
        model: Its ``generation_config`` counts where it is a ``DiffusionGenerationConfig``.
        given: Fields of ``SampleSettings``.

    Raises:
        ValueError: If one is unknown, lies outside its range, or does not belong to the sampler.
    """
    merged = getattr(getattr(model, "generation_config", None), "sample_settings", None)
    return SampleSettings(**given) if merged is None else merged(**given)


OF_SAMPLERS = tuple(
    dict.fromkeys(
        each.name for _, settings in SAMPLERS.values() for each in dataclasses.fields(settings)
    )
)
"""The settings that belong to samplers."""
