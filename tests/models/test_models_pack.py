import copy
import pickle

import pytest
import torch

from sdtt.models.fold import fold
from sdtt.models.pack import can_pack, pack
from sdtt.sampling.autoregressive import sample_autoregressive
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import sample

CONDITIONED = {"conditioning": "constant", "cond_dim": 6}
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 0.06, torch.float16: 0.01}


def texts(count=3, length=10, seed=0):
    return torch.randint(11, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def packable(random_model):
    """A random model that this machine can pack."""

    def make(*arguments, dtype=torch.float32, **settings):
        model = random_model(*arguments, **settings).to(dtype)
        if not can_pack(model):
            pytest.skip(f"this torch has no kernels to pack {dtype}")
        return model

    return make


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_a_packed_model_has_the_law_of_the_other(packable, activation, dtype):
    model = packable(hidden_act=activation, dtype=dtype, scale=0.2)
    packed, error = pack(model), ROUNDING[dtype]
    assert packed is not model
    for rows in (None, torch.tensor([29, 4, 11, 4])):
        ours, due = (each.logits(each.hidden(texts(), rows)) for each in (packed, model))
        torch.testing.assert_close(ours, due, rtol=error, atol=error)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True}], ids=str)
def test_a_model_for_inference_is_folded_and_packed_and_has_the_same_law(packable, settings):
    model = packable(**CONDITIONED, **settings)
    fast = model.for_inference()
    assert (fast.is_packed, fast.config.conditioning) == (True, "none")
    ours, due = (each(texts()).logits[..., :10] for each in (fast, model))
    torch.testing.assert_close(ours, due, rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_a_conditioned_model_is_packed_without_folding_too(packable):
    model = packable(**CONDITIONED)
    ours, due = (each(texts()).logits[..., :10] for each in (pack(model), model))
    torch.testing.assert_close(ours, due, rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_one_row_of_a_packed_model_is_a_row_of_the_whole(packable):
    packed = pack(packable())
    whole = packed.hidden(texts())
    for row in (0, 17):
        one = packed.hidden(texts(), torch.tensor([row]))
        torch.testing.assert_close(one, whole[row : row + 1], rtol=2e-5, atol=2e-5)


def test_a_packed_model_writes_the_texts_of_the_other(packable):
    model = packable()
    canvas = canvas_of(model, 12, 4, prompt=[1, 2])
    assert torch.equal(sample(pack(model), canvas, steps=5), sample(model, canvas, steps=5))


def test_a_packed_causal_model_writes_the_texts_of_the_other(packable):
    model = packable("causal")
    how = {"num_samples": 4, "length": 12, "prompt": [1, 2], "seed": 3}
    ours, due = (sample_autoregressive(each, **how) for each in (pack(model), model))
    assert torch.equal(ours, due)


@torch.no_grad()
def test_a_packed_causal_model_generates_as_transformers_does_with_the_other(packable):
    model, x = packable("causal"), texts(2, 3) % 10
    how = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": -1, "pad_token_id": 0}
    ours, due = (
        each.generate(x, attention_mask=torch.ones_like(x), **how) for each in (pack(model), model)
    )
    assert torch.equal(ours, due)


def test_a_packed_model_shares_the_memory_of_what_is_not_packed(packable):
    model = packable()
    own = dict(model.named_parameters())
    packed = dict(pack(model).named_parameters())
    assert all(weight.data_ptr() == own[name].data_ptr() for name, weight in packed.items())
    assert "backbone.vocab_embed.embedding" in packed
    assert "backbone.blocks.0.mlp.0.weight" not in packed


def test_a_packed_model_knows_that_it_is(packable):
    model = packable()
    assert (pack(model).is_packed, model.is_packed) == (True, False)


def test_a_packed_model_is_in_evaluation_mode_and_the_other_stays_in_its_own(packable):
    model = packable(dropout=0.5).train()
    assert not any(module.training for module in pack(model).modules())
    assert all(module.training for module in model.modules())


def test_a_packed_model_is_not_saved(packable, tmp_path):
    with pytest.raises(ValueError, match="a packed model cannot be saved: save the model"):
        pack(packable()).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: packed.bfloat16(),
        lambda packed: packed.to(torch.float64),
        lambda packed: packed.to("meta"),
        pickle.dumps,
        lambda packed: packed.resize_token_embeddings(13),
        lambda packed: packed(texts(), labels=texts(seed=1) % 10),
    ],
    ids=["cast", "to", "move", "pickle", "resize", "train"],
)
def test_a_packed_model_is_for_sampling_only(packable, change):
    packed = pack(packable())
    with pytest.raises(ValueError, match="a packed model cannot be"):
        change(packed)
    assert packed.float() is packed  # what changes nothing is no change
    with torch.no_grad():
        assert packed(texts(), labels=texts(seed=1) % 10).loss.isfinite()


def test_what_is_done_to_a_packed_model_does_not_reach_the_other(packable):
    model = packable()
    model.for_inference().requires_grad_(False)
    assert all(weight.requires_grad for weight in model.parameters())


@torch.no_grad()
def test_a_copy_of_a_packed_model_outlives_it(packable):
    packed = pack(packable())
    expected = packed.scores(packed.hidden(texts()))
    twin = copy.deepcopy(packed)
    del packed
    torch.testing.assert_close(twin.scores(twin.hidden(texts())), expected)


def test_packing_leaves_the_model_as_it_was_and_trainable(packable):
    model = packable()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    pack(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    model(texts(), labels=texts(seed=1) % 10).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_model_that_no_kernel_takes_is_returned_as_it_is(random_model):
    model = random_model().double()
    assert not can_pack(model)
    assert pack(model) is model
    assert fold(model) is model
    assert model.for_inference() is model
