"""Claims about the models that come with the package: whole, known by name, or said not to be."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import sdtt
from sdtt.models.checkpoints import check_folder, load_model, load_outline, load_tokenizer_of
from sdtt.models.shipped import MANIFEST, SHIPPED, resolve, shipped, write_manifest

pytestmark = pytest.mark.usefixtures("pair")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_name_gives_the_folder_of_its_model(pair, name):
    assert shipped(name) == resolve(name) == resolve(Path(name)) == check_folder(name)
    assert shipped(name) == pair / name


def test_transformers_loads_what_the_package_names():
    for name in ("student", "teacher", "caching"):
        model = AutoModelForMaskedLM.from_pretrained(sdtt.shipped(name))
        assert isinstance(model, sdtt.MDLMForMaskedLM)
    assert isinstance(AutoModelForCausalLM.from_pretrained(sdtt.shipped("judge")), sdtt.CausalLM)


def test_loaders_take_a_name_for_the_shipped_folder(pair):
    by_name, by_folder = load_model("teacher"), load_model(pair / "teacher")
    assert torch.equal(by_name.head.weight, by_folder.head.weight)
    assert load_outline("student").config.sdtt_sampling_steps == 4
    assert load_tokenizer_of("judge").get_vocab() == load_tokenizer_of(pair / "judge").get_vocab()
    assert sdtt.load_tokenizer("judge").get_vocab() == load_tokenizer_of("judge").get_vocab()


@pytest.mark.parametrize("source", ["teacher", Path("teacher")])
def test_a_local_folder_of_that_name_wins(pair, source):
    shutil.copytree(pair / "student", "teacher")
    assert resolve(source) == source
    assert load_model(source).generation_config.steps == 4


@pytest.mark.parametrize("source", ["gpt2", "runs/teacher", "./teacher", "Teacher", Path("x")])
def test_any_other_source_comes_back_unchanged(source):
    assert resolve(source) == source


def test_there_is_no_other_shipped_model():
    with pytest.raises(ValueError, match="no shipped model 'master'; there are student, teacher"):
        shipped("master")


# ---------------------------------------------------------------- what is missing or damaged


def test_every_file_of_a_model_is_checked(pair):
    """Also those that no loader would miss."""
    for file in sorted((pair / "teacher").iterdir()):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"{file} of the shipped teacher is damaged"):
            shipped("teacher")
        file.unlink()
        with pytest.raises(FileNotFoundError, match=f"the shipped teacher lacks its file {file}"):
            shipped("teacher")
        file.write_bytes(whole)
    assert shipped("teacher") == pair / "teacher"


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"]
)
def test_an_empty_file_or_a_pointer_to_large_storage_is_damaged(pair, content):
    (pair / "student/model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors of the shipped student is damaged"):
        load_model("student")
    shipped("teacher")  # which does not need it


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"teacher/config.json": "0"}', "null"])
def test_a_manifest_that_lists_nothing_of_a_model_passes_nothing(pair, content):
    (pair / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: it lists no file of student"):
        shipped("student")


def test_without_a_manifest_there_is_no_model(pair):
    (pair / MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match=r"lack their .*manifest\.json"):
        shipped("student")


def test_the_way_out_of_a_checkout_is_git_and_of_an_installation_pip(pair):
    file = pair / "teacher/config.json"
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"'git checkout -- {file}' .* 'make pair'"):
        shipped("teacher")
    (pair.parents[2] / ".git").rmdir()
    with pytest.raises(FileNotFoundError, match="'pip install --force-reinstall sdtt' brings"):
        shipped("teacher")


@pytest.mark.parametrize("name", ["judge", "caching"])
def test_an_installation_says_that_it_has_no_such_model_and_where_there_is_one(pair, name):
    shutil.rmtree(pair / name)
    with pytest.raises(FileNotFoundError, match=rf"lacks its file .*{name}.*git checkout"):
        shipped(name)
    (pair.parents[2] / ".git").rmdir()
    where = rf"shipped {name} lies in the repository of sdtt, not in the installed .*/{name} of a"
    with pytest.raises(FileNotFoundError, match=where):
        load_model(name, causal=name == "judge")


def test_a_complaint_is_one_line(pair):
    (pair / "teacher/config.json").unlink()
    (pair / "student/config.json").write_text("")
    for name in ("teacher", "student"):
        with pytest.raises((FileNotFoundError, ValueError)) as caught:
            shipped(name)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the manifest


def test_a_manifest_lists_all_files_of_the_three_models_and_no_other(pair):
    (pair / "notes.txt").write_text("not of a model")
    listed = json.loads(write_manifest(pair).read_text())
    files = {p.relative_to(pair).as_posix() for n in SHIPPED for p in (pair / n).rglob("*.*")}
    assert listed.keys() == files
    assert {len(digest) for digest in listed.values()} == {64}


def test_a_new_manifest_stands_for_the_files_as_they_are(pair):
    (pair / "teacher/README.md").write_text("a new card")
    write_manifest(pair)
    assert "teacher/README.md" in json.loads((pair / MANIFEST).read_text())
    shipped("teacher")


def test_a_manifest_is_not_written_for_half_a_pair(pair):
    shutil.rmtree(pair / "student")
    with pytest.raises(FileNotFoundError, match=r"no model in .*student"):
        write_manifest(pair)
