"""What a text is to be: how many, how long, what stands in it, what ends it."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from typing import Any

from sdtt.sampling.canvas import pad_id_of


@dataclass(frozen=True)
class TextSettings:
    """What is asked of texts beside the sampler's settings.

    Attributes:
        num_samples: Texts for each prompt.
        length: Tokens of a text, prompt included; None for the model's length.
        max_new_tokens: Instead of it: tokens behind each prompt.
        forced: Place to id.
        stop_ids: A sampled token of these ends its text.
        pad_id: What stands behind the end.
    """

    num_samples: int
    length: int | None
    max_new_tokens: int | None
    forced: Mapping[int, int]
    stop_ids: tuple[int, ...]
    pad_id: int


def text_settings_for(
    model: Any,
    *,
    num_samples: int | None = None,
    length: int | None = None,
    max_new_tokens: int | None = None,
    infill: str | None = None,
    forced: Mapping[int, int] | None = None,
    stop_at_eos: bool | None = None,
) -> TextSettings:
    """What is given; what is left open as the model's generation config says, if it does.

    Args:
        model: Its ``generation_config`` counts where it is a ``DiffusionGenerationConfig``.
        num_samples: ``num_return_sequences`` there.
        length: ``max_length`` there.
        max_new_tokens: The same there; a length of either kind that is given leaves both out.
        infill: A text that has its length already.
        forced: ``forced_tokens`` there; none if it is empty.
        stop_at_eos: The same there.

    Raises:
        ValueError: If a text shall end at EOS and there is none.
    """
    own = getattr(model, "generation_config", None)
    config: Any = own if hasattr(own, "sample_settings") else None
    if length is None and max_new_tokens is None and infill is None:
        length = getattr(config, "max_length", None)
        max_new_tokens = getattr(config, "max_new_tokens", None)
    if num_samples is None:
        num_samples = getattr(config, "num_return_sequences", None)
    if stop_at_eos is None:
        stop_at_eos = getattr(config, "stop_at_eos", None)
    return TextSettings(
        1 if num_samples is None else num_samples,
        length,
        max_new_tokens,
        pairs_of(getattr(config, "forced_tokens", None) if forced is None else forced),
        stop_ids_for(model, config) if stop_at_eos else (),
        pad_id_for(model, config),
    )


def stop_ids_for(model: Any, config: Any) -> tuple[int, ...]:
    """EOS, as a generation config has it, or else the model's config.

    Raises:
        ValueError: If there is none.
    """
    eos = getattr(config, "eos_token_id", None)
    if eos is None:
        eos = model.config.eos_token_id
    if eos is None:
        raise ValueError(
            f"{type(model).__name__} has no eos_token_id to stop at; leave stop_at_eos out"
        )
    return tuple(eos) if isinstance(eos, list | tuple) else (eos,)


def pad_id_for(model: Any, config: Any) -> int:
    """What stands in padding, as a generation config has it, or else ``pad_id_of`` the model."""
    pad, eos = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)
    if pad is None:
        return pad_id_of(model, eos)
    pad = int(pad[0] if isinstance(pad, list | tuple) else pad)
    if pad >= model.config.vocab_size:
        raise ValueError(f"pad_token_id must lie in [0, {model.config.vocab_size}), got {pad}")
    return pad_id_of(model, eos) if pad < 0 else pad


def pairs_of(forced: Any) -> dict[int, int]:
    """Place to id, of a mapping or of pairs; saved keys are strings, for JSON has no others.

    Raises:
        ValueError: If they are no pairs.
    """
    if forced is None:
        return {}
    try:
        given = forced.items() if isinstance(forced, Mapping) else forced
        pairs = [(_whole(place), _whole(token)) for place, token in given]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"forced_tokens must be pairs of a place and an id, got {forced}"
        ) from error
    places = [place for place, _ in pairs]
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise ValueError(f"forced_tokens names place {twice[0]} twice: one token stands there")
    return dict(pairs)


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, str) else index(value)
