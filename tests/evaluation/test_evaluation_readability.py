import math
import random

import numpy as np
import pytest

from sdtt.evaluation.diversity import standard_error
from sdtt.evaluation.readability import (
    build_reference,
    load_reference,
    readability,
    save_reference,
    words_of,
)

DOCUMENTS = ["The cat sat on the mat.", "A dog sat on a mat!"]
REFERENCE = build_reference(DOCUMENTS)  # 4 and 4 trigrams, all different


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "It's 3 o\N{RIGHT SINGLE QUOTATION MARK}clock, SAID_he.",
            ["it's", "o'clock", "said", "he"],
        ),
        ("'quoted' dogs' rock-n-roll", ["quoted", "dogs", "rock", "n", "roll"]),
        ("Été à Paris", ["été", "à", "paris"]),
        ("12 + 30", []),
    ],
)
def test_a_word_is_a_lower_cased_run_of_letters_with_inner_apostrophes(text, words):
    assert words_of(text) == words


def test_a_reference_knows_every_trigram_of_its_documents_and_no_other():
    assert len(REFERENCE) == 8
    # the cat sat: known; cat sat there: not
    assert readability(["The cat sat there"], REFERENCE).trigrams == 1 / 2


def test_case_and_punctuation_do_not_matter():
    assert readability(["CAT -- sat? On 7 THE mat"], REFERENCE).trigrams == 1


def test_the_order_of_words_matters():
    shuffled = ["cat the sat", "the sat cat", "sat cat the", "sat the cat", "cat sat the"]
    assert readability(shuffled, REFERENCE).trigrams == 0


def test_no_trigram_reaches_from_one_document_into_the_next():
    assert readability(["the mat a dog"], REFERENCE).trigrams == 0
    assert len(build_reference(["a b", "c d e"])) == 1


def test_trigrams_are_looked_up_exactly_among_many_documents():
    draw = random.Random(0)
    words = [a + b for a in "bcdfgh" for b in "aeiou"]
    documents = [" ".join(draw.choices(words, k=50)) for _ in range(200)]
    texts = [" ".join(draw.choices(words, k=40)) for _ in range(20)]
    grams = [list(zip(t, t[1:], t[2:], strict=False)) for t in map(str.split, documents)]
    known = {gram for one in grams for gram in one}
    asked = [gram for t in map(str.split, texts) for gram in zip(t, t[1:], t[2:], strict=False)]
    reference = build_reference(documents)
    assert len(reference) == len(known)
    expected = sum(gram in known for gram in asked) / len(asked)
    assert 0.2 < expected < 0.5
    assert readability(texts, reference).trigrams == pytest.approx(expected, abs=1e-12)


def test_chunks_make_the_reference_that_one_piece_makes(monkeypatch):
    monkeypatch.setattr("sdtt.evaluation.readability._CHUNK", 5)
    again = build_reference([*DOCUMENTS, "one two three", *DOCUMENTS])
    assert np.array_equal(again, build_reference([*DOCUMENTS, "one two three"]))


def test_the_hashes_do_not_depend_on_the_process():
    # splitmix64 of 64-bit BLAKE2b hashes of the words, worked out in plain integers
    assert build_reference(["Cats sat here"]).tolist() == [9112402452895886271]


def test_the_share_is_over_all_trigrams_together_and_its_error_that_of_a_ratio():
    # 1 of 2 and 4 of 4 known: r = 5/6; deviations 1 - 10/6 and 4 - 20/6, both 2/3 in size
    found = readability(["the cat sat there", "the cat sat on the mat"], REFERENCE)
    assert found.trigrams == pytest.approx(5 / 6)
    assert found.trigrams_se == pytest.approx(math.sqrt(2 * 2 * (2 / 3) ** 2) / 6)


def test_with_texts_of_one_length_the_error_is_that_of_the_mean():
    texts = ["the cat sat there", "the cat sat on", "here it was not", "a dog sat on"]
    found = readability(texts, REFERENCE)
    assert found.trigrams_se == pytest.approx(standard_error([0.5, 1, 0, 1]))


def test_a_known_trigram_counts_as_often_as_it_is_said():
    found = readability(["the cat sat the cat sat"], REFERENCE)  # 2 of 4
    assert found.trigrams == 1 / 2
    assert math.isnan(found.trigrams_se)


def test_texts_without_three_words_are_left_out_and_counted():
    found = readability(["", "the cat", "The cat sat", "1 2 3"], REFERENCE)
    assert (found.trigrams, found.texts, found.left_out) == (1, 1, 3)


def test_texts_or_documents_without_any_trigram_are_refused():
    with pytest.raises(ValueError, match="none of the 2 texts has three words"):
        readability(["the cat", ""], REFERENCE)
    with pytest.raises(ValueError, match="no document has three words"):
        build_reference(["the cat"])
    with pytest.raises(ValueError, match="no document has three words"):
        build_reference([])


def test_a_trigram_beyond_the_last_hash_is_not_known():
    reference = build_reference(["cats sat here"])
    others = ["cats sat there", "dogs sat here", "cats ran here", "we are here", "as you are"]
    assert readability(others, reference).trigrams == 0


def test_a_saved_reference_comes_back_and_leaves_nothing_else(tmp_path):
    save_reference(REFERENCE, tmp_path / "reference.npy")
    assert np.array_equal(load_reference(tmp_path / "reference.npy"), REFERENCE)
    assert [path.name for path in tmp_path.iterdir()] == ["reference.npy"]


def test_a_failed_save_leaves_the_old_reference_whole(tmp_path, monkeypatch):
    path = tmp_path / "reference.npy"
    save_reference(REFERENCE, path)

    def fail(file, *_, **__):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_reference(REFERENCE[:1], path)
    assert np.array_equal(load_reference(path), REFERENCE)


@pytest.mark.parametrize(
    "wrong",
    [np.array([1, 2]), np.array([2, 1], np.uint64), np.array([[1]], np.uint64)],
    ids=["signed", "not sorted", "two axes"],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, wrong):
    np.save(tmp_path / "reference.npy", wrong)
    with pytest.raises(ValueError, match="holds no reference"):
        load_reference(tmp_path / "reference.npy")
