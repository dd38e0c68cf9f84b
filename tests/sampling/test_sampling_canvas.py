import re
from types import SimpleNamespace

import pytest
import torch
from sampling.laws import OfPlace

from sdtt.data.tokenizer import train_tokenizer
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.sampling.canvas import (
    Canvas,
    canvas_of,
    check_ids,
    encode,
    encoded_canvas,
    force,
    pad_id_of,
    ragged_canvas,
)

THREE = OfPlace([[0.5, 0.3, 0.2]])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The cat sat on the mat. The dog sat on the cat. "] * 9, 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    shape = {"hidden_dim": 8, "n_blocks": 1, "n_heads": 2, "model_length": 24}
    ids = {"mask_token_id": tokenizer.mask_token_id, "pad_token_id": 1}
    return MDLMForMaskedLM(MDLMConfig(vocab_size=len(tokenizer), **shape, **ids))


def test_a_canvas_is_prompt_then_mask_then_suffix():
    canvas = canvas_of(THREE, 5, 2, prompt=[0, 1], suffix=[2])
    assert canvas.tolist() == [[0, 1, 3, 3, 2]] * 2


def test_a_prompt_may_fill_the_canvas():
    assert canvas_of(THREE, 2, prompt=[0, 1]).tolist() == [[0, 1]]


def test_a_prompt_of_more_tokens_than_the_canvas_is_refused():
    with pytest.raises(
        ValueError, match=r"the prompt has 3 tokens, more than the text's 2; shorten"
    ):
        canvas_of(THREE, 2, prompt=[0, 1, 2])


def test_no_samples_are_a_canvas_of_no_rows():
    assert canvas_of(THREE, 5, 0).shape == (0, 5)


def test_mask_is_an_id_of_a_prompt_only_where_it_is_allowed():
    check_ids(THREE, [0, 3], 4, allow_mask=True)
    with pytest.raises(ValueError, match=r"the unknown id 3; .* not MASK \(3\)"):
        check_ids(THREE, [0, 3], 4)


def test_ragged_texts_are_padded_on_the_right():
    canvas = ragged_canvas([[1, 2, 2], [], [1]], pad_id=0)
    assert canvas.ids.tolist() == [[1, 2, 2], [0, 0, 0], [1, 0, 0]]
    assert canvas.attention_mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]


def test_texts_of_one_length_need_no_mask():
    assert ragged_canvas([[1, 2], [0, 0]], pad_id=0).attention_mask is None


def test_no_texts_are_a_canvas_of_no_rows():
    assert ragged_canvas([], pad_id=0).ids.shape[0] == 0


def test_repeated_texts_stand_one_after_the_other():
    canvas = ragged_canvas([[1, 2], [3]], pad_id=0).repeat(2)
    assert canvas.ids.tolist() == [[1, 2], [1, 2], [3, 0], [3, 0]]
    assert canvas.attention_mask.sum(1).tolist() == [2, 2, 1, 1]


def test_some_rows_take_their_mask_along():
    rows = ragged_canvas([[1, 2], [3], [4]], pad_id=0).rows(slice(1, 2))
    assert rows.ids.tolist() == [[3, 0]]
    assert rows.attention_mask.tolist() == [[True, False]]


def test_forced_tokens_stand_at_their_places_and_negative_ones_count_from_each_end():
    canvas = force(THREE, ragged_canvas([[3, 3, 3, 3], [3, 3]], pad_id=0), {0: 1, -1: 2})
    assert canvas.ids.tolist() == [[1, 3, 3, 2], [1, 2, 0, 0]]


def test_forcing_leaves_the_given_canvas_as_it_is():
    canvas = Canvas(torch.full((2, 3), 3))
    force(THREE, canvas, {1: 0})
    assert (canvas.ids == 3).all()


@pytest.mark.parametrize("place", [2, -3, 7])
def test_a_token_forced_outside_of_a_text_is_refused(place):
    canvas = ragged_canvas([[3, 3, 3], [3, 3]], pad_id=0)
    says = f"a token is forced at place {place}, outside of a text of 2 tokens"
    with pytest.raises(ValueError, match=says):
        force(THREE, canvas, {place: 1})


def test_a_token_is_not_forced_over_another():
    canvas = Canvas(torch.tensor([[0, 3, 3]]))
    assert force(THREE, canvas, {0: 0}).ids.tolist() == [[0, 3, 3]]
    with pytest.raises(ValueError, match=r"place 0 .* holds the token 0 already .* forced to be 1"):
        force(THREE, canvas, {0: 1})
    with pytest.raises(ValueError, match=r"place -1 .* holds the token 1 already"):
        force(THREE, canvas, {2: 1, -1: 2})


def test_a_forced_id_that_no_text_has_is_refused():
    with pytest.raises(ValueError, match="forced is the unknown id 7"):
        force(THREE, Canvas(torch.full((1, 3), 3)), {0: 7}, 4)


def test_an_infill_template_has_so_many_masks_in_each_slot(model, tokenizer):
    canvas = encoded_canvas(model, tokenizer, infill="The cat[3] on[2]")
    mask = [tokenizer.mask_token_id]
    due = encode(tokenizer, "The cat") + mask * 3 + encode(tokenizer, " on") + mask * 2
    assert canvas.ids.tolist() == [due]


def test_what_looks_like_a_slot_without_a_number_is_text(model, tokenizer):
    canvas = encoded_canvas(model, tokenizer, infill="[a][2]")
    assert canvas.ids.tolist() == [[*encode(tokenizer, "[a]"), *[tokenizer.mask_token_id] * 2]]


@pytest.mark.parametrize(
    "setting", [{"prompt": "The"}, {"suffix": "mat"}, {"length": 9}, {"max_new_tokens": 3}]
)
def test_an_infill_template_goes_with_no_prompt_and_no_length(model, tokenizer, setting):
    with pytest.raises(ValueError, match="infill holds the whole text"):
        encoded_canvas(model, tokenizer, infill="a[2]", **setting)


@pytest.mark.parametrize("template", ["", "the mat", "the[0]"])
def test_an_infill_template_without_a_slot_is_refused(model, tokenizer, template):
    with pytest.raises(
        ValueError, match=rf"{re.escape(repr(template))} leaves nothing open; .*n\]"
    ):
        encoded_canvas(model, tokenizer, infill=template)


def test_an_infill_template_longer_than_the_model_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="a text of 25 tokens is longer than the model's 24"):
        encoded_canvas(model, tokenizer, infill="[25]")


def test_an_infill_template_of_another_tokenizer_is_refused(model):
    other = train_tokenizer(["The cat sat on the mat. The dog sat on the cat. "] * 9, 300)
    other.add_tokens(["zebra"])
    with pytest.raises(ValueError, match="encode it with the model's own tokenizer"):
        encoded_canvas(model, other, infill="zebra[2]")


def test_max_new_tokens_stand_between_prompt_and_suffix(model, tokenizer):
    canvas = encoded_canvas(model, tokenizer, prompt="The cat", suffix=" mat", max_new_tokens=3)
    middle = [tokenizer.mask_token_id] * 3
    due = encode(tokenizer, "The cat") + middle + encode(tokenizer, " mat")
    assert canvas.ids.tolist() == [due]


def test_several_prompts_of_max_new_tokens_make_a_ragged_canvas(model, tokenizer):
    prompts = ["The", "The cat sat on the mat."]
    canvas = encoded_canvas(model, tokenizer, prompt=prompts, max_new_tokens=3, num_samples=2)
    sizes = [len(encode(tokenizer, prompt)) + 3 for prompt in prompts]
    assert canvas.attention_mask.sum(1).tolist() == [sizes[0]] * 2 + [sizes[1]] * 2
    assert (canvas.ids == tokenizer.mask_token_id).sum(1).tolist() == [3] * 4
    assert (canvas.ids[~canvas.attention_mask] == 1).all()


def test_several_prompts_of_one_length_fill_it(model, tokenizer):
    canvas = encoded_canvas(model, tokenizer, prompt=["The", "The cat sat"], length=12)
    assert canvas.ids.shape == (2, 12)
    assert canvas.attention_mask is None


def test_a_text_has_the_models_length_by_default(model, tokenizer):
    assert encoded_canvas(model, tokenizer).ids.shape == (1, 24)


def test_forced_tokens_stand_in_the_encoded_canvas(model, tokenizer):
    canvas = encoded_canvas(model, tokenizer, length=6, forced={-1: 5})
    assert canvas.ids.tolist() == [[tokenizer.mask_token_id] * 5 + [5]]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": 9, "max_new_tokens": 3}, "length and max_new_tokens exclude each other"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"length": 25}, "length 25 is more than the model's 24"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1"),
        ({"max_new_tokens": 25}, "a text of 25 tokens is longer than the model's 24"),
        ({"max_new_tokens": 10**13}, "a text of 10000000000000 tokens is longer than the model's"),
        ({"length": 2, "prompt": "The cat sat on the mat."}, "more than the text's 2; shorten it"),
        ({"forced": {0: 10**6}}, "unknown id 1000000"),
        ({"forced": {99: 5}}, "forced at place 99, outside of a text of 24"),
    ],
)
def test_a_canvas_that_cannot_be_is_refused(model, tokenizer, settings, says):
    with pytest.raises(ValueError, match=says):
        encoded_canvas(model, tokenizer, **settings)


@pytest.mark.parametrize(
    ("pad", "eos", "due"),
    [(4, 7, 4), (None, 7, 7), (None, [8, 9], 8), (None, None, 0), (0, 7, 0), (-1, 7, 7)],
)
def test_padding_is_the_models_own_or_eos_or_zero(pad, eos, due):
    config = SimpleNamespace(pad_token_id=pad, eos_token_id=eos)
    assert pad_id_of(SimpleNamespace(config=config)) == due
