import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from sdtt.models.causal import CausalConfig, CausalLM

SHAPE = {"vocab_size": 11, "hidden_dim": 16, "n_blocks": 2, "n_heads": 2, "model_length": 12}


@pytest.fixture(params=[{}, {"conditioning": "constant", "cond_dim": 6}])
def model(request):
    config = CausalConfig(**SHAPE | request.param, bos_token_id=0, eos_token_id=0)
    model = CausalLM(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name), 0.3, generator=generator)
    return model


def texts(count=3, length=10, seed=0):
    return torch.randint(10, (count, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_later_token_never_changes_an_earlier_law(model, attention):
    model.set_attn_implementation(attention)
    x = texts()
    before = model(x).logits
    for position in range(1, 10):
        other = x.clone()
        other[:, position] = (x[:, position] + 1) % 10
        after = model(other).logits
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-5)
        moved = (after[:, position:, :10] - before[:, position:, :10]).abs().amax((1, 2))
        assert (moved > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_cache_changes_no_law(model, attention):
    model.set_attn_implementation(attention)
    x, cache, parts = texts(), None, []
    for part in x.split([4, 1, 3, 2], dim=1):
        output = model(part, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), model(x).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_generating_greedily_is_taking_the_argmax_again_and_again(model):
    x = texts(2, 3)
    real, how = torch.ones_like(x), {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    generated = model.generate(x, attention_mask=real, max_new_tokens=6, **how)
    for _ in range(6):
        x = torch.cat([x, model(x).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(generated, x)


@torch.no_grad()
def test_a_padded_text_has_the_laws_that_it_has_alone(model):
    x, real = texts(2), torch.ones(2, 10, dtype=torch.long)
    real[1, 6:] = 0
    together = model(x, attention_mask=real).logits
    torch.testing.assert_close(together[1, :6], model(x[1:, :6]).logits[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_only_the_asked_positions_get_logits(model):
    last = model(texts(), logits_to_keep=2).logits
    torch.testing.assert_close(last, model(texts()).logits[:, -2:])


@torch.no_grad()
def test_mask_has_probability_zero(model):
    assert (model(texts()).logits.softmax(-1)[..., 10] == 0).all()


def test_labels_give_the_mean_cross_entropy_of_the_next_token(model):
    x, labels = texts(), texts()
    labels[:, 4] = -100
    output = model(x, labels=labels)
    due = functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, due)


@torch.no_grad()
def test_an_objective_gets_the_rows_that_it_asked_for(model):
    rows = torch.tensor([3, 17])
    loss = model(texts(), rows=rows, objective=lambda h, head: head.scores(h)[:, :10].sum()).loss
    torch.testing.assert_close(loss, model(texts()).logits.flatten(0, 1)[rows, :10].sum())


@torch.no_grad()
def test_a_saved_model_comes_back_bitwise_through_the_auto_class(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is CausalLM
    weights, expected = loaded.state_dict(), model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    # kernels may depend on how memory is aligned
    torch.testing.assert_close(loaded(texts()).logits, model(texts()).logits)


def test_more_tokens_than_bos_and_a_text_are_refused(random_model):
    model = random_model("causal")
    assert model(torch.zeros(1, 13, dtype=torch.long)).logits.shape == (1, 13, 11)
    with pytest.raises(ValueError, match="14 tokens are more than the model's 13: BOS and a text"):
        model(torch.zeros(1, 14, dtype=torch.long))
    packed = torch.arange(13).repeat(2)[None]  # two texts in a row, each at its own positions
    assert model(torch.zeros(1, 26, dtype=torch.long), position_ids=packed).logits.isfinite().any()
