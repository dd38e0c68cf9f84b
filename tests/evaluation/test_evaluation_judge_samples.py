import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sdtt.data.tokenizer import train_tokenizer
from sdtt.evaluation.judge import judge_perplexity
from sdtt.evaluation.judge_samples import cut_behind_eos, judge_samples, read_samples_as
from sdtt.evaluation.records import Sample
from sdtt.models.causal import CausalConfig, CausalLM

EOS = 0
STORY = "the small cat saw a red bird. "


@pytest.fixture(scope="module")
def judges():
    """A byte-level tokenizer: any text, EOS 0, MASK last."""
    return train_tokenizer([STORY * 9], 280)


@pytest.fixture(scope="module")
def of_numbers():
    """Another one: the bytes have the same ids, what is merged of them has not."""
    return train_tokenizer(["one two three four five six seven " * 9], 265)


@pytest.fixture(scope="module")
def of_words():
    """Words of their own ids; [END] parts texts, and nothing is a prefix of the judge's ids."""
    words = ["[END]", "cat", "bird", "a", "red", "saw", "[MASK]"]
    backend = Tokenizer(models.WordLevel({word: 90 - i for i, word in enumerate(words)}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="[END]", eos_token="[END]", mask_token="[MASK]"
    )


@pytest.fixture(scope="module")
def judge(judges):
    torch.manual_seed(0)
    shape = {"vocab_size": len(judges), "model_length": 16, "hidden_dim": 16, "n_blocks": 1}
    return CausalLM(CausalConfig(**shape, n_heads=2, bos_token_id=EOS)).eval()


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


# Reading


def test_ids_of_the_judges_own_tokens_are_taken_as_they_are(judges):
    # a tokenizer would merge these two
    apart = [ids_of(judges, "t")[0], ids_of(judges, "h")[0]]
    found = read_samples_as(judges, [Sample(ids=apart)], own=judges)
    assert list(found.ids[0]) == apart
    assert not found.retokenised


def test_a_tokenizer_that_differs_in_one_token_is_another(judges, of_numbers):
    found = read_samples_as(judges, [Sample(ids=ids_of(of_numbers, STORY))], own=of_numbers)
    assert found.retokenised
    assert found.ids == [ids_of(judges, STORY)]


def test_ids_of_another_tokenizer_are_read_anew_with_their_ends(judges, of_words):
    sample = Sample(ids=ids_of(of_words, "[END] a cat [END] red bird"))
    found = read_samples_as(judges, [sample], own=of_words)
    assert found.ids == [[EOS, *ids_of(judges, "a cat"), EOS, *ids_of(judges, "red bird")]]
    assert found.eos == "scored"


def test_a_string_is_encoded_as_it_is_written(judges):
    text = "a cat <|endoftext|>"
    found = read_samples_as(judges, [Sample(text=text)])
    assert EOS not in found.ids[0]
    assert judges.decode(found.ids[0]) == text
    assert (found.retokenised, found.eos) == (True, "absent")


def test_strings_are_read_where_some_samples_have_no_ids(judges):
    samples = [Sample(ids=[5, 6], text="a cat"), Sample(text="red")]
    found = read_samples_as(judges, samples, own=judges)
    assert found.ids == [ids_of(judges, "a cat"), ids_of(judges, "red")]


# Ends of texts


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([3, 0, 4, 0, 5], [3, 0]),
        ([3, 4], [3, 4]),
        ([0, 3, 0, 4], [0, 3, 0]),
        ([0, 3, 4], [0, 3, 4]),
        ([0, 0, 4], [0, 0]),
    ],
)
def test_a_cut_text_ends_with_its_first_end_but_for_one_that_begins_it(ids, expected):
    assert cut_behind_eos(ids, 0) == expected


def test_cut_samples_say_only_what_stands_before_their_end(judges, of_words):
    sample = Sample(ids=ids_of(of_words, "a cat [END] red bird"))
    found = read_samples_as(judges, [sample], own=of_words, eos="cut")
    assert found.ids == [[*ids_of(judges, "a cat"), EOS]]
    assert found.texts == ["a cat"]


def test_an_end_of_a_text_is_a_token_and_no_character(judge, judges):
    whole, ended = (
        judge_samples(judge, judges, [Sample(ids=ids)], own=judges)
        for ids in ([70, 71], [70, 71, EOS])
    )
    assert ended.tokens == whole.tokens + 1
    bits = ended.nll * 3 / math.log(2)
    assert ended.bits_per_character == pytest.approx(bits / 2)


# Judging


def test_bits_per_character_do_not_depend_on_how_the_text_came(judge, judges, of_numbers):
    by_text = judge_samples(judge, judges, [Sample(text=STORY)])
    sample = Sample(ids=ids_of(of_numbers, STORY))
    by_ids = judge_samples(judge, judges, [sample], own=of_numbers)
    assert by_ids.bits_per_character == by_text.bits_per_character


def test_a_token_that_is_context_only_counts_no_characters(judge, judges):
    ids = ids_of(judges, "xy")
    found = judge_samples(judge, judges, [Sample(text="xy")], prepend_bos=False)
    (loss,) = judge_perplexity(judge, [ids], prepend_bos=False).nll_by_text
    assert len(ids) == 2
    assert found.bits_per_character == pytest.approx(loss / math.log(2) / 1)


def test_texts_longer_than_the_judge_are_judged_whole(judge, judges):
    found = judge_samples(judge, judges, [Sample(text="xyz " * 20)], stride=3)
    assert found.tokens == len(ids_of(judges, "xyz " * 20)) > 16


# What cannot be read


def test_no_samples_are_refused(judges):
    with pytest.raises(ValueError, match="there are no samples to judge"):
        read_samples_as(judges, [])


def test_an_empty_string_is_refused_by_its_number(judges):
    with pytest.raises(ValueError, match="sample 1 is empty"):
        read_samples_as(judges, [Sample(text="a"), Sample(text="")])


def test_ids_of_an_unknown_tokenizer_cannot_be_read_anew(judges):
    with pytest.raises(ValueError, match="sample 0 has ids only, and their tokenizer is not known"):
        read_samples_as(judges, [Sample(ids=[1, 2])])


def test_ids_among_strings_are_refused_with_the_way_out(judges):
    with pytest.raises(ValueError, match=r"sample 1 has ids only, .* give it a text"):
        read_samples_as(judges, [Sample(text="a"), Sample(ids=[1])], own=judges)


@pytest.mark.parametrize("token", [-1, 91])
def test_an_id_that_its_own_tokenizer_does_not_know_is_refused(judges, of_words, token):
    with pytest.raises(ValueError, match=f"sample 1 has the id {token}, its tokenizer only 91"):
        read_samples_as(judges, [Sample(ids=[88]), Sample(ids=[89, token])], own=of_words)


@pytest.mark.parametrize("name", ["judges", "of_words"])
def test_an_unfinished_sample_is_refused_even_where_mask_is_a_token_of_the_judge(
    name, judges, request
):
    own = request.getfixturevalue(name)
    with pytest.raises(ValueError, match="sample 1 holds MASK"):
        read_samples_as(judges, [Sample(ids=[88]), Sample(ids=[89, own.mask_token_id])], own=own)
