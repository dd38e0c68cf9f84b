import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sdtt.evaluation.judge import judge_perplexity
from sdtt.evaluation.scoring import token_nll
from sdtt.models.causal import CausalConfig, CausalLM

TEXTS = [[3, 1, 4, 1, 5, 9], [2, 6], [5, 3, 5, 8, 9, 7, 9], [0, 4, 6, 2]]


def our_judge(**shape):
    torch.manual_seed(0)
    default = {"vocab_size": 11, "model_length": 8, "hidden_dim": 16, "n_blocks": 1, "n_heads": 2}
    default |= {"bos_token_id": 0, "initializer_range": 0.4}
    return CausalLM(CausalConfig(**default | shape)).eval()


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=11,
        n_positions=8,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.4,
    )
    return GPT2LMHeadModel(config).eval()


JUDGES = {"ours": our_judge, "gpt2": gpt2}


@pytest.fixture(params=list(JUDGES))
def judge(request):
    return JUDGES[request.param]()


def of_unigrams(chances):
    """A judge that predicts every token by the same law: MASK, the last id, has no chance."""
    model = our_judge(vocab_size=len(chances) + 1)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([*chances, 0.5]).log())
    return model


@torch.no_grad()
def by_hand(judge, text, bos):
    """-log p of each token from a pass of its own for each prefix."""
    ids = [0, *text] if bos else text
    return [
        -judge(input_ids=torch.tensor([ids[:i]]))
        .logits[0, -1]
        .double()
        .log_softmax(-1)[ids[i]]
        .item()
        for i in range(1, len(ids))
    ]


# The law


def test_the_perplexity_under_a_unigram_law_is_the_inverse_of_its_chances():
    judge = of_unigrams([0.1, 0.2, 0.3, 0.4])
    found = judge_perplexity(judge, [[0, 1, 2, 3]])
    assert found.perplexity == pytest.approx((0.1 * 0.2 * 0.3 * 0.4) ** (-1 / 4), rel=1e-5)


def test_texts_count_alike_however_long_they_are():
    judge = of_unigrams([0.1, 0.9])
    found = judge_perplexity(judge, [[0], [1, 1, 1]])
    assert found.perplexity == pytest.approx((0.1 * 0.9) ** (-1 / 2), rel=1e-5)


def test_the_error_is_the_standard_error_of_the_mean_nll_over_texts():
    judge = of_unigrams([0.1, 0.9])
    expected = abs(math.log(0.1) - math.log(0.9)) / 2  # of two values: half their distance
    assert judge_perplexity(judge, [[0], [1, 1, 1]]).nll_se == pytest.approx(expected, rel=1e-5)


def test_the_nll_of_every_token_is_that_of_a_pass_over_its_own_prefix(judge):
    ours = isinstance(judge, CausalLM)
    for text, values in zip(TEXTS, token_nll(judge, TEXTS, prepend_bos=ours), strict=True):
        assert values == pytest.approx(by_hand(judge, text, ours), abs=1e-5)


def test_the_perplexity_is_exp_of_the_mean_over_texts_of_their_mean_nll(judge):
    ours = isinstance(judge, CausalLM)
    means = [
        float(sum(values)) / len(values) for values in (by_hand(judge, t, ours) for t in TEXTS)
    ]
    expected = math.exp(sum(means) / len(means))
    assert judge_perplexity(judge, TEXTS).perplexity == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "tokens", "bos"), [("ours", 19, True), ("gpt2", 15, False)])
def test_our_judge_scores_the_first_token_and_another_takes_it_as_context(name, tokens, bos):
    found = judge_perplexity(JUDGES[name](), TEXTS)
    assert (found.tokens, found.prepended_bos) == (tokens, bos)


def test_our_judge_can_judge_a_single_token():
    judge = of_unigrams([0.25, 0.75])
    assert judge_perplexity(judge, [[0]]).perplexity == pytest.approx(4, rel=1e-5)


def test_the_error_of_the_perplexity_is_that_of_its_logarithm_times_itself():
    judge = of_unigrams([0.1, 0.9])
    # nll: (log 10 + log 10/9) / 2, and half their distance
    expected = math.sqrt(10 * 10 / 9) * math.log(9) / 2
    assert judge_perplexity(judge, [[0], [1]]).perplexity_se == pytest.approx(expected, rel=1e-5)


def test_the_nll_of_each_text_is_given():
    found = judge_perplexity(of_unigrams([0.1, 0.9]), [[0], [1, 1, 1]])
    assert found.nll_by_text == pytest.approx([-math.log(0.1), -math.log(0.9)], rel=1e-5)


def test_bits_per_character_are_all_bits_over_all_characters():
    judge = of_unigrams([0.25, 0.5, 0.25])
    found = judge_perplexity(judge, [[0, 1], [1]], characters=[4, 3])
    assert found.bits_per_character == pytest.approx((2 + 1 + 1) / 7, rel=1e-5)


def test_bits_per_character_are_unknown_where_characters_are():
    assert judge_perplexity(of_unigrams([0.5, 0.5]), [[0]]).bits_per_character is None


def test_texts_of_mixed_lengths_are_told_of():
    length = judge_perplexity(our_judge(), TEXTS).length
    assert (length.shortest, length.mean, length.longest) == (2, 19 / 4, 7)


def test_another_judge_scores_the_first_token_behind_a_bos_if_asked():
    judge = gpt2()
    found = judge_perplexity(judge, TEXTS, prepend_bos=True)
    expected = [sum(by_hand(judge, text, True)) / len(text) for text in TEXTS]
    assert found.nll_by_text == pytest.approx(expected, abs=1e-5)


def test_the_window_and_stride_that_were_used_are_told():
    found = judge_perplexity(our_judge(), TEXTS, window=6)
    assert (found.window, found.stride) == (6, 3)


# Batches


def test_a_text_is_judged_beside_longer_ones_as_it_is_alone(judge):
    ours = isinstance(judge, CausalLM)
    together = token_nll(judge, TEXTS, prepend_bos=ours)
    for text, values in zip(TEXTS, together, strict=True):
        alone = token_nll(judge, [text], prepend_bos=ours)[0]
        assert values == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_perplexity_does_not_depend_on_the_batch_size(judge, batch_size):
    cut = judge_perplexity(judge, TEXTS, batch_size=batch_size)
    assert cut.perplexity == pytest.approx(judge_perplexity(judge, TEXTS).perplexity, rel=1e-5)


def test_a_judge_in_training_mode_judges_without_dropout_and_stays_in_it():
    judge = our_judge(dropout=0.5)
    expected = judge_perplexity(judge, TEXTS).perplexity
    judge.train()
    assert judge_perplexity(judge, TEXTS).perplexity == expected
    assert judge.training


# What cannot be judged


def test_no_samples_are_refused(judge):
    with pytest.raises(ValueError, match="there are no samples"):
        judge_perplexity(judge, [])


@pytest.mark.parametrize(("name", "text"), [("ours", []), ("gpt2", []), ("gpt2", [3])])
def test_a_sample_too_short_to_be_scored_is_refused_by_its_number(name, text):
    with pytest.raises(ValueError, match=f"sample 1 has {len(text)} tokens: too few"):
        judge_perplexity(JUDGES[name](), [[1, 2], text])


@pytest.mark.parametrize("unknown", [11, -1])
def test_an_id_that_the_judge_does_not_know_is_refused_with_the_way_out(judge, unknown):
    with pytest.raises(
        ValueError, match=rf"sample 1 has the id {unknown}, .* only 11; use a judge"
    ):
        judge_perplexity(judge, [[1, 2], [1, unknown]])


def test_a_loss_that_is_no_number_is_refused_by_its_sample():
    judge = our_judge()
    with torch.no_grad():
        judge.head.weight[3] = math.nan
    with pytest.raises(ValueError, match="gives sample 0 a loss of nan"):
        judge_perplexity(judge, TEXTS)


def test_a_text_with_mask_in_it_is_refused_as_infinitely_unlikely():
    with pytest.raises(ValueError, match="gives sample 1 a loss of inf"):
        judge_perplexity(our_judge(), [[1, 2], [1, 10]])
