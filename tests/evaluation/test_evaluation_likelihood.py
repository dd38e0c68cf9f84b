import math
from itertools import product

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sdtt.diffusion.denoiser import Head, exclude
from sdtt.evaluation.likelihood import pair_likelihoods
from sdtt.evaluation.mask_sets import Noise
from sdtt.evaluation.pairs import Pair
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.exact import TableDenoiser
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM

SHAPE = {"vocab_size": 11, "model_length": 8, "hidden_dim": 16, "n_blocks": 2, "n_heads": 2}
SHAPE |= {"bos_token_id": 0, "initializer_range": 0.4}
PAIRS = [
    Pair((3, 1, 4), (1, 5)),
    Pair((), (9, 2, 6)),
    Pair((5,), (3, 5, 8, 9, 7, 9)),
    Pair((2, 7, 1, 8, 2), (8,)),
    Pair((3,), (1, 4, 1, 5)),
]
DRAWN = Noise(samples=8, exact_tokens=0)


def mdlm():
    torch.manual_seed(0)
    return MDLMForMaskedLM(MDLMConfig(**SHAPE)).eval()


def ours():
    torch.manual_seed(0)
    return CausalLM(CausalConfig(**SHAPE)).eval()


def gpt2():
    torch.manual_seed(0)
    shape = {"vocab_size": 11, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**shape, bos_token_id=0, eos_token_id=0, initializer_range=0.4)
    return GPT2LMHeadModel(config).eval()


def table(vocabulary, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    law = torch.rand([vocabulary] * length, generator=generator, dtype=torch.float64) ** 2 + 0.02
    return TableDenoiser(law / law.sum())


class Blind:
    """One law for every position of every text: the bias of its head. MASK is the last id."""

    def __init__(self, chances):
        self.bias = torch.tensor([*chances, 1.0], dtype=torch.float64).log()
        self.mask_token_id = len(chances)
        self.excluded_ids = (len(chances),)

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):  # noqa: ARG002
        return torch.zeros(len(rows), 1, dtype=torch.float64)

    @property
    def head(self):
        return Head(torch.zeros(len(self.bias), 1, dtype=torch.float64), self.bias)

    def logits(self, h):
        return exclude(self.head.scores(h), self.excluded_ids)


def every_pair(vocabulary, length, given):
    texts = product(range(vocabulary), repeat=length)
    return [Pair(text[:given], text[given:]) for text in texts]


def losses(model, pairs, **options):
    return [each.nll for each in pair_likelihoods(model, pairs, **options)]


# The law of a denoiser


@pytest.mark.parametrize("given", [0, 1, 3])
def test_an_exact_denoiser_by_all_masks_gives_minus_log_p_of_every_continuation(given):
    exact = table(3, 4)
    pairs = every_pair(3, 4, given)
    hidden = [(*pair.context, *[exact.mask_token_id] * (4 - given)) for pair in pairs]
    whole = torch.tensor([(*pair.context, *pair.continuation) for pair in pairs])
    expected = exact.log_prob(torch.tensor(hidden)) - exact.log_prob(whole)
    found = losses(exact, pairs, noise=Noise(exact_tokens=4))
    assert found == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.fixture(scope="module")
def draws():
    """What 48 seeds say of one pair, with 16 sets of masks each."""
    model, pair = mdlm(), PAIRS[2]
    return [
        pair_likelihoods(model, [pair], noise=Noise(16, exact_tokens=0, seed=seed), greedy=False)[0]
        for seed in range(48)
    ]


def test_drawn_masks_give_the_bound_of_all_masks_in_the_mean(draws):
    exact = losses(mdlm(), PAIRS[2:3], noise=Noise(exact_tokens=6))[0]
    values = torch.tensor([each.nll for each in draws])
    error = values.std().item() / math.sqrt(len(values))
    assert error < 0.015 * exact
    assert values.mean().item() == pytest.approx(exact, abs=3 * error)


def test_the_error_of_drawn_masks_is_their_spread_over_seeds(draws):
    spread = torch.tensor([each.nll for each in draws]).std().item()
    claimed = math.sqrt(sum(each.noise_se**2 for each in draws) / len(draws))
    assert 0.8 * spread < claimed < 1.4 * spread


def test_a_denoiser_that_ignores_its_input_adds_up_its_law_under_any_masks():
    blind = Blind([0.5, 0.25, 0.25])
    pair = Pair((2, 2, 1), (1, 1, 1))  # of equal tokens every set gives the same
    for noise in (Noise(exact_tokens=3), Noise(samples=2, exact_tokens=0)):
        found = pair_likelihoods(blind, [pair], noise=noise)[0]
        assert found.nll == pytest.approx(3 * math.log(4), rel=1e-12)
        assert found.noise_se == pytest.approx(0, abs=1e-12)


def test_the_context_is_visible_in_every_pass():
    # the second token copies the first: unseen, it would cost log 2
    law = torch.tensor([[0.4999, 0.0001], [0.0001, 0.4999]], dtype=torch.float64)
    for noise in (Noise(exact_tokens=1), DRAWN):
        found = losses(TableDenoiser(law), [Pair((0,), (0,))], noise=noise)[0]
        assert found == pytest.approx(-math.log(0.9998), rel=1e-6)


def test_short_continuations_are_exact_where_that_takes_no_more_passes_than_draws():
    found = pair_likelihoods(mdlm(), PAIRS, noise=Noise(samples=8))
    assert [each.exact for each in found] == [True, True, False, True, False]
    assert [each.noise_se > 0 for each in found] == [False, False, True, False, True]


def test_a_single_draw_has_no_error():
    found = pair_likelihoods(mdlm(), PAIRS[2:3], noise=Noise(samples=1, exact_tokens=0))[0]
    assert math.isnan(found.noise_se)


def test_a_continuation_is_greedy_if_each_token_is_the_likeliest_with_all_of_them_masked():
    exact = table(3, 4)
    for given in (0, 2):
        pairs = every_pair(3, 4, given)
        found = pair_likelihoods(exact, pairs, noise=Noise(2, exact_tokens=0))
        for pair, each in zip(pairs, found, strict=True):
            z = torch.tensor([[*pair.context, *[exact.mask_token_id] * (4 - given)]])
            likeliest = exact.logits(exact.hidden(z)).argmax(-1)[given:].tolist()
            assert each.greedy == (list(pair.continuation) == likeliest)


def test_all_masks_and_drawn_masks_agree_on_what_is_greedy():
    pairs, model = every_pair(3, 3, 1), mdlm()
    every = pair_likelihoods(model, pairs, noise=Noise(exact_tokens=2))
    drawn = pair_likelihoods(model, pairs, noise=DRAWN)
    assert [each.greedy for each in every] == [each.greedy for each in drawn]


# Causal models


@torch.no_grad()
def by_prefixes(model, pair):
    """-log p and greedy from a pass of its own for each token."""
    front = (0,) if isinstance(model, CausalLM) else ()
    text = [*front, *pair.context, *pair.continuation]
    total, greedy = 0.0, True
    for place in range(len(text) - len(pair.continuation), len(text)):
        law = model(input_ids=torch.tensor([text[:place]])).logits[0, -1].double().log_softmax(-1)
        total -= law[text[place]].item()
        greedy &= bool(law.argmax() == text[place])
    return total, greedy


@pytest.mark.parametrize("causal", [ours, gpt2])
def test_a_causal_model_gives_the_sum_over_passes_for_each_prefix(causal):
    model = causal()
    pairs = [pair for pair in PAIRS if pair.context or causal is ours]
    pairs += [Pair((token,), (other,)) for token in range(4) for other in range(10)]
    for pair, found in zip(pairs, pair_likelihoods(model, pairs), strict=True):
        nll, greedy = by_prefixes(model, pair)
        assert found.nll == pytest.approx(nll, abs=1e-4)
        assert (found.greedy, found.exact, found.noise_se) == (greedy, True, 0.0)


def test_a_causal_model_of_others_scores_no_first_token():
    with pytest.raises(ValueError, match="pair 1: this causal model scores no first token"):
        pair_likelihoods(gpt2(), PAIRS)


# Batches


@pytest.mark.parametrize("model", [mdlm, ours])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_pair_gets_in_a_padded_batch_what_it_gets_alone(model, batch_size):
    model = model()
    together = pair_likelihoods(model, PAIRS, noise=DRAWN, batch_size=batch_size)
    for pair, found in zip(PAIRS, together, strict=True):
        alone = pair_likelihoods(model, [pair], noise=DRAWN)[0]
        assert found.nll == pytest.approx(alone.nll, abs=1e-4)
        assert found.greedy == alone.greedy


def test_masks_do_not_depend_on_the_order_of_the_pairs():
    model = mdlm()
    forth = losses(model, PAIRS, noise=DRAWN)
    back = losses(model, PAIRS[::-1], noise=DRAWN)
    assert forth == pytest.approx(back[::-1], abs=1e-4)


def test_other_seeds_draw_other_masks():
    one, other = (losses(mdlm(), PAIRS[2:3], noise=Noise(8, 0, seed=seed)) for seed in (0, 1))
    assert abs(one[0] - other[0]) > 1e-3


def test_dropout_is_off_and_the_mode_comes_back():
    torch.manual_seed(0)
    model = MDLMForMaskedLM(MDLMConfig(**SHAPE, dropout=0.5)).eval()
    expected = losses(model, PAIRS, noise=DRAWN)
    model.train()
    assert losses(model, PAIRS, noise=DRAWN) == expected
    assert model.training


def test_progress_counts_every_pair_once():
    for model in (mdlm(), ours()):
        told = []
        pair_likelihoods(model, PAIRS, noise=DRAWN, batch_size=2, advance=told.append)
        assert sum(told) == len(PAIRS)


# What does not fit


def test_a_context_that_is_too_long_loses_its_left_end_and_that_is_counted():
    long, short = Pair((9, 9, 9, 1, 2, 3, 4, 5), (6, 7, 8)), Pair((1, 2, 3, 4, 5), (6, 7, 8))
    for model in (mdlm(), ours()):
        cut, whole = pair_likelihoods(model, [long, short], noise=Noise(exact_tokens=3))
        assert (cut.cut, whole.cut) == (3, 0)
        assert cut.nll == pytest.approx(whole.nll, abs=1e-4)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (Pair((1,), tuple(range(9))), "pair 1: a continuation of 9 tokens is longer than"),
        (Pair((1,), ()), "pair 1: a continuation needs a token"),
        (Pair((10,), (1,)), "pair 1 has the id 10, which is no token"),
        (Pair((1,), (11,)), "pair 1 has the id 11, which is no token"),
    ],
)
def test_a_pair_that_cannot_be_scored_is_refused_by_its_number(pair, message):
    with pytest.raises(ValueError, match=message):
        pair_likelihoods(mdlm(), [PAIRS[0], pair])


@pytest.mark.parametrize("model", [mdlm, ours])
def test_a_loss_that_is_no_number_is_named(model):
    model = model()
    with torch.no_grad():
        model.head.weight[3] = math.nan
    with pytest.raises(ValueError, match="the model gives pair 0 a loss of nan"):
        pair_likelihoods(model, PAIRS[:1])


def test_an_odd_number_of_draws_is_refused():
    with pytest.raises(ValueError, match="must be 1 or an even number, got 3"):
        Noise(samples=3)
