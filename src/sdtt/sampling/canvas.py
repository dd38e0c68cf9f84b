"""Canvases: what stands in a text before it is sampled, and what is left of it afterwards."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sdtt.diffusion.denoiser import Denoiser, as_denoiser
from sdtt.sampling.settings import is_number

SLOT = re.compile(r"\[(\d+)\]")
"""In an infill template: so many tokens to be filled in."""


@dataclass(frozen=True)
class Canvas:
    """Texts to be filled in.

    Attributes:
        ids: Token ids, MASK where a token is wanted, padded on the right.
        attention_mask: True where a token is real; None where there is no padding.
    """

    ids: Int[Tensor, "B L"]
    attention_mask: Bool[Tensor, "B L"] | None = None

    def to(self, device: torch.device | str) -> "Canvas":
        """The same on another device."""
        mask = None if self.attention_mask is None else self.attention_mask.to(device)
        return Canvas(self.ids.to(device), mask)

    def repeat(self, times: int) -> "Canvas":
        """Each text so many times, one after the other."""
        mask = self.attention_mask
        mask = None if mask is None else mask.repeat_interleave(times, 0)
        return Canvas(self.ids.repeat_interleave(times, 0), mask)

    def rows(self, chosen: slice) -> "Canvas":
        """Some of the texts."""
        mask = None if self.attention_mask is None else self.attention_mask[chosen]
        return Canvas(self.ids[chosen], mask)


def canvas_of(
    denoiser: Denoiser,
    length: int,
    num_samples: int = 1,
    *,
    prompt: list[int] | None = None,
    suffix: list[int] | None = None,
    vocab_size: int | None = None,
) -> Int[Tensor, "B L"]:
    """Texts of ``length`` ids: the prompt, then MASK, then the suffix.

    Args:
        denoiser: Says which id is MASK.
        length: L.
        num_samples: How many equal rows.
        prompt: Ids that stand at the front.
        suffix: Ids that stand at the end.
        vocab_size: If given, ids must lie below it.

    Raises:
        ValueError: If prompt and suffix do not fit, or hold an id that no text has.
    """
    front, back = prompt or [], suffix or []
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if len(front) + len(back) > length:
        raise ValueError(
            f"the prompt has {len(front) + len(back)} tokens, more than the text's {length}; "
            "shorten it or raise length"
        )
    check_ids(denoiser, front + back, vocab_size)
    middle = [denoiser.mask_token_id] * (length - len(front) - len(back))
    return torch.tensor([front + middle + back]).repeat(num_samples, 1)


def check_ids(
    denoiser: Denoiser,
    ids: Sequence[int],
    vocab_size: int | None,
    *,
    allow_mask: bool = False,
    what: str = "the prompt has",
) -> None:
    """Refuses ids that no text has.

    Args:
        denoiser: Says which ids are excluded.
        ids: Of a prompt.
        vocab_size: If given, ids must lie below it.
        allow_mask: Whether MASK may stand there, as a place to be filled in.
        what: How an error begins.

    Raises:
        ValueError: If there is one.
    """
    for i in ids:
        if allow_mask and i == denoiser.mask_token_id:
            continue
        if i < 0 or i in denoiser.excluded_ids or (vocab_size is not None and i >= vocab_size):
            raise ValueError(
                f"{what} the unknown id {i}; ids lie in [0, {vocab_size}) and are not "
                f"MASK ({denoiser.mask_token_id}); encode it with the model's own tokenizer"
            )


def check_canvas(
    denoiser: Denoiser, canvas: Int[Tensor, "B L"], attention_mask: Tensor | None
) -> None:
    """Refuses texts that a denoiser cannot fill in.

    Args:
        denoiser: p(x_i | z).
        canvas: Token ids, MASK where a token is wanted.
        attention_mask: True or 1 where a token is real.

    Raises:
        ValueError: If they are no batch of texts, are too long, have an id that the denoiser does
            not know, or the mask has another shape or hides what stands before a real token.
    """
    check_whole(canvas, "a canvas")
    if canvas.dim() != 2:
        raise ValueError(
            f"a canvas is a batch of texts, (B, L), got the shape {tuple(canvas.shape)}"
        )
    if attention_mask is not None and attention_mask.shape != canvas.shape:
        shapes = tuple(attention_mask.shape), tuple(canvas.shape)
        raise ValueError(f"attention_mask has the shape {shapes[0]}, the canvas {shapes[1]}")
    if attention_mask is not None and bool(attention_mask.long().diff(dim=1).gt(0).any()):
        raise ValueError(
            "attention_mask has padding before a token: pad on the right, or the places of a text "
            "are others than without padding (model.generate takes padding on either side)"
        )
    if hasattr(denoiser, "check_length"):
        denoiser.check_length(canvas.shape[1])
    known = (canvas >= 0) & (canvas < denoiser.head.weight.shape[0])
    known |= canvas == denoiser.mask_token_id
    if attention_mask is not None:
        known |= ~attention_mask.bool()
    if not bool(known.all()):
        raise ValueError(
            f"the canvas has the unknown id {int(canvas[~known][0])}: the model's ids lie in "
            f"[0, {denoiser.head.weight.shape[0]})"
        )


def check_whole(ids: Tensor, what: str) -> None:
    """Refuses ids that are no whole numbers: a cast would cut them.

    Raises:
        ValueError: If their dtype is one of fractions, or true and false.
    """
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{what} must hold ids, whole numbers; got {ids.dtype}")


def ragged_canvas(texts: Sequence[Sequence[int]], pad_id: int) -> Canvas:
    """Texts of unequal length, padded on the right."""
    length = max(map(len, texts), default=0)
    ids = torch.full((len(texts), length), pad_id)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor(text, dtype=torch.long)
    sizes = torch.tensor([len(text) for text in texts], dtype=torch.long)
    real = torch.arange(length) < sizes[:, None]
    return Canvas(ids, None if bool(real.all()) else real)


def force(
    denoiser: Denoiser,
    canvas: Canvas,
    forced: Mapping[int, int],
    vocab_size: int | None = None,
) -> Canvas:
    """The canvas with tokens put at places; negative places count from the end of each text.

    Args:
        denoiser: Says which id is MASK.
        canvas: Texts to be filled in.
        forced: Place to id.
        vocab_size: If given, ids must lie below it.

    Raises:
        ValueError: If a place lies outside of a text or holds another token already, or the model
            has no such id.
    """
    check_ids(denoiser, list(forced.values()), vocab_size, what="forced is")
    ids, mask = canvas.ids.clone(), canvas.attention_mask
    length = ids.shape[1]
    sizes = torch.full((len(ids),), length) if mask is None else mask.sum(1).cpu()
    for place, token in forced.items():
        where = sizes + place if place < 0 else torch.full_like(sizes, place)
        if len(ids) and not bool(((where >= 0) & (where < sizes)).all()):
            raise ValueError(
                f"a token is forced at place {place}, outside of a text of {int(sizes.min())} "
                "tokens"
            )
        at = torch.arange(len(ids), device=ids.device), where.to(ids.device)
        there = ids[at]
        taken = there[(there != denoiser.mask_token_id) & (there != token)]
        if len(taken):
            raise ValueError(
                f"place {place} of a text holds the token {int(taken[0])} already and cannot be "
                f"forced to be {token}: force places that are to be filled in, each once"
            )
        ids[at] = token
    return Canvas(ids, mask)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text; what looks like a special token in it is plain text.

    Raises:
        ValueError: If it is no text, as bytes of a command line that are no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is no UTF-8 text at its character {error.start}") from error
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def encoded_canvas(
    model: Any,
    tokenizer: Any,
    *,
    prompt: str | Sequence[str] = "",
    suffix: str = "",
    infill: str | None = None,
    num_samples: int = 1,
    length: int | None = None,
    max_new_tokens: int | None = None,
    forced: Mapping[int, int] | None = None,
) -> Canvas:
    """A canvas from strings: what looks like a special token in them is plain text.

    Args:
        model: A denoiser with a transformers config.
        tokenizer: The tokenizer it was trained with.
        prompt: Text at the front; a sequence makes a text of each.
        suffix: Text at the end.
        infill: Instead of prompt and suffix: a text with ``[n]`` where n tokens are to be filled
            in, such as "Once [12] ever after."
        num_samples: How many samples of each prompt, one after the other.
        length: Tokens of a text, its prompt included; the model's own length by default.
        max_new_tokens: Instead of length: tokens to be filled in for each prompt.
        forced: Place to id: tokens that stand there from the beginning.

    Raises:
        ValueError: If two settings exclude each other, or a text does not fit the model.
    """
    as_denoiser(model)
    limit = model.config.max_position_embeddings
    _check_sizes(length, max_new_tokens, num_samples, limit)
    if infill is not None:
        if prompt or suffix or length is not None or max_new_tokens is not None:
            raise ValueError("infill holds the whole text: leave out prompt, suffix and lengths")
        texts = [_infill_ids(model, tokenizer, infill)]
        check_ids(model, texts[0], model.config.vocab_size, allow_mask=True)
    else:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        prompts = list(prompts) if isinstance(prompts, Iterable) else []
        if prompt is None or not all(isinstance(each, str) for each in prompts):
            raise ValueError(f"prompt must be a text, or a sequence of texts, got {prompt!r}")
        fronts = [encode(tokenizer, text) for text in prompts]
        back = encode(tokenizer, suffix)
        texts = [_between(model, front, back, length or limit, max_new_tokens) for front in fronts]
    for text in texts:
        if len(text) > limit:
            raise ValueError(f"a text of {len(text)} tokens is longer than the model's {limit}")
    canvas = ragged_canvas(texts, pad_id_of(model)).repeat(num_samples)
    return force(model, canvas, forced or {}, model.config.vocab_size).to(model.device)


def _check_sizes(
    length: int | None, max_new_tokens: int | None, num_samples: int, limit: int
) -> None:
    numbers = {"length": length, "max_new_tokens": max_new_tokens, "num_samples": num_samples}
    for name, value in numbers.items():
        if value is not None and not is_number(value, Integral):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
    if length is not None and max_new_tokens is not None:
        raise ValueError("length and max_new_tokens exclude each other: give one")
    if length is not None and length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if length is not None and length > limit:
        raise ValueError(f"length {length} is more than the model's {limit}")
    if num_samples < 0:
        raise ValueError(f"num_samples must be at least 0, got {num_samples}")
    if max_new_tokens is not None and max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    if max_new_tokens is not None and max_new_tokens > limit:  # before a list of so many is made
        raise ValueError(f"a text of {max_new_tokens} tokens is longer than the model's {limit}")


def _between(
    model: Any, front: list[int], back: list[int], total: int, max_new_tokens: int | None
) -> list[int]:
    """Prompt, MASK, suffix."""
    if max_new_tokens is not None:
        total = len(front) + max_new_tokens + len(back)
    size = model.config.vocab_size
    row: list[int] = canvas_of(model, total, prompt=front, suffix=back, vocab_size=size)[0].tolist()
    return row


def _infill_ids(model: Any, tokenizer: Any, template: str) -> list[int]:
    parts = SLOT.split(template)  # text, number, text, number, ..., text
    ids: list[int] = []
    for index, part in enumerate(parts):
        if index % 2 and int(part) > model.config.max_position_embeddings:
            limit = model.config.max_position_embeddings
            raise ValueError(f"a text of {part} tokens is longer than the model's {limit}")
        slot = [model.mask_token_id] * int(part) if index % 2 else encode(tokenizer, part)
        ids.extend(slot)
    if model.mask_token_id not in ids:
        raise ValueError(
            f"the infill text {template!r} leaves nothing open; write [n] where n tokens are to be "
            "filled in"
        )
    return ids


def pad_id_of(model: Any, eos: Any = None) -> int:
    """The id that stands in padding: the model's own, or else EOS, or else 0.

    Args:
        model: Of transformers; -1 is how some configs say that there is none.
        eos: What ends a text, where that is not what its config says.
    """
    config = model.config
    for token in (config.pad_token_id, eos, config.eos_token_id):
        first = token[0] if isinstance(token, list | tuple) else token
        if first is not None and first >= 0:
            return int(first)
    return 0
