import math

import pytest

from sdtt.evaluation.diversity import (
    distinct,
    diversity,
    lengths,
    repeated,
    standard_error,
    unigram_entropy,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", 0),
        ("aaaa", 0),
        ("ab", math.log(2)),
        ("abcd", math.log(4)),
        ("aab", math.log(3) - 2 / 3 * math.log(2)),
        ("abacab", math.log(6) - (3 * math.log(3) + 2 * math.log(2)) / 6),
    ],
)
def test_the_entropy_of_a_text_is_that_of_its_own_frequencies_in_nats(text, expected):
    assert unigram_entropy([ord(letter) for letter in text]) == pytest.approx(expected, abs=1e-12)


def test_the_entropy_of_a_repeated_token_is_not_minus_zero():
    assert math.copysign(1, unigram_entropy([5, 5, 5])) == 1


@pytest.mark.parametrize(("n", "expected"), [(1, 3 / 8), (2, 5 / 6), (3, 4 / 4)])
def test_distinct_counts_the_different_n_grams_of_all_texts_together(n, expected):
    # abca and abba: bigrams ab bc ca ab bb ba, trigrams abc bca abb bba
    assert distinct([[1, 2, 3, 1], [1, 2, 2, 1]], n) == expected


def test_no_n_gram_reaches_from_one_text_into_the_next():
    assert distinct([[1, 2], [1, 2]], 2) == 1 / 2


def test_distinct_of_texts_that_are_all_too_short_is_not_a_number():
    assert math.isnan(distinct([[1, 2]], 3))


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("abcabc", 1, 1 - 3 / 6),
        ("abcabc", 2, 1 - 3 / 5),  # ab bc ca ab bc
        ("abcabc", 3, 1 - 3 / 4),  # abc bca cab abc
        ("abcabc", 4, 0),
        ("aaaaa", 4, 1 - 1 / 2),
    ],
)
def test_repetition_is_the_share_of_a_texts_n_grams_that_it_has_said_before(text, n, expected):
    assert repeated([ord(letter) for letter in text], n) == pytest.approx(expected)


def test_what_another_text_has_said_is_no_repetition():
    assert diversity([[1, 2, 3, 4], [1, 2, 3, 4]]).repeated_4 == 0


def test_the_repetition_of_texts_is_the_mean_of_theirs():
    # aaaaa repeats one of two 4-grams, abcdabcd (abcd, bcda, cdab, dabc, abcd) one of five
    found = diversity([[1] * 5, [1, 2, 3, 4, 1, 2, 3, 4]])
    assert found.repeated_4 == pytest.approx((1 / 2 + 1 / 5) / 2)
    assert found.repeated_4_se == pytest.approx((1 / 2 - 1 / 5) / 2)


def test_a_text_too_short_to_repeat_anything_does_not_count_as_free_of_repetition():
    assert diversity([[1] * 5, [1, 2, 3]]).repeated_4 == pytest.approx(1 / 2)


def test_lengths_are_counted_in_tokens():
    found = lengths([[1], [1, 2, 3], [1, 2, 3, 4, 5]])
    assert (found.shortest, found.mean, found.longest) == (1, 3, 5)
    assert found.se == pytest.approx(2 / math.sqrt(3))


def test_the_entropy_of_texts_is_the_mean_of_theirs():
    assert diversity([[1, 1], [1, 2]]).entropy == pytest.approx(math.log(2) / 2)


def test_the_pooled_entropy_is_that_of_all_tokens_together():
    assert diversity([[1, 1], [2, 2]]).pooled_entropy == pytest.approx(math.log(2))


def test_the_error_of_the_entropy_is_the_standard_error_over_texts():
    # entropies 0, log 2, 0, log 2: their deviation is log 2 / sqrt 3, over sqrt 4 texts
    found = diversity([[1, 1], [1, 2], [2, 2], [2, 1]]).entropy_se
    assert found == pytest.approx(math.log(2) / math.sqrt(12))


def test_one_value_has_no_standard_error():
    assert math.isnan(standard_error([1.0]))


def test_a_text_may_be_shorter_than_another():
    assert diversity([[1], [1, 2, 3]]).entropy == pytest.approx(math.log(3) / 2)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="there are no samples"):
        diversity([])


def test_an_empty_sample_is_refused_by_its_number():
    with pytest.raises(ValueError, match="sample 1 is empty"):
        diversity([[1], [], [2]])
