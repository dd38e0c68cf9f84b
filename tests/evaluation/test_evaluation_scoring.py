import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sdtt.evaluation import scoring
from sdtt.evaluation.scoring import token_nll, window_of
from sdtt.models.causal import CausalConfig, CausalLM

CONTEXT = 8
LONG = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6], [2, 7, 1], [6] * 11]


def our_judge():
    torch.manual_seed(0)
    shape = {"vocab_size": 11, "model_length": CONTEXT, "hidden_dim": 16, "n_blocks": 2}
    config = CausalConfig(**shape, n_heads=2, bos_token_id=0, initializer_range=0.4)
    return CausalLM(config).eval()


def gpt2(**more):
    torch.manual_seed(0)
    shape = {"vocab_size": 11, "n_positions": CONTEXT, "n_embd": 16, "n_layer": 2, "n_head": 2}
    shape |= {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.4}
    return GPT2LMHeadModel(GPT2Config(**shape | more)).eval()


JUDGES = {"ours": our_judge, "gpt2": gpt2}


@torch.no_grad()
def by_a_plain_loop(judge, text, window, stride, bos):
    """One pass a token, over the context that its window gives it."""
    found = []
    reach = window if bos else window + 1
    for token in range(0 if bos else 1, len(text)):
        end = reach
        while end <= token:
            end += stride
        context = text[max(0, min(end, len(text)) - reach) : token]
        ids = torch.tensor([[0, *context] if bos else context])
        law = judge(input_ids=ids).logits[0, -1].double().log_softmax(-1)
        found.append(-law[text[token]].item())
    return found


# Sliding windows


@pytest.mark.parametrize("name", list(JUDGES))
@pytest.mark.parametrize(("window", "stride"), [(8, 4), (6, 5), (3, 3)])
def test_a_long_text_is_scored_as_a_plain_loop_over_its_windows_does(name, window, stride):
    judge, bos = JUDGES[name](), name == "ours"
    found = token_nll(judge, LONG, prepend_bos=bos, window=window, stride=stride)
    for text, values in zip(LONG, found, strict=True):
        assert values == pytest.approx(by_a_plain_loop(judge, text, window, stride, bos), abs=1e-5)


def test_a_judge_of_another_context_than_a_texts_length_takes_its_own_and_strides_by_half():
    judge = gpt2()
    by_default = token_nll(judge, LONG[:1], prepend_bos=False)[0]
    expected = by_a_plain_loop(judge, LONG[0], CONTEXT, CONTEXT // 2, False)
    assert by_default == pytest.approx(expected, abs=1e-5)


def test_a_judge_takes_as_many_tokens_and_one_in_one_pass():
    # the last token is only predicted, so that no window slides
    judge, text = gpt2(), LONG[0][: CONTEXT + 1]
    whole = token_nll(judge, [text], prepend_bos=False, stride=1)[0]
    assert whole == pytest.approx(by_a_plain_loop(judge, text, CONTEXT, CONTEXT, False), abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_losses_lie_in_the_order_of_the_texts_however_they_are_batched(batch_size):
    judge = gpt2()
    cut = token_nll(judge, LONG, prepend_bos=False, batch_size=batch_size)
    for whole, values in zip(token_nll(judge, LONG, prepend_bos=False), cut, strict=True):
        assert values == pytest.approx(whole, abs=1e-5)


def test_a_text_without_a_token_to_score_has_no_losses():
    found = token_nll(gpt2(), [[3], [], [1, 2]], prepend_bos=False)
    assert [len(values) for values in found] == [0, 0, 1]


def test_each_text_is_told_of_once_when_it_is_done():
    told = []
    token_nll(gpt2(), LONG, prepend_bos=False, batch_size=2, advance=told.append)
    # five windows of the first text, two of the third, one of the second: two a pass
    assert len(told) == 4
    assert sum(told) == len(LONG)


# Logits


def test_logits_are_scored_alike_whole_and_in_tiles(monkeypatch):
    judge = gpt2()
    whole = token_nll(judge, LONG, prepend_bos=False)
    monkeypatch.setitem(scoring.TILE_ELEMENTS, "cpu", 23)  # two rows of 11 a tile, the last short
    for tiled, values in zip(token_nll(judge, LONG, prepend_bos=False), whole, strict=True):
        assert tiled == pytest.approx(values, abs=1e-6)


def widths_of_passes(judge, texts, **options):
    """(texts, positions) of each pass."""
    seen = []
    judge.register_forward_pre_hook(
        lambda _, __, given: seen.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    token_nll(judge, texts, prepend_bos=False, **options)
    return seen


def test_a_pass_never_makes_more_logits_than_it_may(monkeypatch):
    # 4 positions of 11 numbers in float32 take 176 bytes (5 tokens are counted: 220)
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 2 * 220)
    assert widths_of_passes(gpt2(), [[1, 2, 3, 4, 5]] * 5) == [(2, 4), (2, 4), (1, 4)]


def test_the_batch_size_bounds_a_pass_as_well():
    assert widths_of_passes(gpt2(), [[1, 2, 3]] * 3, batch_size=2) == [(2, 2), (1, 2)]


def test_losses_of_a_judge_in_bfloat16_are_those_of_its_logits_in_float32():
    judge = gpt2().bfloat16()
    text = LONG[0][:CONTEXT]
    with torch.no_grad():
        logits = judge(input_ids=torch.tensor([text[:-1]])).logits[0].double()
    expected = -logits.log_softmax(-1)[range(len(text) - 1), text[1:]]
    # in bfloat16 a loss near 3 would be wrong by up to 0.008
    found = token_nll(judge, [text], prepend_bos=False)[0]
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


# What cannot be scored


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_logit_that_is_no_number_is_named_by_its_sample_and_token(value):
    judge = gpt2()
    with torch.no_grad():
        judge.lm_head.weight = torch.nn.Parameter(judge.lm_head.weight.clone())  # no longer tied
        judge.transformer.wte.weight[10, 0] = value  # of a token that the first text lacks
    with pytest.raises(ValueError, match="sample 1 a loss of nan at its token 1"):
        token_nll(judge, [[1, 2, 3], [4, 10, 2, 5]], prepend_bos=False)


def test_a_bad_loss_in_a_later_window_is_named_by_its_place_in_the_text():
    judge = our_judge()
    with pytest.raises(ValueError, match="sample 0 a loss of inf at its token 17"):
        token_nll(judge, [[1] * 17 + [10] + [1] * 4], prepend_bos=True)  # MASK has no chance


def test_a_window_beyond_the_context_of_the_judge_is_refused():
    with pytest.raises(ValueError, match="at most 8, the judge's context, got 9"):
        window_of(gpt2(), 9, None)


@pytest.mark.parametrize("stride", [0, 5])
def test_a_stride_that_would_stand_still_or_leave_tokens_out_is_refused(stride):
    with pytest.raises(ValueError, match=f"at most the window 4, got {stride}"):
        window_of(gpt2(), 4, stride)
