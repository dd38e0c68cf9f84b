import pytest
import torch
from transformers import AutoModelForMaskedLM

from sdtt.models.fold import fold

CONDITIONED = {"conditioning": "constant", "cond_dim": 6}


def texts(count=3, length=10, seed=0):
    return torch.randint(10, (count, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{}, {"tie_word_embeddings": True}, {"attention_bias": True}], ids=str
)
@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_a_folded_model_has_the_logits_of_the_other(random_model, kind, settings, dtype, error):
    model = random_model(kind, **CONDITIONED, **settings).to(dtype)
    folded = fold(model)
    ours, due = folded(texts()).logits[..., :10], model(texts()).logits[..., :10]
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, due, rtol=error, atol=error)


@torch.no_grad()
def test_folding_in_bfloat16_rounds_once(random_model):
    model = random_model(**CONDITIONED).bfloat16()
    folded, exact = fold(model), fold(model.float())
    weights = dict(exact.named_parameters())
    assert all(torch.equal(p, weights[name].bfloat16()) for name, p in folded.named_parameters())


def test_a_folded_model_says_that_it_is_not_conditioned(random_model):
    config = fold(random_model(**CONDITIONED)).config
    assert (config.conditioning, config.cond_dim, config.attention_bias) == ("none", None, True)


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_a_folded_model_comes_back_from_a_file(random_model, tied, tmp_path):
    folded = fold(random_model(**CONDITIONED, tie_word_embeddings=tied))
    folded.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert loaded.config.attention_bias
    assert loaded.config.conditioning == "none"
    torch.testing.assert_close(loaded(texts()).logits, folded(texts()).logits)


@pytest.mark.parametrize("tied", [False, True])
def test_a_folded_model_shares_the_weights_that_do_not_change(random_model, tied):
    model = random_model(**CONDITIONED, tie_word_embeddings=tied)
    own = dict(model.named_parameters(remove_duplicate=False))
    shared = {
        name.removeprefix("backbone.")
        for name, p in fold(model).named_parameters(remove_duplicate=False)
        if name in own and p.data_ptr() == own[name].data_ptr()
    }
    blocks = {f"blocks.{n}.{name}" for n in range(3) for name in ("attn_qkv", "mlp.0")}
    due = {f"{name}.weight" for name in (*blocks, "output_layer.linear")}
    assert shared == due | {"vocab_embed.embedding"}


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_a_model_without_conditioning_is_returned_as_it_is(random_model, kind):
    model = random_model(kind)
    assert fold(model) is model


@pytest.mark.parametrize("training", [True, False])
def test_a_folded_model_is_in_the_mode_of_the_other(random_model, training):
    model = random_model(**CONDITIONED).train(training)
    assert all(module.training == training for module in fold(model).modules())
    assert model.training == training


@pytest.mark.parametrize("trains", [True, False])
def test_a_folded_model_wants_gradients_where_the_other_does(random_model, trains):
    model = random_model(**CONDITIONED).requires_grad_(trains)
    assert {p.requires_grad for p in fold(model).parameters()} == {trains}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folding_changes_nothing_of_the_model(random_model, dtype):
    model = random_model(**CONDITIONED).to(dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    config = model.config.to_dict()
    folded = fold(model)
    folded.generation_config.steps = 3
    assert model.config.to_dict() == config
    assert model.generation_config.steps is None
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_folded_model_samples_by_the_generation_config_of_the_other(random_model):
    model = random_model(**CONDITIONED)
    model.generation_config.steps = 2
    assert fold(model).generation_config.steps == 2
