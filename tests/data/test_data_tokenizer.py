import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sdtt.data.encoding import encode_texts
from sdtt.data.tokenizer import load_tokenizer, train_tokenizer, with_mask
from sdtt.models.vocabulary import vocabulary_size

TEXTS = [
    "the cat sat on the mat beside another hat. ",
    "Whatever the dog saw, the quick brown hen ran.",
] * 20
ANY_TEXT = [
    "Hello  world ,  again .\r\n\ttabs\n\n\n",
    "Grüße, 世界! \U0001f9ea\u200d\u0301 \u0000 \ufeff",
    "a [MASK] b <|endoftext|>[MASK]",
    " leading and trailing ",
]
GPT2 = Path(os.environ.get("SDTT_DATA", Path(__file__).parents[3] / "shared" / "data")) / "gpt2-bpe"


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS, 300)


def words(**tokens):
    """A tokenizer of whole words, with the special tokens named."""
    vocabulary = {word: number for number, word in enumerate(["a", "b", *tokens.values()])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)


def test_training_gives_the_size_asked_for_with_mask_last(trained):
    assert len(trained) == 300
    assert trained.mask_token_id == 299
    assert trained.bos_token_id == trained.eos_token_id == 0


def test_a_corpus_with_few_pairs_gives_fewer_ids_and_mask_is_still_last():
    small = train_tokenizer(["ab"], 1000)
    assert len(small) < 300
    assert small.mask_token_id == len(small) - 1


def test_training_twice_gives_the_same_tokenizer(trained):
    again = train_tokenizer(iter(TEXTS), 300)
    assert again.backend_tokenizer.to_str() == trained.backend_tokenizer.to_str()


@pytest.mark.parametrize("text", ANY_TEXT)
def test_decoding_gives_back_any_text(trained, text):
    (ids,) = encode_texts(trained, [text])
    assert trained.decode(ids) == text


def test_words_that_look_like_special_tokens_are_encoded_as_letters(trained):
    (ids,) = encode_texts(trained, ["a [MASK] b <|endoftext|>"])
    assert not {trained.mask_token_id, trained.eos_token_id} & set(ids)


def test_training_on_words_that_look_special_makes_no_more_special_tokens():
    tokenizer = train_tokenizer(["[MASK] <|endoftext|> " * 50], 320)
    (ids,) = encode_texts(tokenizer, ["[MASK] <|endoftext|>"])
    assert not {tokenizer.mask_token_id, tokenizer.eos_token_id} & set(ids)


def test_a_saved_tokenizer_comes_back_with_its_mask_and_its_ids(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert loaded.mask_token_id == trained.mask_token_id
        assert (loaded.bos_token_id, loaded.eos_token_id) == (0, 0)
        assert encode_texts(loaded, ANY_TEXT) == encode_texts(trained, ANY_TEXT)
        assert loaded.decode(encode_texts(loaded, ANY_TEXT)[0]) == ANY_TEXT[0]


def test_mask_is_added_as_the_last_id_and_the_argument_is_left_alone():
    plain = words(eos_token="</s>")
    masked = with_mask(plain)
    assert masked.mask_token_id == len(masked) - 1 == len(plain)
    assert plain.mask_token is None


def test_a_mask_that_is_there_stays_where_it_is():
    plain = words(mask_token="<m>", eos_token="</s>")
    assert with_mask(plain).mask_token_id == plain.mask_token_id == 2
    assert len(with_mask(plain)) == len(plain)


@pytest.mark.parametrize("name", ["bos_token", "eos_token"])
def test_a_missing_end_is_served_by_the_other(name):
    tokenizer = with_mask(words(**{name: "<e>"}))
    assert tokenizer.bos_token == tokenizer.eos_token == "<e>"


def test_cls_and_sep_serve_as_bos_and_eos():
    tokenizer = with_mask(words(cls_token="<c>", sep_token="<s>"))
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<c>", "<s>")


def test_an_added_mask_survives_saving(tmp_path):
    with_mask(words(cls_token="<c>", sep_token="<s>")).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.mask_token_id, loaded.bos_token_id, loaded.eos_token_id) == (4, 2, 3)


@pytest.mark.skipif(not GPT2.exists(), reason="GPT-2's files lie outside of the repository")
def test_gpt2_files_give_the_ids_of_gpt2():
    tokenizer = load_tokenizer(GPT2)
    assert encode_texts(tokenizer, ["Hello world"]) == [[15496, 995]]
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 50256
    assert tokenizer.mask_token_id == 50257
    assert tokenizer.decode(encode_texts(tokenizer, ANY_TEXT)[1]) == ANY_TEXT[1]


def write_gpt2_files(folder, pack):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, "ab", "<|endoftext|>"])}
    for name, content in (
        ("encoder.json", json.dumps(vocabulary)),
        ("vocab.bpe", "#version: 0.2\na b\n"),
    ):
        if pack:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        else:
            (folder / name).write_text(content)


@pytest.mark.parametrize("pack", [False, True])
def test_files_in_the_manner_of_gpt2_load_plain_or_packed(tmp_path, pack):
    write_gpt2_files(tmp_path, pack)
    tokenizer = load_tokenizer(str(tmp_path))
    assert encode_texts(tokenizer, ["abab"]) == [[256, 256]]
    assert (tokenizer.eos_token_id, tokenizer.mask_token_id) == (257, 258)


# Errors


def test_half_of_the_files_of_gpt2_is_refused(tmp_path):
    write_gpt2_files(tmp_path, pack=False)
    (tmp_path / "vocab.bpe").unlink()
    with pytest.raises(ValueError, match=r"lacks vocab\.bpe"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_named_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"cannot load a tokenizer from .*save_pretrained"):
        load_tokenizer(tmp_path)


def test_of_a_run_that_has_not_ended_the_checkpoints_are_named(tmp_path):
    (tmp_path / "run.yaml").write_text("verb: pretrain\n")
    with pytest.raises(ValueError, match="its run has not ended: go on with --resume, or take one"):
        load_tokenizer(tmp_path)


def test_a_name_that_is_nowhere_is_named():
    with pytest.raises(ValueError, match=r"cannot load a tokenizer from 'no-owner/no-name'"):
        load_tokenizer("no-owner/no-name")


def test_a_tokenizer_without_any_end_of_text_is_refused():
    with pytest.raises(ValueError, match=r"neither bos nor eos.*set tokenizer\.eos_token"):
        with_mask(words())


def test_a_vocabulary_that_does_not_hold_the_bytes_is_refused():
    with pytest.raises(ValueError, match=r"at least 258 .*got 257"):
        train_tokenizer(TEXTS, 257)


def test_the_smallest_vocabulary_still_encodes_everything():
    tokenizer = train_tokenizer(TEXTS, 258)
    assert len(tokenizer) == 258
    assert tokenizer.decode(encode_texts(tokenizer, ANY_TEXT)[1]) == ANY_TEXT[1]


def test_training_on_token_ids_is_refused():
    with pytest.raises(ValueError, match="trained on text"):
        train_tokenizer([np.arange(5)], 300)


def with_ids(vocabulary, **special):
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def test_a_mask_that_would_take_the_id_of_another_token_is_refused():
    holed = with_ids({"end": 0, "a": 1, "b": 3}, eos_token="end")
    with pytest.raises(ValueError, match=r"would get the id 3 of 'b': set tokenizer.mask_token"):
        with_mask(holed)


def test_a_vocabulary_with_holes_has_as_many_ids_as_its_largest_says():
    assert vocabulary_size(with_ids({"a": 0, "end": 7, "[MASK]": 9})) == 10
