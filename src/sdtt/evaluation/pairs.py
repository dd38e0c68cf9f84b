"""Pairs of a context and its continuation as ids: encoded, cut to a model, or in windows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sdtt.diffusion.denoiser import Denoiser
from sdtt.models.causal import CausalLM
from sdtt.sampling.canvas import encode


@dataclass(frozen=True)
class Pair:
    """A continuation to be scored, given a context.

    Attributes:
        context: Ids that stand before it.
        continuation: Ids to be scored.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Room:
    """What of a text one pass of a model takes.

    Attributes:
        tokens: Of a text, context and continuation together; None where there is no limit.
        context: Tokens that must stand before the first scored one.
    """

    tokens: int | None
    context: int


def room_of(model: Any) -> Room:
    """The room of a model.

    A denoiser takes its ``model_length``. Our ``CausalLM`` takes as much behind its BOS, which is
    no token of the text. Any other causal model scores nothing without a token before it; the last
    token of a text is a target only, hence one token more than it has positions.
    """
    config = getattr(model, "config", None)
    limit = getattr(config, "max_position_embeddings", None) or getattr(model, "length", None)
    if isinstance(model, Denoiser | CausalLM):
        return Room(limit, 0)
    return Room(None if limit is None else limit + 1, 1)


def encode_pair(tokenizer: Any, context: str, continuation: str) -> Pair:
    """The ids of the whole text, cut in two.

    White space at the end of the context goes to the continuation, as in the evaluation harness,
    since most tokenizers join a space to the word behind it. The ids are those of the whole text;
    the continuation begins with the first of them that is not the context's own. With byte-level
    BPE that is where it was cut; a tokenizer that joins letters over the cut scores the joined
    piece with the continuation. No special token is added.

    Args:
        tokenizer: The model's.
        context: Text that is given.
        continuation: Text that is scored, with the space that parts it from the context.

    Raises:
        ValueError: If the continuation has no token.
    """
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    own, whole = encode(tokenizer, stripped), encode(tokenizer, stripped + continuation)
    cut = 0
    while cut < min(len(own), len(whole)) and own[cut] == whole[cut]:
        cut += 1
    if cut == len(whole):
        raise ValueError(f"the continuation {continuation!r} has no token: nothing can be scored")
    return Pair(tuple(whole[:cut]), tuple(whole[cut:]))


def cut_left(pair: Pair, room: Room) -> Pair:
    """The pair, with so much taken from the left of its context that it fits.

    Raises:
        ValueError: If the continuation alone does not fit, or has no token, or its context lacks
            the tokens that the model needs.
    """
    _check(pair, room)
    size = len(pair.continuation)
    if room.tokens is None:
        return pair
    left = room.tokens - size
    if left < room.context:
        raise ValueError(
            f"a continuation of {size} tokens is longer than the model's "
            f"{room.tokens - room.context}; cut it into windows"
        )
    return Pair(pair.context[max(0, len(pair.context) - left) :], pair.continuation)


def windows(pair: Pair, room: Room) -> Iterator[Pair]:
    """Pairs that fit a model and whose log-probabilities sum to the pair's, by the chain rule.

    Each token of the continuation is scored once. The first window holds as much of the context as
    it can beside the continuation; later ones at least one token, the last one all that fit, as the
    rolling windows of the evaluation harness do.

    Args:
        pair: Of any length.
        room: Of the model.

    Raises:
        ValueError: If there is no continuation, or it lacks the context that the model needs.
    """
    _check(pair, room)
    if room.tokens is None or len(pair.continuation) + room.context <= room.tokens:
        yield cut_left(pair, room)
        return
    text = pair.context + pair.continuation
    begin, size = len(pair.context), room.tokens
    end = begin + size - max(room.context, min(1, begin))
    while begin < len(text):
        end = min(end, len(text))
        yield Pair(text[max(0, end - size) : begin], text[begin:end])
        begin, end = end, end + size - 1


def _check(pair: Pair, room: Room) -> None:
    if not pair.continuation:
        raise ValueError("a continuation needs a token: nothing can be scored")
    if len(pair.context) < room.context:
        raise ValueError("this causal model scores no first token: give a context, such as its BOS")
