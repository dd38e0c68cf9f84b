import builtins
import math

import pytest

from sdtt.evaluation.self_bleu import grouped, self_bleu

pytest.importorskip("sacrebleu", reason='needs pip install "sdtt[evaluation]"')

MAT = "the cat sat on the mat"
A_MAT = "the cat sat on a mat"


def test_two_equal_texts_score_a_hundred():
    assert self_bleu([[MAT, MAT]]).self_bleu == pytest.approx(100)


def test_texts_without_a_common_word_score_nothing():
    assert self_bleu([["one two three four", "five six seven eight"]]).self_bleu == 0


def test_the_score_of_two_texts_is_the_geometric_mean_of_their_common_n_grams():
    # 5 of 6 words, 3 of 5 bigrams, 2 of 4 trigrams, 1 of 3 4-grams, either way
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    assert self_bleu([[MAT, A_MAT]]).self_bleu == pytest.approx(expected)


def test_a_shorter_text_is_penalised_for_its_brevity():
    # all n-grams of "a b c d" are in "a b c d e f", brevity exp(1 - 6 / 4); the other way 4 of 6,
    # 3 of 5, 2 of 4, 1 of 3
    expected = 50 * (math.exp(1 - 6 / 4) + (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))
    assert self_bleu([["a b c d", "a b c d e f"]]).self_bleu == pytest.approx(expected)


def test_a_text_is_not_held_against_itself_but_against_all_others():
    # the first two are each other's copies; the third shares no word with them
    found = self_bleu([["a b c d", "a b c d", "w x y z"]])
    assert found.self_bleu == pytest.approx((100 + 100 + 0) / 3)


def test_the_error_is_the_standard_error_over_groups():
    found = self_bleu([["a b c d"] * 2, ["a b c d", "w x y z"]])
    assert found.self_bleu_se == pytest.approx(50)  # of two values: half their distance


def test_texts_count_alike_however_many_their_group_has():
    found = self_bleu([["a b c d"] * 3, ["a b c d", "w x y z"]])
    assert found.self_bleu == pytest.approx(3 * 100 / 5)


def test_with_a_bound_a_text_is_held_against_those_that_follow_it():
    # a against b, b against b, b against a
    found = self_bleu([["a b c d", "w x y z", "w x y z"]], references=1)
    assert found.self_bleu == pytest.approx(100 / 3)
    assert found.references == 1


def test_a_bound_beyond_the_group_changes_nothing():
    group = [MAT, A_MAT, "a dog sat on the mat"]
    bounded, free = self_bleu([group], references=9), self_bleu([group])
    assert (bounded.self_bleu, bounded.references) == (free.self_bleu, 2)


def test_each_text_is_told_of_once():
    told = []
    self_bleu([[MAT, A_MAT], [MAT] * 3], advance=told.append)
    assert told == [1] * 5


def test_words_are_those_of_the_signature():
    assert "tok:13a" in self_bleu([[MAT, MAT]]).signature
    assert self_bleu([["one, two, three", "one , two , three"]]).self_bleu == pytest.approx(100)


def test_texts_are_grouped_by_their_prompt_in_order():
    assert grouped(["a", "b", "c", "d"], [7, 3, 7, 3]) == [["a", "c"], ["b", "d"]]


def test_texts_without_a_prompt_are_one_group():
    assert grouped(["a", "b"], [None, None]) == [["a", "b"]]


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="there are no samples"):
        self_bleu([])


def test_a_single_text_of_a_prompt_is_refused_by_its_group():
    with pytest.raises(ValueError, match="group 1 has 1 texts"):
        self_bleu([["a", "b"], ["c"]])


@pytest.mark.parametrize("empty", ["", " \n"])
def test_a_text_without_a_word_has_none_in_common_with_another(empty):
    found = self_bleu([["a b", "a b", empty]])
    assert (found.self_bleu, found.empty) == (pytest.approx(200 / 3), 1)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    load = builtins.__import__

    def without_sacrebleu(name, *rest, **options):
        if name.startswith("sacrebleu"):
            raise ModuleNotFoundError(name)
        return load(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_sacrebleu)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "sdtt\[evaluation\]"'):
        self_bleu([["a", "b"]])
