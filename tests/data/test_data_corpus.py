import gzip
import json
import lzma
import os
import sys
from itertools import islice

import datasets
import numpy as np
import pytest
import zstandard

from sdtt.data import corpus, files, python_docs
from sdtt.data.corpus import content_digest, documents
from sdtt.data.files import Cursor, read_file

COMPRESSIONS = {"gz": gzip.open, "xz": lzma.open, "zst": zstandard.open}


def texts(source, **settings):
    return list(documents(source, **settings))


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_text_file_is_one_document(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("One.\n\nTwo.\n")
    assert texts(file) == ["One.\n\nTwo.\n"]


def test_lines_of_endoftext_part_the_documents_of_a_text_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("One.\n<|endoftext|>\nTwo <|endoftext|> still.\n<|endoftext|>\n\n")
    assert texts(file) == ["One.\n", "Two <|endoftext|> still.\n"]


@pytest.mark.parametrize(("suffix", "opener"), COMPRESSIONS.items())
def test_compressed_files_read_as_plain_ones(tmp_path, suffix, opener):
    for name, content in (("a.txt", "Grün\n"), ("b.jsonl", '{"text": "Grün"}\n')):
        (tmp_path / name).write_text(content)
        with opener(tmp_path / f"{name}.{suffix}", "wt") as stream:
            stream.write(content)
        assert texts(tmp_path / f"{name}.{suffix}") == texts(tmp_path / name)


def test_all_frames_of_a_zst_file_are_read(tmp_path):
    frames = [zstandard.compress(f"line {n}\n".encode()) for n in range(3)]
    (tmp_path / "a.txt.zst").write_bytes(b"".join(frames))
    assert texts(tmp_path / "a.txt.zst") == ["line 0\nline 1\nline 2\n"]


def test_a_zst_file_without_its_package_is_answered_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"One"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ValueError, match=r"a\.txt\.zst .* pip install 'sdtt\[zstd\]'"):
        texts(tmp_path / "a.txt.zst")


def write_parquet(file, **columns):
    datasets.Dataset.from_dict(columns).to_parquet(file, batch_size=2)  # rows of a row group
    return file


def test_a_parquet_file_gives_a_document_a_row_from_the_column_asked_for(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", n=[1, 2, 3], body=["One", "Two", "Three"])
    assert texts(file, text_column="body") == ["One", "Two", "Three"]


def test_a_parquet_file_of_input_ids_gives_ids(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", input_ids=[[5, 6], [7]])
    assert [ids.tolist() for ids in texts(file)] == [[5, 6], [7]]


def test_a_pattern_and_a_folder_of_other_text_find_parquet_files(tmp_path):
    write_parquet(tmp_path / "b.parquet", text=["Two"])
    (tmp_path / "a.txt").write_text("One")
    assert texts(tmp_path) == ["One", "Two"]
    assert texts(str(tmp_path / "*.parquet")) == ["Two"]


@pytest.mark.parametrize("start", range(8))
def test_a_parquet_file_is_read_from_any_row_on(tmp_path, start):
    file = write_parquet(tmp_path / "a.parquet", text=[f"{n}" for n in range(7)])
    found = list(read_file(file, "text", Cursor(offset=start)))
    assert found == [f"{n}" for n in range(start, 7)]


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "txt.gz", "jsonl.xz", "jsonl.zst"])
def test_a_file_is_read_on_from_where_its_cursor_stands(tmp_path, suffix):
    stories = [f"Grün {n}\r\nend" for n in range(9)]
    lines = [json.dumps({"text": story}, ensure_ascii=False) + "\n\n" for story in stories]
    content = "".join(lines) if "jsonl" in suffix else "\n<|endoftext|>\n".join(stories)
    opener = COMPRESSIONS.get(suffix.rpartition(".")[2], open)
    with opener(tmp_path / f"a.{suffix}", "wb") as stream:
        stream.write(content.encode())
    whole = texts(tmp_path / f"a.{suffix}")
    assert len(whole) == 9
    for count in range(1, 9):
        cursor = Cursor()
        list(islice(read_file(tmp_path / f"a.{suffix}", "text", cursor), count))
        again = Cursor(cursor.offset, cursor.lines)
        assert list(read_file(tmp_path / f"a.{suffix}", "text", again)) == whole[count:]


def test_a_line_is_named_by_its_number_in_the_file_wherever_reading_began(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "One"}\n\n{"text": "Two"}\n{"text": \n')
    cursor = Cursor()
    list(islice(read_file(tmp_path / "a.jsonl", "text", cursor), 2))
    with pytest.raises(ValueError, match=r"line 4 of .*a\.jsonl is not JSON"):
        list(read_file(tmp_path / "a.jsonl", "text", Cursor(cursor.offset, cursor.lines)))


def test_a_bin_file_is_cut_at_its_ends_of_text(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", 4)
    ids = np.array([5, 6, 0, 7, 0, 0, 8, 9, 8, 9, 8, 0, 3], dtype="<u2")
    ids.tofile(tmp_path / "a.bin")
    cursor = Cursor()
    found = [each.tolist() for each in files.read_ids_by_document(tmp_path / "a.bin", 0, cursor)]
    assert found == [[5, 6, 0], [7, 0], [0], [8, 9, 8, 9, 8, 0], [3]]
    assert cursor.offset == 13


def test_windows_line_ends_and_a_byte_order_mark_do_not_reach_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne\r\nTwo\r\n")
    assert texts(tmp_path / "a.txt") == ["One\nTwo\n"]


def test_json_lines_give_a_document_a_line_from_the_column_asked_for(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", {"text": "x", "body": "One"}, {"body": "Two"})
    assert texts(file, text_column="body") == ["One", "Two"]


def test_json_lines_of_input_ids_give_ids(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", {"input_ids": [5, 6]}, {"input_ids": [7]})
    assert [ids.tolist() for ids in texts(file)] == [[5, 6], [7]]


def test_a_bin_file_is_one_memory_mapped_document_of_uint16(tmp_path):
    np.arange(60_000, 60_005, dtype="<u2").tofile(tmp_path / "a.bin")
    (ids,) = texts(tmp_path / "a.bin")
    assert isinstance(ids, np.memmap)
    assert ids.tolist() == [60_000, 60_001, 60_002, 60_003, 60_004]


def test_a_folder_is_searched_to_its_depth_in_sorted_order(tmp_path):
    for name in ("c.txt", "b/z.txt", "a.txt", ".git/hidden.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["a.txt", "b/z.txt", "c.txt"]


def test_a_pattern_and_a_list_give_their_files_in_order(tmp_path):
    for name in ("b1", "b2", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert texts([str(tmp_path / "b*.txt"), tmp_path / "a.txt"]) == ["b1", "b2", "a"]


@pytest.mark.parametrize("pattern", ["**/*", "**", "**/*.txt", "*"])
def test_a_pattern_that_finds_folders_reads_each_file_once(tmp_path, pattern):
    for name in ("x.txt", "a/y.txt", "a/b/z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert sorted(texts(f"{tmp_path}/{pattern}")) == ["a/b/z.txt", "a/y.txt", "x.txt"]


def test_a_pattern_that_finds_a_folder_of_tables_reads_its_tables_once(tmp_path):
    (tmp_path / "sub").mkdir()
    datasets.Dataset.from_dict({"text": ["One"]}).to_parquet(tmp_path / "sub" / "x.parquet")
    assert texts(f"{tmp_path}/**/*") == ["One"]
    assert texts(f"{tmp_path}/**") == ["One"]


def test_what_only_begins_like_a_note_is_text(tmp_path):
    datasets.Dataset.from_dict({"text": ["One"]}).to_parquet(tmp_path / "x.PARQUET")
    write_lines(tmp_path / "notices.jsonl", {"text": "Two"})
    assert sorted(texts(tmp_path)) == ["One", "Two"]


def test_a_file_that_is_named_twice_is_read_twice(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert texts([tmp_path / "a.txt", tmp_path / "a.txt"]) == ["a", "a"]


def test_a_linked_folder_is_read_and_one_that_leads_back_is_not(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("b")
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "link" / "back").symlink_to(folder)
    assert texts(folder) == ["b"]


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    for name in ("locked", "lost+found"):  # which only the disk's owner reads
        (tmp_path / name).mkdir()
    scan = os.scandir

    def locked(place):
        if str(place).endswith(("locked", "lost+found")):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError, match="locked"):
        texts(tmp_path)


def test_names_in_capitals_have_the_same_formats(tmp_path):
    (tmp_path / "A.TXT").write_text("One")
    with gzip.open(tmp_path / "B.JSONL.GZ", "wt") as file:
        file.write('{"text": "Two"}')
    assert texts(tmp_path) == ["One", "Two"]


def test_empty_documents_are_left_out(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", {"text": ""}, {"text": " \n"}, {"text": "One"})
    assert texts(file) == ["One"]


def test_unwrap_joins_lines_and_keeps_paragraphs(tmp_path):
    (tmp_path / "a.txt").write_text("One\ntwo.\n\nThree\nfour.")
    assert texts(tmp_path / "a.txt", unwrap=True) == ["One two.\n\nThree four."]


def test_unwrap_reads_windows_line_ends_in_any_source(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", {"text": "One\r\ntwo.\r\n\r\nThree\r\nfour."})
    assert texts(file, unwrap=True) == ["One two.\n\nThree four."]


def test_a_saved_dataset_gives_its_rows(tmp_path):
    datasets.Dataset.from_dict({"text": ["One", "Two"], "n": [1, 2]}).save_to_disk(tmp_path / "d")
    assert texts(tmp_path / "d") == ["One", "Two"]


def test_of_a_saved_dataset_in_splits_train_is_read(tmp_path):
    splits = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("test", "train")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "d")
    assert texts(tmp_path / "d") == ["train"]


def test_a_folder_of_parquet_is_a_dataset_even_beside_a_readme(tmp_path):
    (tmp_path / "README.txt").write_text("not the corpus")
    datasets.Dataset.from_dict({"text": ["One"]}).to_parquet(tmp_path / "train.parquet")
    assert texts(tmp_path) == ["One"]


@pytest.mark.parametrize("note", ["LICENSE.txt", "notice.txt", "README.jsonl"])
def test_what_lies_beside_tables_is_no_corpus(tmp_path, note):
    (tmp_path / note).write_text("terms")
    for split in ("train", "test"):
        table = datasets.Dataset.from_dict({"text": [split]})
        table.to_parquet(tmp_path / f"{split}-00000.parquet")
    assert texts(tmp_path) == ["train"]


def test_a_saved_dataset_is_one_whatever_lies_beside_it(tmp_path):
    datasets.Dataset.from_dict({"text": ["One"]}).save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "more.txt").write_text("Two")
    assert texts(tmp_path / "d") == ["One"]


def test_a_state_of_something_else_makes_no_saved_dataset(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "a.txt").write_text("One")
    assert texts(tmp_path) == ["One"]


def test_text_beside_tables_that_only_datasets_reads_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "a.csv").write_text("text\nOne\n")
    (tmp_path / "b.txt").write_text("Two")
    with pytest.raises(ValueError, match=r"tables \(a.csv\) and text \(b.txt\): name the text by"):
        texts(tmp_path)
    with pytest.raises(ValueError, match="of tables name the folder"):
        texts(tmp_path / "a.csv")


@pytest.mark.parametrize("kind", ["torch", "numpy", "arrow"])
def test_a_dataset_in_a_format_gives_the_same(tmp_path, kind):
    table = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]]})
    table.with_format(kind).save_to_disk(tmp_path / "d")
    assert [ids.tolist() for ids in texts(tmp_path / "d")] == [[1, 2], [3]]


def test_a_tokenised_dataset_gives_ids(tmp_path):
    datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]]}).save_to_disk(tmp_path / "d")
    assert [ids.tolist() for ids in texts(tmp_path / "d")] == [[1, 2], [3]]


def test_a_hub_name_may_carry_a_configuration(monkeypatch):
    asked = []

    def load(name, config):
        asked.append((name, config))
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["One"]}))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert texts("owner/name:wikitext-2-v1") == ["One"]
    assert asked == [("owner/name", "wikitext-2-v1")]


def test_a_module_gives_its_docstrings_in_order_and_cleaned():
    source = b'''"""Top."""
if True:
    class A:
        """Of A:

            Indented.
        Back.
        """
        def f(self):
            """Of f."""
    x = "no docstring"
    async def g():
        try:
            def h():
                """Of h."""
        except OSError:
            pass
'''
    assert (
        python_docs.module_docs(source) == "Top.\n\nOf A:\n\n    Indented.\nBack.\n\nOf f.\n\nOf h."
    )


def test_python_docs_leave_out_tests_and_what_does_not_parse(tmp_path):
    for name, source in {
        "b.py": '"""B."""',
        "a.py": '"""A."""',
        "broken.py": '"""No."""\ndef',
        "test/c.py": '"""C."""',
        "p/idle_test/d.py": '"""D."""',
        "site-packages/e.py": '"""E."""',
        "p/f.py": '"""F."""',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(source)
    found = list(python_docs.python_docs(tmp_path))
    assert found[:3] == ["A.", "B.", "F."]
    assert len(found) > 70, "then come the topics of help()"
    assert "C." not in found


def test_the_standard_library_is_there_to_be_read():
    paths = python_docs.module_paths()
    assert any(path.name == "argparse.py" for path in paths)
    assert not any("site-packages" in path.parts for path in paths)


def test_the_digest_of_a_source_follows_its_content(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("One")
    before = content_digest(file)
    (tmp_path / "same.txt").write_text("One")
    assert content_digest(tmp_path / "same.txt") == before
    file.write_text("Two")
    assert content_digest(file) != before


def test_the_digest_of_a_dataset_follows_its_content(tmp_path):
    for name, rows in (("a", ["One"]), ("b", ["Two"])):
        datasets.Dataset.from_dict({"text": rows}).save_to_disk(tmp_path / name)
    assert content_digest(tmp_path / "a") != content_digest(tmp_path / "b")


# Errors


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*none\.txt'"):
        documents(tmp_path / "none.txt")


def test_a_pattern_that_matches_nothing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file matches the pattern '.*\*\.txt'"):
        documents(str(tmp_path / "*.txt"))


def test_a_folder_without_text_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no text.*\.jsonl"):
        documents(tmp_path)


def test_a_file_of_an_unknown_format_is_refused_with_those_known(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(ValueError, match=r"cannot read .*a\.pdf: its name must end in \.txt"):
        documents(tmp_path / "a.pdf")


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match="list of sources is empty"):
        documents([])


@pytest.mark.parametrize("source", ["", " ", ["a.txt", ""]])
def test_an_empty_name_is_not_the_folder_at_hand(tmp_path, monkeypatch, source):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="one of the sources is empty"):
        texts(source)


def test_an_address_is_refused_without_asking_anybody():
    with pytest.raises(ValueError, match=r"'https://host/a.txt' is an address: fetch the file"):
        texts("https://host/a.txt")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"input_ids": [1, 99999999999999999999]}', "line 1 of .* token id 99999999999999999999"),
        ("[" * 100_000, "line 1 of .* is not JSON"),
        ('{"n": ' + "9" * 5000 + "}", "line 1 of .* is not JSON"),
    ],
)
def test_json_beyond_all_limits_is_named_with_its_line(tmp_path, line, words):
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(ValueError, match=words):
        texts(tmp_path / "a.jsonl")


def test_a_corpus_without_any_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="there is no text in"):
        texts(tmp_path)


@pytest.mark.parametrize("wrong", [b"\x00", b"\xff"])
def test_bytes_that_are_no_text_are_named_with_their_offset(tmp_path, wrong):
    (tmp_path / "a.txt").write_bytes("Grün\nab".encode() + wrong + b"c")
    with pytest.raises(ValueError, match=rf"a\.txt is not UTF-8.*byte 8 .*0x{wrong.hex()}"):
        texts(tmp_path / "a.txt")


def test_a_bad_line_of_json_is_named_with_its_number(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "One"}\n\n{"text": \n')
    with pytest.raises(ValueError, match=r"line 3 of .*a\.jsonl is not JSON"):
        texts(tmp_path / "a.jsonl")


def test_a_line_of_json_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('"One"\n')
    with pytest.raises(ValueError, match=r"line 1 .* must be a JSON object"):
        texts(tmp_path / "a.jsonl")


def test_a_missing_column_is_answered_with_those_there_are(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", {"body": "One", "title": "T"})
    with pytest.raises(ValueError, match=r"line 1 .*no column 'text'.*'body', 'title'"):
        texts(file)


def test_a_missing_column_of_a_dataset_is_answered_with_those_there_are(tmp_path):
    datasets.Dataset.from_dict({"body": ["One"], "n": [1]}).save_to_disk(tmp_path / "d")
    with pytest.raises(ValueError, match=r"no column 'text'.*'body', 'n'"):
        texts(tmp_path / "d")


@pytest.mark.parametrize("value", [None, 3, ["a"], [1.5], [True]])
def test_a_column_of_neither_text_nor_ids_is_refused(tmp_path, value):
    file = write_lines(tmp_path / "a.jsonl", {"text": value})
    with pytest.raises(ValueError, match=r"line 1 .*must hold text or a list of token ids"):
        texts(file)


def test_half_a_surrogate_pair_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800"}\n')
    with pytest.raises(ValueError, match=r"line 1 .*surrogate"):
        texts(tmp_path / "a.jsonl")


def test_a_bin_file_of_odd_size_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="has 3 bytes"):
        texts(tmp_path / "a.bin")


@pytest.mark.parametrize(("suffix", "opener"), COMPRESSIONS.items())
def test_a_truncated_archive_is_named(tmp_path, suffix, opener):
    file = tmp_path / f"a.txt.{suffix}"
    with opener(file, "wt") as stream:
        stream.write("".join(f"line {n}\n" for n in range(2000)))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"a\.txt\.{suffix} is cut short or damaged"):
        texts(file)


def test_a_damaged_archive_is_named(tmp_path):
    text = "".join(f"line {n}\n" for n in range(2000))
    data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(text.encode()))
    data[len(data) // 2] ^= 255
    (tmp_path / "a.txt.zst").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.txt\.zst is cut short or damaged"):
        texts(tmp_path / "a.txt.zst")


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"PAR1" + b[9:], lambda _: b"x"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    file = write_parquet(tmp_path / "a.parquet", text=["One " * 99, "Two"])
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.parquet is cut short or damaged"):
        texts(file)


def test_a_missing_column_of_a_parquet_file_is_answered_with_those_there_are(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", body=["One"], n=[1])
    with pytest.raises(ValueError, match=r"row 1 of .*no column 'text'.*'body', 'n'"):
        texts(file)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_what_only_calls_itself_an_archive_is_named(tmp_path, suffix):
    (tmp_path / f"a.txt.{suffix}").write_text("plain text")
    with pytest.raises(ValueError, match=rf"a\.txt\.{suffix} is cut short or damaged"):
        texts(tmp_path / f"a.txt.{suffix}")


def test_a_dataset_that_cannot_be_loaded_is_named_with_the_way_out(monkeypatch):
    def load(_name, _config):
        raise ConnectionError("no route to the hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ValueError, match=r"'owner/name' .*no route to the hub.*'python-docs'"):
        texts("owner/name")


def test_a_damaged_saved_dataset_is_named(tmp_path):
    datasets.Dataset.from_dict({"text": ["One"]}).save_to_disk(tmp_path / "d")
    for file in (tmp_path / "d").glob("*.arrow"):
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"datasets cannot load it"):
        texts(tmp_path / "d")


def test_the_default_corpus_has_a_name_that_is_no_path():
    assert corpus._resolve(corpus.PYTHON_DOCS) == [corpus.PYTHON_DOCS]
