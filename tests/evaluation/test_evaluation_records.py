"""Records and sample files: written once, read back, refused in words."""

import json

import pytest

from sdtt.evaluation.records import (
    Record,
    Sample,
    append,
    defined,
    read_file,
    read_folder,
    read_samples,
    write_samples,
)


def record(**changes):
    fields = {
        "metric": "perplexity",
        "model": "teacher",
        "kind": "diffusion",
        "result": {"perplexity": 12.5, "perplexity_se": None},
        "draw": {"sampler": "dilated", "steps": 4},
        "settings": {"judge": "judge"},
    }
    return Record(**{**fields, **changes})


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    written = record(seconds=1.5, tokens=7, taught_steps=4, request="abc")
    append(tmp_path / "records.jsonl", written)
    assert read_folder(tmp_path) == [written]


def test_the_records_of_all_processes_are_read_and_each_measurement_counts_once(tmp_path):
    append(tmp_path / "records.jsonl", record(), record(result={"perplexity": 13.0}))
    append(tmp_path / "records.1.jsonl", record(model="student"))
    found = {one.model: one.result["perplexity"] for one in read_folder(tmp_path)}
    assert found == {"teacher": 13.0, "student": 12.5}


def test_the_newest_record_of_a_measurement_counts_whatever_file_it_is_in(tmp_path):
    append(tmp_path / "records.jsonl", record(result={"perplexity": 1.0}, time=1.0))
    append(tmp_path / "records.1.jsonl", record(result={"perplexity": 2.0}, time=2.0))
    assert [one.result["perplexity"] for one in read_folder(tmp_path)] == [2.0]


def test_of_a_model_whose_weights_have_changed_the_newest_count(tmp_path):
    old = record(fingerprint="old", time=1.0, draw={"steps": 2})
    append(tmp_path / "records.jsonl", old, record(fingerprint="new", time=2.0, draw={"steps": 4}))
    assert [one.draw for one in read_folder(tmp_path)] == [{"steps": 4}]


def test_a_line_that_a_kill_cut_short_is_left_out_and_the_next_record_stands_on_its_own(tmp_path):
    path = tmp_path / "records.jsonl"
    append(path, record())
    path.write_bytes(path.read_bytes() + record(model="cut").line().encode()[:40])
    append(path, record(model="student"))
    assert [one.model for one in read_file(path)] == ["teacher", "student"]


def test_a_record_cut_anywhere_is_left_out(tmp_path):
    path = tmp_path / "records.jsonl"
    values = {"nll": 0.5, "nll_se": None, "tiny": 1.5e-12, "less": -2.0, "note": 'a \u00e9 "b"'}
    line = record(result=values | {"exact": True, "curve": [{"n": 1}]}).line()
    assert "e-12" in line
    for end in range(1, len(line)):
        path.write_text(line[:end] + "\n" + line + "\n")
        assert len(read_file(path)) == 1, line[:end]


def test_a_number_that_is_infinite_is_found_in_a_curve():
    with pytest.raises(ValueError, match="perplexity of teacher: curve is inf"):
        record(result={"curve": [{"n": 1, "nll": float("inf")}]})


def test_a_result_that_is_no_mapping_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(json.loads(record().line()) | {"result": [1]}) + "\n")
    with pytest.raises(ValueError, match="line 1: its 'result' is no mapping"):
        read_file(path)


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 1: not JSON"):
        read_file(path)


def test_a_record_of_another_layout_is_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(json.loads(record().line()) | {"version": 9}) + "\n")
    with pytest.raises(ValueError, match="layout 9; this sdtt reads layout 1"):
        read_file(path)


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no records"):
        read_folder(tmp_path)


def test_a_number_that_is_infinite_is_named_and_not_written():
    with pytest.raises(ValueError, match="perplexity of teacher: perplexity is inf"):
        record(result={"perplexity": float("inf")})


def test_what_is_not_defined_becomes_none():
    assert defined({"a": float("nan"), "b": 1.0, "c": "x"}) == {"a": None, "b": 1.0, "c": "x"}
    assert defined({"curve": [{"n": 4, "nll_se": float("nan")}], "by_seed": (float("nan"),)}) == {
        "curve": [{"n": 4, "nll_se": None}],
        "by_seed": [None],
    }


def test_samples_are_read_back_as_they_were_written(tmp_path):
    samples = [
        Sample([1, 2], "ab", prompt_tokens=1, group=0, revealed=[-1, 0], tokens=["a", "b"]),
        Sample(text="only text"),
    ]
    write_samples(tmp_path / "s.jsonl", samples)
    assert read_samples(tmp_path / "s.jsonl") == samples


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "line 1: not JSON"),
        ('{"other": 1}', "needs a field 'text' or 'ids'"),
        ('{"ids": [1, true]}', "'ids' must be a list of whole numbers"),
        ('{"ids": []}', "the sample is empty"),
        ('{"text": ""}', "the sample is empty"),
        ('{"ids": [1], "prompt_tokens": -3}', "'prompt_tokens' must be a whole number"),
        ('{"ids": [1], "prompt_tokens": 2}', "whole number up to that of ids, got 2"),
        ('{"text": "a", "prompt_tokens": [1]}', r"line 1: 'prompt_tokens' .* got \[1\]"),
        ('{"text": "a", "group": [1]}', r"'group' must be a number or a string, got \[1\]"),
        ('{"text": "a", "revealed": 3}', "'revealed' must be a list"),
        ("", "holds no samples"),
    ],
)
def test_a_file_that_holds_no_samples_is_refused_with_its_line(tmp_path, line, words):
    (tmp_path / "s.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=words):
        read_samples(tmp_path / "s.jsonl")


def test_a_mark_at_the_front_of_a_file_of_samples_is_no_part_of_it(tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_text('{"text": "caf\u00e9"}\n', "utf-8-sig")
    assert [sample.text for sample in read_samples(file)] == ["caf\u00e9"]


@pytest.mark.parametrize("read", [read_samples, read_file])
def test_a_file_that_is_no_utf_8_is_named_with_the_way_out(tmp_path, read):
    file = tmp_path / "s.jsonl"
    file.write_text('{"text": "caf\u00e9"}\n', "latin-1")
    with pytest.raises(ValueError, match=r"s\.jsonl is no UTF-8 text at its byte 13: save it as"):
        read(file)
