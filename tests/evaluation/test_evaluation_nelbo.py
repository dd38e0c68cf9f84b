import math

import pytest
import torch

from sdtt.diffusion.denoiser import Head
from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.models.exact import TableDenoiser
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM

MARGINAL = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
PAIR = torch.tensor(
    [[0.35, 0.05, 0.05], [0.02, 0.4, 0.03], [0.04, 0.03, 0.03]], dtype=torch.float64
)


def pairs_of_unigrams():
    """Two tokens that know nothing of each other."""
    return TableDenoiser(MARGINAL[:, None] * MARGINAL)


def drawn(denoiser, count):
    """Texts from the law of a table."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.multinomial(denoiser.law.flatten(), count, replacement=True, generator=generator)
    size = denoiser.law.shape[0]
    return torch.stack([flat // size, flat % size], 1)


class Blocks(torch.utils.data.Dataset):
    """Texts that know their bytes."""

    bytes_per_token = 3.5

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index]


def test_a_uniform_law_gives_each_token_the_log_of_their_number():
    uniform = TableDenoiser(torch.full((4, 4), 1 / 16, dtype=torch.float64))
    found = validation_nelbo(uniform, drawn(uniform, 4096), max_blocks=4096)
    assert found.nats_per_token == pytest.approx(math.log(4), abs=3 * found.standard_error)


@pytest.mark.parametrize("law", [MARGINAL[:, None] * MARGINAL, PAIR], ids=["unigram", "pair"])
def test_an_exact_denoisers_bound_is_the_entropy_of_the_texts(law):
    exact = TableDenoiser(law)
    found = validation_nelbo(exact, drawn(exact, 4096), max_blocks=4096)
    assert found.standard_error < 0.03
    assert found.nats_per_token == pytest.approx(exact.entropy / 2, abs=3 * found.standard_error)


def test_a_denoiser_that_ignores_the_other_token_has_a_higher_bound():
    exact = TableDenoiser(PAIR)
    blind = TableDenoiser(PAIR.sum(1)[:, None] * PAIR.sum(0))
    texts = drawn(exact, 4096)
    own, other = (validation_nelbo(each, texts, max_blocks=4096) for each in (exact, blind))
    mutual = (PAIR * (PAIR / (PAIR.sum(1)[:, None] * PAIR.sum(0))).log()).sum().item()
    assert other.nats_per_token - own.nats_per_token == pytest.approx(mutual / 2, rel=0.15)


def test_sixteen_times_the_texts_make_the_error_about_four_times_smaller():
    exact = pairs_of_unigrams()
    texts = drawn(exact, 8192)
    few, many = (validation_nelbo(exact, texts, max_blocks=n) for n in (512, 8192))
    assert 2 < few.standard_error / many.standard_error < 8


def test_the_error_is_the_spread_of_the_bound_over_seeds():
    exact = pairs_of_unigrams()
    texts = drawn(exact, 512)
    found = [validation_nelbo(exact, texts, seed=seed) for seed in range(20)]
    spread = torch.tensor([each.nats_per_token for each in found]).std().item()
    claimed = sum(each.standard_error for each in found) / len(found)
    # texts and times are the same or stratified from seed to seed, so it is no larger
    assert claimed / 3 < spread < claimed * 1.5


def test_a_last_batch_of_one_text_does_not_widen_the_error():
    exact = pairs_of_unigrams()
    texts = drawn(exact, 129)  # 64, 64 and 1 at a time

    def claimed(count):
        found = [validation_nelbo(exact, texts[:count], seed=seed) for seed in range(40)]
        return sum(each.standard_error for each in found) / len(found)

    assert claimed(129) == pytest.approx(claimed(128), rel=0.3)


def test_the_bound_is_a_function_of_its_seed():
    exact = pairs_of_unigrams()
    texts = drawn(exact, 128)
    one, again, other = (validation_nelbo(exact, texts, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_only_the_first_texts_are_scored():
    exact = pairs_of_unigrams()
    texts = drawn(exact, 300)
    assert validation_nelbo(exact, texts, max_blocks=100) == validation_nelbo(exact, texts[:100])


def test_bits_per_byte_are_nats_a_token_over_its_bytes_and_log_two():
    exact = pairs_of_unigrams()
    found = validation_nelbo(exact, Blocks(drawn(exact, 100)))
    assert found.bits_per_byte == pytest.approx(found.nats_per_token / 3.5 / math.log(2))


def test_bits_per_byte_of_texts_of_unknown_bytes_are_not_said():
    exact = pairs_of_unigrams()
    assert validation_nelbo(exact, drawn(exact, 100)).bits_per_byte is None


def test_the_tokens_scored_are_counted():
    exact = pairs_of_unigrams()
    assert validation_nelbo(exact, drawn(exact, 100)).tokens == 200


def test_a_model_in_training_mode_is_bounded_without_dropout_and_stays_in_it():
    shape = {"vocab_size": 5, "model_length": 2, "hidden_dim": 16, "n_blocks": 1, "n_heads": 2}
    model = MDLMForMaskedLM(MDLMConfig(**shape, dropout=0.5, initializer_range=0.4)).eval()
    texts = drawn(pairs_of_unigrams(), 100)
    expected = validation_nelbo(model, texts)
    model.train()
    assert validation_nelbo(model, texts) == expected
    assert model.training


def test_no_validation_text_is_refused():
    with pytest.raises(ValueError, match="there is no validation text"):
        validation_nelbo(pairs_of_unigrams(), torch.zeros(0, 2, dtype=torch.int64))


class OrderCounter:
    """A denoiser of a uniform law that writes down how many steps its visible tokens took."""

    mask_token_id, excluded_ids, follows_order = 4, (4,), True
    head = Head(torch.zeros(5, 1))

    def __init__(self):
        self.steps = []

    def hidden(self, z, rows=None, *, attention_mask=None, t=None, revealed=None):
        del attention_mask, t
        for when, visible in zip(revealed, z != 4, strict=True):
            self.steps.append((len(when[visible].unique()), int(visible.sum())))
        return torch.zeros(len(rows), 1)

    def logits(self, h):
        return h.expand(-1, 4)


def test_what_is_visible_was_revealed_in_the_given_steps():
    denoiser, texts = OrderCounter(), torch.zeros(200, 12, dtype=torch.long)
    validation_nelbo(denoiser, texts, steps=3)
    assert max(steps for steps, _ in denoiser.steps) == 3


def test_what_is_visible_was_revealed_one_by_one_if_nothing_is_said():
    denoiser, texts = OrderCounter(), torch.zeros(200, 12, dtype=torch.long)
    validation_nelbo(denoiser, texts)
    assert all(steps == visible for steps, visible in denoiser.steps)
    assert max(denoiser.steps) == (12, 12)


def test_fewer_than_one_step_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        validation_nelbo(OrderCounter(), torch.zeros(2, 12, dtype=torch.long), steps=0)
