import copy
import errno
import json
import math
import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ProphetNetTokenizer

from sdtt.data import encoding, packing, streams
from sdtt.data.packing import load_blocks
from sdtt.data.split import split_by_hash, split_tail
from sdtt.data.tokenizer import train_tokenizer, with_mask

PROSE = "".join(
    f"In line {n} the {'cat' if n % 3 else 'dog'} sat\nand saw {n * n} birds.\n\n"
    for n in range(300)
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([PROSE], 320)


@pytest.fixture
def load(tmp_path, tokenizer):
    """Load blocks of what is written to a file, with a cache of its own."""

    def load(content, length=16, suffix="jsonl", tokenizer=tokenizer, **settings):
        file = tmp_path / f"corpus.{suffix}"
        if isinstance(content, np.ndarray):
            content.tofile(file)
        elif isinstance(content, list):
            key = "text" if isinstance(content[0], str) else "input_ids"
            file.write_text("".join(json.dumps({key: one}) + "\n" for one in content))
        else:
            file.write_text(content)
        return load_blocks(file, tokenizer, length, cache_dir=tmp_path / "cache", **settings)

    return load


def story(n):
    return f"Story {n}. " + PROSE[37 * n : 37 * n + 150]


def flat(blocks):
    return blocks[:].flatten().tolist()


def text_of(blocks, tokenizer):
    return tokenizer.decode(blocks[:].flatten())


# The law of blocks


def test_blocks_are_documents_each_followed_by_eos_and_cut_into_rows(load, tokenizer):
    stories = [story(n) for n in range(5)]
    encoded = encoding.encode_texts(tokenizer, stories)
    law = [token for ids in encoded for token in [*ids, tokenizer.eos_token_id]]
    blocks = load(stories, length=7, validation_fraction=0.0).train
    assert len(blocks) == len(law) // 7
    assert flat(blocks) == law[: len(law) // 7 * 7]


def test_bos_opens_a_document_if_it_is_not_eos(load):
    backend = Tokenizer(models.WordLevel({"a": 0, "<s>": 1, "</s>": 2}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    blocks = load(["a a", "a"], length=7, tokenizer=with_mask(plain), validation_fraction=0.0).train
    assert flat(blocks) == [1, 0, 0, 2, 1, 0, 2]


def test_a_block_is_a_row_and_a_slice_is_a_batch(load):
    blocks = load(PROSE, suffix="txt").train
    assert blocks[3].shape == (16,)
    assert blocks[3].dtype == torch.int64
    assert torch.equal(blocks[2:5], torch.stack([blocks[2], blocks[3], blocks[4]]))
    assert torch.equal(blocks[-1], blocks[len(blocks) - 1])


def test_blocks_end_where_python_expects(load):
    blocks = load(PROSE, suffix="txt").train
    with pytest.raises(IndexError):
        blocks[len(blocks)]
    assert len(list(blocks)) == len(blocks) == blocks.tokens // blocks.length


def test_writing_into_a_block_leaves_the_corpus_as_it_is(load):
    blocks = load(PROSE, suffix="txt").train
    before = blocks[0].clone()
    blocks[0].fill_(0)
    assert torch.equal(blocks[0], before)


def test_a_pickled_copy_carries_the_name_of_the_file_and_not_its_content(load):
    blocks = load(PROSE * 20, suffix="txt").train
    pickled = pickle.dumps(blocks)
    assert len(pickled) < 1000 < blocks.tokens
    assert torch.equal(pickle.loads(pickled)[:], blocks[:])


def test_bytes_per_token_is_that_of_the_text_which_the_side_encodes(load, tokenizer):
    stories = [story(n) + " Grüße" for n in range(40)]
    split = load(stories, validation_fraction=0.3)
    held = [one.document for one in split_by_hash(stories, 0.3) if one.validation]
    kept = [one for one in stories if one not in held]
    for blocks, side in ((split.validation, held), (split.train, kept)):
        tokens = sum(len(ids) + 1 for ids in encoding.encode_texts(tokenizer, side))
        law = sum(len(one.encode()) for one in side) / tokens
        assert math.isclose(blocks.bytes_per_token, law)


def test_a_corpus_of_ids_has_no_bytes_per_token(load):
    assert load([[5, 6, 7]] * 40, validation_fraction=0.0).train.bytes_per_token is None


def test_words_that_look_special_do_not_become_special(load, tokenizer):
    blocks = load(["[MASK] <|endoftext|> " * 20], validation_fraction=0.0).train
    assert tokenizer.mask_token_id not in flat(blocks)
    assert tokenizer.eos_token_id not in flat(blocks)[:-1]


def test_unwrap_reaches_the_blocks(load, tokenizer):
    text = text_of(load(PROSE, suffix="txt", unwrap=True).train, tokenizer)
    assert "sat and saw" in text
    assert "sat\nand saw" not in text


@pytest.mark.parametrize("limit", [25, 200])
def test_a_long_document_cut_into_pieces_gives_the_ids_of_the_whole(limit):
    # a tokenizer to which "\n\n" at the end of a text is one token, and in the midst of it two
    paragraphs = [f"{one}\n\n" for one in PROSE.split("\n\n")]
    tokenizer = train_tokenizer(paragraphs, 320)
    assert "ĊĊ" in tokenizer.get_vocab()
    pieces = list(encoding.cut_long(PROSE, limit))
    assert len(pieces) > 50
    assert max(map(len, pieces)) <= limit
    assert "".join(pieces) == PROSE
    in_pieces = [token for ids in encoding.encode_texts(tokenizer, pieces) for token in ids]
    assert in_pieces == encoding.encode_texts(tokenizer, [PROSE])[0]


@pytest.mark.parametrize("text", ["x" * 1000, " " * 1000, "a b " * 250, "", "x"])
def test_pieces_are_never_long_and_lose_nothing(text):
    pieces = list(encoding.cut_long(text, limit=64))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 64


def test_a_document_of_many_pieces_and_batches_has_one_eos(load, monkeypatch):
    whole = flat(load(PROSE, suffix="txt", validation_fraction=0.0).train)
    monkeypatch.setattr(streams, "BATCH", 700)
    monkeypatch.setattr(encoding, "PIECE", 300)
    monkeypatch.setattr(packing, "LAYOUT", -1)  # nor found in the cache
    cut = flat(load(PROSE, suffix="txt", validation_fraction=0.0).train)
    assert cut == whole


# Token ids as a source


def test_a_bin_file_passes_through_as_it_is(load):
    ids = np.arange(1, 101, dtype="<u2")
    blocks = load(ids, length=10, suffix="bin", validation_fraction=0.0).train
    assert flat(blocks) == ids.tolist()


def test_ids_that_end_with_eos_get_no_second_one(load, tokenizer):
    eos = tokenizer.eos_token_id
    blocks = load([[5, 6, eos], [7, 8]], length=6, validation_fraction=0.0).train
    assert flat(blocks) == [5, 6, eos, 7, 8, eos]


def test_the_tail_of_a_bin_file_begins_after_an_end_of_text(load, tokenizer):
    eos = tokenizer.eos_token_id
    ids = np.array(([7] * 12 + [eos]) * 100, dtype="<u2")
    split = load(ids, length=13, suffix="bin", validation_fraction=0.1)
    assert split.validation[0].tolist() == split.train[0].tolist() == [7] * 12 + [eos]
    assert len(split.train) + len(split.validation) == 100


# The split


def test_the_hash_gives_about_the_fraction_asked_for():
    stories = [f"story {n}" for n in range(4000)]
    held = sum(one.validation for one in split_by_hash(stories, 0.05))
    assert abs(held - 200) < 5 * math.sqrt(200), "five standard deviations of a binomial"


def test_the_side_of_a_document_asks_nothing_of_the_others():
    stories = [f"story {n}" for n in range(300)]
    sides = {one.document: one.validation for one in split_by_hash(stories, 0.2)}
    backwards = {one.document: one.validation for one in split_by_hash(stories[::-2], 0.2)}
    assert backwards.items() <= sides.items()


def test_a_larger_fraction_keeps_what_the_smaller_held():
    stories = [f"story {n}" for n in range(300)]
    small, large = (
        {one.document for one in split_by_hash(stories, fraction) if one.validation}
        for fraction in (0.1, 0.3)
    )
    assert small < large


def test_a_repeated_document_never_lies_on_both_sides(load, tokenizer):
    split = load([story(n % 40) for n in range(160)], validation_fraction=0.3)
    names = [f"Story {n}. " for n in range(40)]
    train, held = text_of(split.train, tokenizer), text_of(split.validation, tokenizer)
    assert any(name in held for name in names)
    assert not [name for name in names if name in train and name in held]


def test_a_fraction_of_zero_holds_nothing_back(load):
    split = load(PROSE, suffix="txt", validation_fraction=0.0)
    assert len(split.validation) == 0
    assert split.validation[:].shape == (0, 16)
    assert split.validation.bytes_per_token is None


def test_a_single_document_gives_its_tail_from_a_paragraph_on(load, tokenizer):
    split = load(PROSE, suffix="txt", validation_fraction=0.1)
    held = text_of(split.validation, tokenizer)
    assert held.startswith("In line 2")
    assert held[:100] in PROSE
    assert held[:100] not in text_of(split.train, tokenizer)
    share = split.validation.tokens / (split.validation.tokens + split.train.tokens)
    assert 0.08 < share < 0.15


@pytest.mark.parametrize("length", [16, 100, 400])
def test_a_side_is_never_without_a_block_where_the_text_has_more_than_two(load, length, tokenizer):
    ids = encoding.encode_texts(tokenizer, [PROSE])[0]
    text = tokenizer.decode(ids[: int(2.3 * length)])
    split = load(text, length=length, suffix="txt", validation_fraction=0.01)
    assert len(split.train) == len(split.validation) == 1


def test_few_documents_are_cut_where_the_hash_leaves_a_side_short(load, tokenizer):
    split = load([story(n) for n in range(3)], length=32, validation_fraction=1e-9)
    assert len(split.validation) >= 1
    assert len(split.train) >= 1
    assert "Story 0" in text_of(split.train, tokenizer)


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("aaaa bb\ncc\n\ndd ee", "dd ee"),
        ("aaaa bb\ncc ddd ee", "cc ddd ee"),
        ("aaaa bbbb cc ddddd", "ddddd"),
        ("abcdefghijklmnopqr", "opqr"),
    ],
)
def test_a_cut_falls_at_a_paragraph_else_a_line_else_a_word_else_a_letter(text, tail):
    head, held = split_tail([text], head=14, window=8, eos=0)
    assert held.document == tail
    assert (head.validation, held.validation) == (False, True)
    assert head.document + held.document == text


def test_the_tail_is_counted_over_all_documents():
    sides = [(one.document, one.validation) for one in split_tail(["aaaa", "bb", "cccc"], 8, 0, 0)]
    assert sides == [("aaaa", False), ("bb", False), ("cc", False), ("cc", True)]


def test_a_document_that_begins_close_before_the_cut_is_not_cut():
    sides = [(one.document, one.validation) for one in split_tail(["aaaa", "bbbb"], 5, 3, eos=0)]
    assert sides == [("aaaa", False), ("bbbb", True)]


# The cache


def test_a_second_call_encodes_nothing(load, monkeypatch):
    first = load(PROSE, suffix="txt")
    monkeypatch.setattr(encoding, "encode_texts", None)
    again = load(PROSE, suffix="txt")
    assert torch.equal(again.train[:], first.train[:])


def test_another_length_is_another_view_of_the_same_file(load, monkeypatch):
    stories = [story(n) for n in range(60)]
    first = load(stories, length=16, validation_fraction=0.2)
    monkeypatch.setattr(encoding, "encode_texts", None)
    again = load(stories, length=8, validation_fraction=0.2)
    assert flat(again.train)[: first.train.tokens] == flat(first.train)


@pytest.mark.parametrize("what", ["text", "tokenizer", "bos", "unwrap", "fraction"])
def test_a_change_of_text_tokenizer_or_setting_is_noticed(load, what):
    before = load(PROSE, suffix="txt", validation_fraction=0.1)
    text, settings = PROSE, {"validation_fraction": 0.1}
    match what:
        case "text":
            text = PROSE.replace("cat", "hen")
        case "tokenizer":
            settings["tokenizer"] = train_tokenizer([PROSE], 300)
        case "bos":
            other = train_tokenizer([PROSE], 320)
            other.bos_token = "!"
            settings["tokenizer"] = other
        case "unwrap":
            settings["unwrap"] = True
        case "fraction":
            settings["validation_fraction"] = 0.2
    assert flat(load(text, suffix="txt", **settings).train) != flat(before.train)


def test_the_key_forgets_how_the_tokenizer_was_last_called(tokenizer):
    before = encoding.tokenizer_digest(tokenizer)
    tokenizer("a b c d", truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.truncation is not None
    assert encoding.tokenizer_digest(tokenizer) == before


def test_the_key_knows_what_a_tokenizer_written_in_python_makes_of_capitals(tmp_path):
    words = ["[UNK]", "[SEP]", "[CLS]", "[PAD]", "[MASK]", "hello", "Hello"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))

    def digest(lower, folder=tmp_path):
        found = ProphetNetTokenizer(str(folder / "vocab.txt"), do_lower_case=lower)
        return encoding.tokenizer_digest(with_mask(found))

    assert digest(True) != digest(False)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "vocab.txt", tmp_path / "elsewhere")
    assert digest(True, tmp_path / "elsewhere") == digest(True)


@pytest.mark.parametrize("damage", ["bin cut", "record cut", "record gone", "bin gone"])
def test_a_damaged_cache_is_made_again(load, tmp_path, damage):
    before = flat(load(PROSE, suffix="txt").train)
    for file in (tmp_path / "cache").glob("*.json" if "record" in damage else "*.bin"):
        if "gone" in damage:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-2])
    assert flat(load(PROSE, suffix="txt").train) == before


def test_a_kill_leaves_nothing_that_passes_for_a_cache(load, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(encoding, "encode_texts", killed)
    with pytest.raises(KeyboardInterrupt):
        load(PROSE, suffix="txt")
    monkeypatch.undo()
    assert not list((tmp_path / "cache").glob("*.json"))
    assert len(load(PROSE, suffix="txt").train) > 100


def test_two_builders_at_once_give_what_one_gives(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "a.txt").write_text(PROSE)
    barrier = Barrier(2)
    write = streams._write

    def write_together(*arguments):
        record = write(*arguments)
        barrier.wait(timeout=20)
        return record

    monkeypatch.setattr(streams, "_write", write_together)

    def build(own):
        return load_blocks(
            tmp_path / "a.txt", own, 16, validation_fraction=0.0, cache_dir=tmp_path / "cache"
        )

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(build, (tokenizer, copy.deepcopy(tokenizer)))
    assert torch.equal(one.train[:], two.train[:])
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize(("words", "dtype"), [(2**16 - 1, "<u2"), (2**16, "<u4")])
def test_ids_take_two_bytes_while_the_vocabulary_fits(load, tmp_path, words, dtype):
    vocabulary = {"</s>": 0} | {f"w{n}": n for n in range(1, words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w1"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = with_mask(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    text = f"w{words - 1} " * 31
    blocks = load(text, suffix="txt", length=8, tokenizer=tokenizer, validation_fraction=0.0).train
    (file,) = (tmp_path / "cache").glob("*-train.bin")
    assert np.fromfile(file, dtype=dtype).tolist() == flat(blocks) == [words - 1] * 31 + [0]


def test_the_cache_lies_where_the_variable_says(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("SDTT_CACHE", str(tmp_path / "here"))
    (tmp_path / "a.txt").write_text(PROSE)
    load_blocks(tmp_path / "a.txt", tokenizer, 16)
    assert list((tmp_path / "here").glob("*-train.bin"))


# Errors


def test_what_a_killed_process_was_making_goes_after_a_day(load, tmp_path):
    for name, age in ((".making-old", 90_000), (".making-new", 60)):
        aside = tmp_path / "cache" / name
        aside.mkdir(parents=True)
        (aside / "train.bin").write_bytes(b"some")
        for path in (aside / "train.bin", aside):
            os.utime(path, (time.time() - age,) * 2)
    load(PROSE, suffix="txt")
    assert [path.name for path in (tmp_path / "cache").glob(".making-*")] == [".making-new"]


def test_a_cache_on_a_full_disk_is_named(load, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(streams, "_write", full)
    with pytest.raises(OSError, match=r"cache folder .*cache \(no space left on device\)"):
        load(PROSE, suffix="txt")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text(PROSE)
    with pytest.raises(OSError, match=r"cannot write to the cache folder .*SDTT_CACHE"):
        load_blocks(tmp_path / "a.txt", tokenizer, 16, cache_dir=tmp_path / "a.txt" / "b")


def test_an_id_beyond_the_vocabulary_is_named_with_its_size(load):
    with pytest.raises(ValueError, match="token id 5000, but the vocabulary size is 320"):
        load([[1, 2, 5000]] * 20)


def test_a_negative_id_is_named(load):
    with pytest.raises(ValueError, match="token id -1,"):
        load([[1, 2, -1]] * 20)


def test_mask_among_the_ids_is_refused(load):
    with pytest.raises(ValueError, match="holds the id 319, which is MASK"):
        load([[1, 2, 319]] * 20)


def test_less_text_than_a_block_is_answered_with_its_tokens(load):
    with pytest.raises(ValueError, match=r"has 4 tokens, too few for one block of length 16"):
        load([[1, 2, 3]], validation_fraction=0.0)


def test_less_text_than_two_blocks_is_answered_with_the_way_out(load):
    with pytest.raises(ValueError, match=r"has 21 tokens.*validation_fraction=0"):
        load([[1, 2, 3, 4] * 5])


@pytest.mark.parametrize("length", [0, -3])
def test_a_length_below_one_is_refused(load, length):
    with pytest.raises(ValueError, match=f"length must be at least 1 token, got {length}"):
        load(PROSE, length=length)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_of_its_range_is_refused(load, fraction):
    with pytest.raises(ValueError, match="validation_fraction must be at least 0 and below 1"):
        load(PROSE, validation_fraction=fraction)


def test_a_tokenizer_without_mask_is_refused_with_the_way_out(load):
    backend = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    with pytest.raises(ValueError, match="with_mask"):
        load(PROSE, tokenizer=plain)
