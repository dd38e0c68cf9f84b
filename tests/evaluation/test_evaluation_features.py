import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sdtt.evaluation.features import last_hidden
from sdtt.models.causal import CausalConfig, CausalLM

TEXTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7, 9], [3]]


def ours():
    torch.manual_seed(0)
    shape = {"vocab_size": 11, "model_length": 8, "hidden_dim": 16, "n_blocks": 2, "n_heads": 2}
    return CausalLM(CausalConfig(**shape, bos_token_id=0, initializer_range=0.4)).eval()


def gpt2():
    torch.manual_seed(0)
    shape = {"vocab_size": 11, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, initializer_range=0.4)).eval()


@torch.no_grad()
def test_features_of_another_model_are_its_last_hidden_state_at_the_last_token():
    model = gpt2()
    for text, found in zip(TEXTS, last_hidden(model, TEXTS), strict=True):
        states = model(torch.tensor([text]), output_hidden_states=True).hidden_states
        assert found == pytest.approx(states[-1][0, -1].numpy(), abs=1e-5)


@torch.no_grad()
def test_features_of_our_model_are_what_its_head_takes_at_the_last_token_behind_bos():
    model = ours()
    for text, found in zip(TEXTS, last_hidden(model, TEXTS), strict=True):
        logits = model(torch.tensor([[0, *text]])).logits[0, -1, :-1]  # MASK has none
        by_head = model.head.weight[:-1] @ torch.from_numpy(found) + model.head.bias[:-1]
        assert by_head.numpy() == pytest.approx(logits.numpy(), abs=1e-5)


@pytest.mark.parametrize("make", [ours, gpt2])
def test_a_text_has_the_features_beside_longer_ones_that_it_has_alone(make):
    model = make()
    together = last_hidden(model, TEXTS)
    for text, found in zip(TEXTS, together, strict=True):
        assert found == pytest.approx(last_hidden(model, [text])[0], abs=1e-5)


def test_only_the_first_tokens_are_read_where_they_are_bounded():
    model = gpt2()
    expected = last_hidden(model, [text[:2] for text in TEXTS])
    assert last_hidden(model, TEXTS, max_tokens=2) == pytest.approx(expected, abs=1e-6)


def test_each_text_is_told_of_once():
    told = []
    last_hidden(gpt2(), TEXTS, batch_size=3, advance=told.append)
    assert told == [3, 1]


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="there are no samples"):
        last_hidden(gpt2(), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([], "sample 1 is empty"),
        ([1] * 9, "sample 1 has 9 tokens, more than the 8 of the model; give max_tokens=8"),
        ([1, 11], "sample 1 has the id 11, the model's vocabulary only 11"),
    ],
)
def test_a_text_that_the_model_cannot_read_is_refused_by_its_number(text, message):
    with pytest.raises(ValueError, match=message):
        last_hidden(gpt2(), [[1, 2], text])


def test_a_hidden_state_that_is_no_number_is_named_by_its_sample():
    model = gpt2()
    with torch.no_grad():
        model.transformer.wte.weight[7] = math.nan
    with pytest.raises(ValueError, match="sample 2 a hidden state that is not finite"):
        last_hidden(model, TEXTS)
