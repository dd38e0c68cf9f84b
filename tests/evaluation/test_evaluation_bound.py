import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sdtt.evaluation.bound import text_bound
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.exact import TableDenoiser

PAIR = torch.tensor(
    [[0.35, 0.05, 0.05], [0.02, 0.4, 0.03], [0.04, 0.03, 0.03]], dtype=torch.float64
)


def chain():
    """Six tokens, three pairs that know nothing of each other."""
    law = PAIR[:, :, None, None, None, None] * PAIR[:, :, None, None] * PAIR
    return TableDenoiser(law / law.sum())


def drawn(denoiser, count):
    generator = torch.Generator().manual_seed(0)
    flat = torch.multinomial(denoiser.law.flatten(), count, replacement=True, generator=generator)
    size = denoiser.law.shape[0]
    places = size ** torch.arange(denoiser.length - 1, -1, -1)
    return flat[:, None] // places % size


class Blocks(torch.utils.data.Dataset):
    """Texts that know their bytes."""

    bytes_per_token = 3.5

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index]


def of_unigrams(chances):
    """A causal model of one law for every token: MASK, the last id, has no chance."""
    shape = {"model_length": 4, "hidden_dim": 16, "n_blocks": 1, "n_heads": 2, "bos_token_id": 0}
    model = CausalLM(CausalConfig(vocab_size=len(chances) + 1, **shape)).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([*chances, 0.5]).log())
    return model


def test_an_exact_denoisers_bound_is_the_cross_entropy_of_the_texts():
    exact = chain()
    texts = drawn(exact, 512)
    own = -exact.log_prob(texts) / exact.length
    found = text_bound(exact, texts, noise_samples=16)
    assert not found.exact
    assert found.noise_se < 0.02
    assert found.nats_per_token == pytest.approx(own.mean().item(), abs=3 * found.noise_se)


def test_the_error_over_blocks_is_that_of_their_own_bounds_where_there_is_no_noise():
    exact = chain()
    texts = drawn(exact, 64)
    own = -exact.log_prob(texts) / exact.length
    found = text_bound(exact, texts, noise_samples=64)
    assert found.exact
    assert found.noise_se == 0
    assert found.nats_per_token == pytest.approx(own.mean().item(), rel=1e-9)
    assert found.nats_per_token_se == pytest.approx(own.std().item() / 8, rel=1e-9)


def test_the_part_of_the_noise_is_the_spread_over_seeds_or_a_little_more():
    exact = chain()
    texts = drawn(exact, 32)
    found = [text_bound(exact, texts, noise_samples=4, seed=seed) for seed in range(24)]
    spread = torch.tensor([each.nats_per_token for each in found]).std().item()
    claimed = sum(each.noise_se for each in found) / len(found)
    assert 0.7 * spread < claimed < 2 * spread


def test_perplexity_and_bits_a_byte_follow_from_nats_with_their_errors():
    found = text_bound(chain(), Blocks(drawn(chain(), 32)))
    assert found.perplexity == pytest.approx(math.exp(found.nats_per_token))
    assert found.perplexity_se == pytest.approx(found.perplexity * found.nats_per_token_se)
    assert found.bits_per_byte == pytest.approx(found.nats_per_token / 3.5 / math.log(2))
    assert found.bits_per_byte_se == pytest.approx(found.nats_per_token_se / 3.5 / math.log(2))


def test_bits_a_byte_of_texts_of_unknown_bytes_are_not_said():
    found = text_bound(chain(), drawn(chain(), 8))
    assert (found.bits_per_byte, found.bits_per_byte_se) == (None, None)


def test_our_causal_model_scores_all_tokens_of_a_block():
    model = of_unigrams([0.1, 0.2, 0.3, 0.4])
    found = text_bound(model, torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]]))
    expected = [math.log(0.1 * 0.2 * 0.3 * 0.4), 4 * math.log(0.1)]
    assert found.nats_per_token == pytest.approx(-sum(expected) / 8, rel=1e-5)
    assert (found.tokens, found.exact) == (8, True)


def test_another_causal_model_scores_all_but_the_first_token():
    torch.manual_seed(0)
    shape = {"vocab_size": 11, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.4)).eval()
    texts = torch.randint(11, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=texts, labels=texts).loss.item()
    found = text_bound(model, texts)
    assert found.nats_per_token == pytest.approx(expected, rel=1e-5)
    assert found.tokens == 21


def test_fewer_blocks_are_spread_over_the_text():
    texts, told = drawn(chain(), 30), []
    few = text_bound(chain(), texts, max_blocks=3, advance=told.append)
    assert few == text_bound(chain(), texts[[0, 10, 20]])
    assert (few.blocks, sum(told)) == (3, 3)


def test_no_block_is_refused():
    with pytest.raises(ValueError, match="there is no text to bound"):
        text_bound(chain(), torch.zeros(0, 6, dtype=torch.int64))
