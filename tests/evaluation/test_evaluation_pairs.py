from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sdtt.data.tokenizer import train_tokenizer
from sdtt.evaluation.likelihood import pair_likelihoods
from sdtt.evaluation.pairs import Pair, Room, encode_pair, room_of, windows
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM

SHAPE = {"vocab_size": 11, "model_length": 8, "hidden_dim": 16, "n_blocks": 1, "n_heads": 2}
LONG = Pair((1, 2, 3), tuple(range(4, 10)) * 3)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the small cat saw a red bird sing in the tree. " * 9], 300)


class Joining:
    """A tokenizer that makes one id of "ab", and one of each other letter."""

    def encode(self, text, **_):
        return [ord(letter) for letter in text.replace("ab", "*")]


def of_text(tokenizer, pair):
    return tokenizer.decode(pair.context), tokenizer.decode(pair.continuation)


def test_the_space_between_belongs_to_the_continuation_wherever_it_stood(tokenizer):
    before, behind = (
        encode_pair(tokenizer, *texts) for texts in (("the cat ", "saw"), ("the cat", " saw"))
    )
    assert before == behind
    assert of_text(tokenizer, before) == ("the cat", " saw")


def test_an_empty_context_leaves_the_whole_text_to_be_scored(tokenizer):
    assert of_text(tokenizer, encode_pair(tokenizer, "", "the cat")) == ("", "the cat")


def test_what_looks_like_a_special_token_is_text(tokenizer):
    pair = encode_pair(tokenizer, "the", " [MASK]")
    assert tokenizer.mask_token_id not in pair.continuation
    assert of_text(tokenizer, pair) == ("the", " [MASK]")


def test_a_token_over_the_border_is_scored_with_the_continuation():
    assert encode_pair(Joining(), "xa", "by") == Pair((ord("x"),), (ord("*"), ord("y")))


def test_a_continuation_without_a_token_is_refused(tokenizer):
    with pytest.raises(ValueError, match="the continuation '' has no token"):
        encode_pair(tokenizer, "the cat", "")


@pytest.mark.parametrize("room", [Room(8, 0), Room(8, 1), Room(5, 1), Room(40, 0), Room(None, 0)])
def test_windows_score_each_token_once_behind_what_stands_before_it(room):
    text = LONG.context + LONG.continuation
    place = len(LONG.context)
    for window in windows(LONG, room):
        assert room.tokens is None or len(window.context + window.continuation) <= room.tokens
        assert window.context
        assert text[place - len(window.context) : place] == window.context
        assert text[place : place + len(window.continuation)] == window.continuation
        place += len(window.continuation)
    assert place == len(text)


def test_the_last_window_is_full():
    last = list(windows(LONG, Room(8, 0)))[-1]
    assert len(last.context + last.continuation) == 8


def test_a_text_without_context_fills_its_first_window():
    first = next(windows(Pair((), LONG.continuation), Room(8, 0)))
    assert first == Pair((), LONG.continuation[:8])


def test_a_short_pair_is_one_window_and_keeps_its_context():
    assert list(windows(Pair((1, 2), (3,)), Room(8, 0))) == [Pair((1, 2), (3,))]


def longest(room):
    """A pair that fills a room."""
    return Pair((1,) * room.context, (1,) * (room.tokens - room.context))


@pytest.mark.parametrize("causal", [True, False])
def test_our_models_take_texts_of_their_length(causal):
    model = (
        CausalLM(CausalConfig(**SHAPE, bos_token_id=0))
        if causal
        else MDLMForMaskedLM(MDLMConfig(**SHAPE))
    )
    assert room_of(model) == Room(8, 0)
    assert pair_likelihoods(model, [longest(room_of(model))])[0].tokens == 8


def test_another_causal_model_takes_one_token_more_than_it_has_places_and_needs_one_before():
    torch.manual_seed(0)
    shape = {"vocab_size": 11, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()
    assert room_of(model) == Room(9, 1)
    assert pair_likelihoods(model, [longest(room_of(model))])[0].tokens == 8


def test_a_model_that_names_no_limit_has_none():
    assert room_of(SimpleNamespace(config=SimpleNamespace())) == Room(None, 1)
