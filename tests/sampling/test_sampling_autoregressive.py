import pytest
import torch

from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.sampling.autoregressive import sample_autoregressive


def network(**settings):
    torch.manual_seed(0)
    shape = {"hidden_dim": 16, "n_blocks": 2, "n_heads": 2, "model_length": 12, "vocab_size": 9}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return CausalLM(CausalConfig(initializer_range=0.3, **shape | ids | settings)).eval()


def test_texts_have_exactly_their_length_even_where_eos_is_likely():
    model = network()
    with torch.no_grad():
        model.backbone.output_layer.linear.bias[0] = 5.0
    texts = sample_autoregressive(model, num_samples=5, length=12, batch_size=2)
    assert texts.shape == (5, 12)
    assert (texts == 0).double().mean().item() > 0.5


def test_mask_is_never_drawn():
    model = network()
    with torch.no_grad():
        model.backbone.output_layer.linear.bias[8] = 100.0
    assert (sample_autoregressive(model, num_samples=4, length=12) != 8).all()


def test_a_seed_gives_the_same_texts_again_and_another_seed_others():
    model = network()
    first, again, other = (
        sample_autoregressive(model, num_samples=4, length=12, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_torchs_generator_is_given_back_as_it_was():
    model = network()
    before = torch.get_rng_state()
    sample_autoregressive(model, num_samples=2, length=4, seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_first_tokens_have_the_law_of_the_model():
    model, n = network(), 2_000
    texts = sample_autoregressive(model, num_samples=n, length=1, batch_size=n)
    law = model(torch.zeros(1, 1).long()).logits[0, -1].softmax(-1)
    shares = torch.bincount(texts[:, 0], minlength=9) / n
    # 9 comparisons at 4 standard deviations
    assert ((shares - law).abs() <= 4 * (law * (1 - law) / n).sqrt()).all()


def test_a_model_in_training_samples_without_dropout():
    model = network(dropout=0.5)
    quiet = sample_autoregressive(model, num_samples=2, length=12)
    assert torch.equal(sample_autoregressive(model.train(), num_samples=2, length=12), quiet)
    assert model.training


def test_a_model_without_bos_is_refused():
    with pytest.raises(ValueError, match="CausalLM has no bos_token_id"):
        sample_autoregressive(network(bos_token_id=None), num_samples=1, length=2)
