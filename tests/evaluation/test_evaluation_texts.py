import copy
import json

import pytest

from sdtt.data.tokenizer import train_tokenizer
from sdtt.evaluation.texts import TEXTS, Text, TextSource, source_blocks, text_source, write_rows

LINES = ["", " = A heading = \n", "", " He saw 2 @,@ 000 once . \n"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the small cat saw a red bird sing in the tree. " * 9], 300)


@pytest.fixture
def data_root(tmp_path):
    for text in TEXTS.values():
        if text.local is not None:
            (tmp_path / text.local).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / text.local).touch()
    return tmp_path


def test_a_named_text_is_the_local_file_where_there_is_one(data_root):
    found = text_source("wikitext-2", data_root)
    assert found.path == data_root / "wikitext-2/test.txt.xz"
    assert found.file() == found.path


def test_a_named_text_comes_from_the_hub_where_there_is_no_file(tmp_path):
    assert text_source("wikitext-2", tmp_path).path is None
    assert text_source("ptb").settings()["source"] == "ptb-text-only/ptb_text_only"


def test_a_folder_of_texts_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder of texts .*absent"):
        text_source("wikitext-2", tmp_path / "absent")


def test_a_text_that_is_nowhere_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="not on the hub: give the folder that holds gutenberg/"):
        text_source("gutenberg", tmp_path)


def test_an_unknown_text_is_refused_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"there is no text 'wikitext2'.* near it: wikitext-2"):
        text_source("wikitext2")


def test_a_file_is_a_text_as_it_is(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("the cat")
    found = text_source(str(path))
    assert (found.path, found.text) == (path, Text())


def test_a_text_that_cannot_be_fetched_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"datasets cannot load ptb-.*give a folder that holds"):
        text_source("ptb").file()


def test_rows_that_are_lines_become_one_text_again(tmp_path):
    write_rows(tmp_path / "a.txt", LINES, Text(joined=True))
    assert (tmp_path / "a.txt").read_text() == "\n = A heading = \n\n He saw 2 @,@ 000 once . \n"


def test_rows_that_are_documents_stay_apart(tmp_path):
    write_rows(tmp_path / "a.jsonl", ["one\ntwo", "three"], Text(column="sentence"))
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert found == [{"sentence": "one\ntwo"}, {"sentence": "three"}]


def test_blocks_are_of_the_detokenised_text(tmp_path, tokenizer, data_root, monkeypatch):
    write_rows(tmp_path / "a.txt", LINES, Text(joined=True))
    monkeypatch.setitem(TEXTS, "short", Text("a.txt", detokenise="wikitext"))
    blocks = source_blocks(text_source("short", data_root), tokenizer, 4, cache_dir=tmp_path)
    ids = [token for block in blocks for token in block.tolist()]
    whole = "\n= A heading =\n\nHe saw 2,000 once.\n"
    assert (whole + tokenizer.eos_token).startswith(tokenizer.decode(ids))
    assert len(blocks) == (len(tokenizer.encode(whole)) + 1) // 4


def test_a_tokenizer_without_a_mask_reads_a_text_too(tmp_path, tokenizer):
    (tmp_path / "own.txt").write_text("the cat, the bird, the tree, the cat. ")
    bare = copy.deepcopy(tokenizer)
    bare.mask_token = None
    source = text_source(str(tmp_path / "own.txt"))
    both = [
        [block.tolist() for block in source_blocks(source, each, 4, cache_dir=tmp_path / name)]
        for name, each in (("bare", bare), ("whole", tokenizer))
    ]
    assert both[0] == both[1] != []
    assert bare.mask_token is None


def test_a_text_as_it_is_and_detokenised_have_their_own_blocks(tmp_path, tokenizer):
    path = tmp_path / "own.txt"
    path.write_text("the cat , the bird , the tree , the cat . ")
    plain, other = (
        source_blocks(
            TextSource("own", Text(detokenise=rule), path),
            tokenizer,
            4,
            cache_dir=tmp_path / "cache",
        )
        for rule in (None, "wikitext")
    )
    assert plain.digest != other.digest
