"""``model.generate`` as transformers knows it: a generation config, an output, a mixin."""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer
from transformers.utils import GENERATION_CONFIG_NAME, logging
from transformers.utils.generic import ModelOutput

from sdtt.sampling.canvas import Canvas, check_ids, check_whole, force, ragged_canvas
from sdtt.sampling.generate import sample
from sdtt.sampling.reveal import Step
from sdtt.sampling.settings import (
    OF_SAMPLERS,
    SAMPLERS,
    SamplerName,
    SampleSettings,
    check_kinds,
    is_number,
)
from sdtt.sampling.text_settings import pad_id_for, pairs_of, stop_ids_for

_logger = logging.get_logger(__name__)

TEXT_FIELDS = {
    "max_length": "tokens of a text, prompt included",
    "max_new_tokens": "instead of max_length: tokens to be filled in behind each prompt",
    "num_return_sequences": "samples of each prompt, one after the other",
    "forced_tokens": "[place, id] pairs: tokens that stand there from the beginning",
    "stop_at_eos": "a sampled eos_token_id ends its text",
    "eos_token_id": "the ids that end a text where stop_at_eos says so; the model's by default",
    "pad_token_id": "what stands behind the end of a text",
    "bos_token_id": "kept for readers of the file; no sampler asks for it",
    "return_dict_in_generate": "an output with counts, instead of the sequences alone",
}
"""Fields of a ``DiffusionGenerationConfig`` beside those of ``SampleSettings``."""

SAMPLE_FIELDS = tuple(each.name for each in dataclasses.fields(SampleSettings))
OPTIONAL = tuple(each.name for each in dataclasses.fields(SampleSettings) if each.default is None)
"""Settings of which None says something."""
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
ALL_FIELDS = (*SAMPLE_FIELDS, *TEXT_FIELDS)
ALTERNATIVES = (("max_length", "max_new_tokens"), ("steps", "threshold", "entropy_bound"))
"""Fields of which a text takes one: where a config gives one, later configs give no other."""


class DiffusionGenerationConfig(GenerationConfig):
    """What ``generate`` of a diffusion language model takes; saved as ``generation_config.json``.

    Its fields are those of ``SampleSettings`` (sampler, steps, temperature, top_p, seed, ...) and
    those of ``TEXT_FIELDS``. A field that is None is not set: the next config in the order
    arguments > config > ``model.generation_config`` > defaults decides.

    Args:
        **fields: Any of them.

    Raises:
        ValueError: If a name is unknown, or a value out of its range.
    """

    def __init__(self, **fields: Any) -> None:
        # the parent's many fields are of autoregressive decoding: none of them is wanted
        for name in ("_commit_hash", "_from_model_config", "transformers_version"):
            setattr(self, name, fields.pop(name, None))
        check_names(fields)
        for name in ALL_FIELDS:
            setattr(self, name, _plain(fields.get(name)))
        self.validate()

    def validate(self, *_: Any, **__: Any) -> None:
        """Refuses what cannot be.

        Raises:
            ValueError: If a value is out of its range.
        """
        check_kinds(self._given())
        SampleSettings(**{"sampler": self._some_sampler()} | self._given())
        for name, least in (("max_length", 1), ("max_new_tokens", 0), ("num_return_sequences", 1)):
            value = getattr(self, name)
            if value is None:
                continue
            if not is_number(value, Integral):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in SPECIAL_IDS:
            value = getattr(self, name)
            ids = value if isinstance(value, list | tuple) else [value]
            if value is not None and not all(is_number(each, Integral) for each in ids):
                raise ValueError(f"{name} must be an id or a list of them, got {value!r}")

    def sample_settings(self, **given: Any) -> SampleSettings:
        """The settings of the sampler; those given win, as in ``merged``.

        None too, of a setting that may be None (``top_k``): that takes a saved one back.

        Raises:
            ValueError: If one is unknown, or does not go with the others.
        """
        strange = sorted(given.keys() - set(SAMPLE_FIELDS))
        if strange:
            raise ValueError(
                f"there is no setting {strange[0]!r}; of sampling there are "
                f"{', '.join(SAMPLE_FIELDS)}"
            )
        merged = DiffusionGenerationConfig(**given).merged(self)._given()
        unset = {name for name, value in given.items() if value is None and name in OPTIONAL}
        return SampleSettings(**{n: value for n, value in merged.items() if n not in unset})

    def _given(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in SAMPLE_FIELDS}
        given = {name: value for name, value in given.items() if value is not None}
        if isinstance(given.get("banned"), Iterable) and not isinstance(given["banned"], str):
            given["banned"] = tuple(_plain(token) for token in given["banned"])
        return given

    def _some_sampler(self) -> SamplerName:
        """A sampler that has the settings given here: which one it is, another config may say."""
        own = self._given().keys() & set(OF_SAMPLERS)
        return next((name for name in SAMPLERS if own <= settings_of(name)), "dilated")

    def merged(self, *others: Any) -> "DiffusionGenerationConfig":
        """This config, with what it leaves open taken from the others, the first before the next.

        Settings that the sampler does not have are left out of the others, and but for steps those
        of a config that names another sampler. Of fields that exclude each other (``ALTERNATIVES``)
        the first that is given stays alone.
        """
        result = {name: getattr(self, name) for name in ALL_FIELDS}
        for other in others:
            decided = [g for g in ALTERNATIVES if any(result[name] is not None for name in g)]
            skipped = {name for group in decided for name in group}
            sampler = result["sampler"]
            if sampler is not None:
                foreign = other.sampler not in (None, sampler)
                kept = settings_of(sampler) & ({"steps"} if foreign else set(OF_SAMPLERS))
                skipped |= set(OF_SAMPLERS) - kept
            for name in ALL_FIELDS:
                if result[name] is None and name not in skipped:
                    result[name] = getattr(other, name)
        return DiffusionGenerationConfig(**result)

    def to_diff_dict(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name, value in self.to_dict().items() if value is not None}

    @classmethod
    def from_model_config(cls, model_config: Any) -> "DiffusionGenerationConfig":
        """One with the special ids alone: of sampling a model's config says nothing."""
        return cls(**{name: getattr(model_config, name, None) for name in SPECIAL_IDS})


def _plain(value: Any) -> Any:
    """A number that is a tensor, or one of numpy's, as the number."""
    return value.item() if isinstance(value, Tensor | np.generic) and value.ndim == 0 else value


def settings_of(sampler: SamplerName) -> set[str]:
    """The names of the settings that a sampler has."""
    return {each.name for each in dataclasses.fields(SAMPLERS[sampler][1])}


def as_diffusion(config: Any) -> DiffusionGenerationConfig:
    """A config of another class, such as transformers' own, by the fields that are set in it.

    Raises:
        ValueError: If one of them means nothing to a diffusion model.
    """
    if config is None or isinstance(config, DiffusionGenerationConfig):
        return config or DiffusionGenerationConfig()
    fields = dict(config) if isinstance(config, Mapping) else config.to_diff_dict()
    unset = [n for n, value in fields.items() if n not in ALL_FIELDS and value in (None, False)]
    return DiffusionGenerationConfig(**{n: v for n, v in fields.items() if n not in unset})


def check_names(names: Iterable[str]) -> None:
    """Refuses settings that there are not.

    Raises:
        ValueError: If there is one; it says what may have been meant.
    """
    for name in names:
        if name == "do_sample":
            raise ValueError("there is no do_sample: texts are drawn; temperature=0 does not draw")
        if name not in ALL_FIELDS:
            close = difflib.get_close_matches(name, ALL_FIELDS, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(ALL_FIELDS)}"
            raise ValueError(f"unknown generation setting {name!r}; {hint}")


@dataclass
class DiffusionGenerationOutput(ModelOutput):
    """What ``generate`` returns.

    Attributes:
        sequences: Token ids, prompts included, padded on the right.
        passes: How many passes of the network each text took part in.
        tokens_per_forward: Sampled tokens of each text, up to its end, over its passes.
    """

    sequences: Int[Tensor, "B L"] | None = None
    passes: Int[Tensor, " B"] | None = None
    tokens_per_forward: Float[Tensor, " B"] | None = None


class DiffusionGenerationMixin:
    """``generate`` for denoisers that are transformers models."""

    generation_config_class = DiffusionGenerationConfig
    generation_config: Any

    def adjust_generation_fn(
        self,
        generation_config: GenerationConfig | None,
        _from_auto_class: Any,
        _from_pipeline: Any,
        source: str | PathLike[str],
        **download: Any,
    ) -> None:
        """Loads the ``generation_config.json`` beside the weights; called by transformers.

        Raises:
            ValueError: If that of a local folder is damaged.
        """
        if generation_config is not None:
            self.generation_config = DiffusionGenerationConfig().merged(
                as_diffusion(generation_config)
            )
            return
        wanted = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        options = {name: download[name] for name in (*wanted, "subfolder") if name in download}
        _check_object(Path(source) / (download.get("subfolder") or "") / GENERATION_CONFIG_NAME)
        try:
            self.generation_config = DiffusionGenerationConfig.from_pretrained(source, **options)
        except OSError:  # there is none: what `__init__` made of the config stays
            return
        except ValueError as error:  # somebody else's, of another way to generate
            _logger.warning(f"{source}: its generation_config.json is left out: {error}")

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "B P"] | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: BaseStreamer | None = None,
        **overrides: Any,
    ) -> DiffusionGenerationOutput | Int[Tensor, "N L"]:
        """Samples texts behind, between or without prompts.

        A prompt is followed by MASK up to ``max_length`` (the model's length by default) or by
        ``max_new_tokens`` of them. A prompt that itself holds MASK, where neither is given, is
        filled in as it is. Sample i is a function of the seed, i and its own prompt.

        Args:
            input_ids: Prompts, MASK where a token is to be filled in; None for texts from nothing.
            attention_mask: 1 where a prompt's token is real; padding may be left or right.
            generation_config: Settings; what it leaves open is taken from
                ``model.generation_config``, then from the defaults. Of transformers' own class
                what is set counts.
            streamer: One of transformers' streamers: it gets by ``put`` what stands in front of
                the first free place, after every step what follows it by ``put_draft`` (if it has
                that), at last the same by ``put``. Those of transformers take one text.
            **overrides: Fields of ``DiffusionGenerationConfig``; they win.

        Returns:
            Sequences with their passes, or with ``return_dict_in_generate=False`` the ids alone.

        Raises:
            ValueError: If a setting is unknown or out of its range, or a prompt does not fit.
        """
        check_names(overrides)
        configs = [as_diffusion(each) for each in (generation_config, self.generation_config)]
        config: Any = DiffusionGenerationConfig(**overrides).merged(*configs)
        canvas = self._canvas(input_ids, attention_mask, config)
        output = _Run(self, canvas, config, streamer)()
        ids: Tensor = output.sequences  # type: ignore[assignment]
        return output if config.return_dict_in_generate in (None, True) else ids

    def _canvas(
        self,
        input_ids: Int[Tensor, "B P"] | None,
        attention_mask: Tensor | None,
        config: Any,
    ) -> Canvas:
        own: Any = self
        limit, mask_id = own.config.max_position_embeddings, own.mask_token_id
        lengths = (config.max_length, config.max_new_tokens)
        if None not in lengths:
            raise ValueError("max_length and max_new_tokens exclude each other: give one")
        if input_ids is None:
            input_ids = torch.empty(1, 0, dtype=torch.long)
        texts = _real_tokens(input_ids, attention_mask)
        for index, text in enumerate(texts):
            check_ids(own, text, own.config.vocab_size, allow_mask=True)
            total = len(text)
            if config.max_new_tokens is not None:
                total += config.max_new_tokens
            elif config.max_length is not None or mask_id not in text:
                total = config.max_length or limit
            if len(text) > total:
                raise ValueError(
                    f"the prompt has {len(text)} tokens, more than the text's {total}; "
                    "shorten it or raise max_length"
                )
            if total > limit:
                raise ValueError(f"a text of {total} tokens is longer than the model's {limit}")
            texts[index] = text + [mask_id] * (total - len(text))
        canvas = ragged_canvas(texts, pad_id_for(self, config))
        canvas = force(own, canvas, pairs_of(config.forced_tokens), own.config.vocab_size)
        return canvas.repeat(config.num_return_sequences or 1).to(own.device)


def _check_object(file: Path) -> None:
    """Refuses a damaged file: without its settings other texts would be drawn, in silence."""
    try:
        whole = not file.is_file() or isinstance(json.loads(file.read_text("utf-8")), dict)
    except ValueError:  # no JSON, or no text
        whole = False
    if not whole:
        raise ValueError(f"{file} is damaged: it holds no JSON object; save it again or remove it")


def _real_tokens(input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    """The prompts without their padding."""
    check_whole(input_ids, "input_ids")
    if input_ids.dim() != 2:
        shape = tuple(input_ids.shape)
        raise ValueError(f"input_ids must be a batch of texts, (B, P), got the shape {shape}")
    texts: list[list[int]] = input_ids.tolist()
    if attention_mask is None:
        return texts
    if attention_mask.shape != input_ids.shape:
        shapes = tuple(attention_mask.shape), tuple(input_ids.shape)
        raise ValueError(f"attention_mask has the shape {shapes[0]}, input_ids {shapes[1]}")
    real = attention_mask.bool().tolist()
    pairs = [zip(text, row, strict=True) for text, row in zip(texts, real, strict=True)]
    return [[token for token, here in row if here] for row in pairs]


class _Run:
    """One call of ``generate``: the steps on their way to the streamer, and the counts."""

    def __init__(
        self,
        model: Any,
        canvas: Canvas,
        config: Any,
        streamer: BaseStreamer | None,
    ) -> None:
        self.model, self.canvas, self.config, self.streamer = model, canvas, config, streamer
        self.settings = dataclasses.asdict(config.sample_settings())
        self.passes = torch.zeros(len(canvas.ids), dtype=torch.long)
        self.free = canvas.ids == model.mask_token_id
        if canvas.attention_mask is not None:
            self.free &= canvas.attention_mask
        # what stands in front of the first free place is shown once, and the rest as it changes
        self.first = int((~self.free.any(0)).long().cumprod(0).sum())
        self.draft = canvas.ids.clone() if hasattr(streamer, "put_draft") else None

    def __call__(self) -> DiffusionGenerationOutput:
        ids, real = self.canvas.ids, self.canvas.attention_mask
        stop_ids = stop_ids_for(self.model, self.config) if self.config.stop_at_eos else ()
        pad_id = pad_id_for(self.model, self.config)
        if self.streamer is not None:
            self.streamer.put(ids[:, : self.first].cpu())
        sequences = sample(
            self.model, ids, attention_mask=real, stop_ids=stop_ids, pad_id=pad_id,
            on_step=self._on_step, **self.settings,
        )  # fmt: skip
        free = self.free
        if stop_ids:
            ended = torch.isin(sequences, torch.tensor(stop_ids, device=ids.device)) & free
            free = free & ((ended.long().cumsum(1) - ended.long()) == 0)
        tokens = free.sum(1).double().cpu()
        if self.streamer is not None:
            self.streamer.put(sequences[:, self.first :].cpu())
            self.streamer.end()
        return DiffusionGenerationOutput(
            sequences=sequences,
            passes=self.passes,
            tokens_per_forward=tokens / self.passes.clamp_min(1),
        )

    def _on_step(self, first: int, step: Step) -> None:
        self.passes[first + step.texts] += 1
        if self.draft is not None:
            length = self.draft.shape[1]
            self.draft.view(-1)[first * length + step.rows] = step.tokens
            shown = self.draft[:, self.first :].to("cpu", copy=True)  # what is kept may not change
            self.streamer.put_draft(shown)  # type: ignore[union-attr]
