"""`sdtt convert`: the account on stdout, a whole folder at DEST or none."""

import json
import shutil

import pytest
import torch
from published import (
    Shape,
    mdlm_config,
    nested_config,
    random_weights,
    under,
    write_folder,
    write_lightning,
)
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from sdtt.cli.convert import COMMAND
from sdtt.data.tokenizer import train_tokenizer
from sdtt.models.formats import convert
from sdtt.models.mdlm import MDLMForMaskedLM

WEIGHTS = random_weights()
IDS = 280
OF_TOKENIZER = Shape(ids=IDS)


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "source", nested_config(), under(WEIGHTS))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A tokenizer of 280 ids, MASK the last."""
    folder = tmp_path_factory.mktemp("vocabulary")
    text = ["the small cat saw a red bird sing in the tree by the old mill. " * 9]
    tokenizer = train_tokenizer(text, IDS)
    assert len(tokenizer) == IDS
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def with_ids(tmp_path):
    """A published folder of the tokenizer's size."""
    weights = under(random_weights(OF_TOKENIZER))
    return write_folder(tmp_path / "with_ids", nested_config(OF_TOKENIZER), weights)


@pytest.fixture
def run(invoke):
    def invoked(*words):
        return invoke(COMMAND, "fake", *map(str, words))

    return invoked


def test_a_published_folder_becomes_a_plain_one(run, source, tmp_path):
    result = run(source, tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "generation_config.json", "model.safetensors"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "mdlm"
    assert not {"auto_map", "return_dict", "model"} & config.keys()
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert type(loaded) is MDLMForMaskedLM


def test_the_code_that_a_config_names_is_gone_from_the_converted_one(run, tmp_path):
    source = write_folder(tmp_path / "mdlm", mdlm_config(), under(WEIGHTS))
    run(source, tmp_path / "out")
    assert "auto_map" not in (tmp_path / "out" / "config.json").read_text()


def test_every_weight_is_the_published_one(run, source, tmp_path):
    run(source, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    due = {name: weight for name, weight in under(WEIGHTS).items() if "inv_freq" not in name}
    assert written.keys() == due.keys()
    assert all(torch.equal(written[name], due[name]) for name in due)


def test_the_account_says_layout_config_counts_bytes_and_what_is_left(run, source):
    lines = run(source, "--dry-run").stdout.splitlines()
    assert lines == [
        f"source      {source}",
        "layout      nested: a config with a section 'model': SDTT (jdeschena/sdtt), Lightning of "
        "mdlm and duo",
        "model       mdlm: 2 blocks, 16 wide, 2 heads, texts of 12, 11 ids, MASK 10, conditioning "
        "constant, 6 wide",
        "taken       30 weights, 39,596 bytes, float32",
        "left over   1: backbone.rotary_emb.inv_freq: rotary frequencies, which are computed; "
        "equal to ours",
        "note        nothing names MASK: the last id, 10, is taken",
        "written     nothing: --dry-run",
    ]


def test_a_dry_run_writes_nothing(run, source, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert run(source, tmp_path / "out", "--dry-run").exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_destination_is_needed_but_for_a_dry_run(run, source):
    result = run(source)
    assert result.exit_code == 2
    assert "DEST is required" in result.stderr


def test_folding_is_in_the_account_and_in_the_config(run, source, tmp_path):
    result = run(source, tmp_path / "out", "--fold")
    assert "folded      10 of them, the conditioning, into the others" in result.stdout
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.conditioning == "none"


def test_what_has_no_conditioning_cannot_be_folded(run, source, tmp_path):
    run(source, tmp_path / "out", "--fold")
    result = run(tmp_path / "out", tmp_path / "again", "--fold")
    assert result.exit_code == 2
    assert "has no conditioning to fold: leave out --fold" in result.stderr


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_written_in_the_precision_that_is_asked_for(run, source, dtype, tmp_path):
    run(source, tmp_path / "out", "--dtype", dtype)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in written.values()} == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_raw_weights_of_a_lightning_file_can_be_chosen(run, tmp_path):
    average = [weight + 1 for name, weight in WEIGHTS.items() if "inv_freq" not in name]
    file = write_lightning(tmp_path / "x.ckpt", under(WEIGHTS), average, nested_config())
    heads = {}
    for which in ("ema", "raw"):
        assert run(file, tmp_path / which, "--weights", which).exit_code == 0
        written = load_file(tmp_path / which / "model.safetensors")
        heads[which] = written["backbone.output_layer.linear.weight"]
    assert torch.equal(heads["raw"], WEIGHTS["output_layer.linear.weight"])
    assert torch.equal(heads["ema"], heads["raw"] + 1)


def test_what_our_own_folders_say_of_sampling_is_kept(run, pair, tmp_path):
    result = run(pair / "student", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for name in ("config.json", "generation_config.json"):
        before, after = (
            json.loads((place / name).read_text()) for place in (pair / "student", tmp_path / "out")
        )
        assert before == after


def test_a_generation_config_of_another_way_to_generate_is_left_out(run, source, tmp_path):
    file = source / "generation_config.json"
    file.write_text('{"do_sample": true, "top_k": 50}')
    assert run(source, tmp_path / "out").exit_code == 0
    assert "top_k" not in (tmp_path / "out/generation_config.json").read_text()
    file.write_text("{")
    result = run(source, tmp_path / "again")
    assert result.exit_code == 2
    assert f"{file} is damaged" in result.stderr


# ---------------------------------------------------------------- what is there is kept


def test_a_destination_that_is_there_is_refused(run, source, tmp_path):
    (tmp_path / "out").mkdir()
    result = run(source, tmp_path / "out")
    assert result.exit_code == 2
    assert "out is there already; give --overwrite or another DEST" in result.stderr


def test_a_model_that_is_there_is_replaced_where_that_is_asked_for(run, source, tmp_path):
    shutil.copytree(source, tmp_path / "out")
    result = run(source, tmp_path / "out", "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert "model_type" in (tmp_path / "out" / "config.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def test_a_folder_with_other_things_is_never_replaced(run, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    result = run(source, tmp_path / "out", "--overwrite")
    assert result.exit_code == 2
    assert "holds more than a model, such as thesis.tex" in result.stderr
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_the_source_is_never_replaced(run, source):
    result = run(source, source, "--overwrite")
    assert result.exit_code == 2
    assert "is the source, or holds it" in result.stderr


@pytest.mark.parametrize("there", [False, True])
def test_a_conversion_that_fails_leaves_what_was_there(run, source, there, tmp_path, monkeypatch):
    if there:
        shutil.copytree(source, tmp_path / "out")

    def half(_, folder, **__):
        (folder / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MDLMForMaskedLM, "save_pretrained", half)
    result = run(source, tmp_path / "out", "--overwrite")
    assert result.exit_code == 2
    assert "no space left on the disk" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"source"} | ({"out"} if there else set())
    if there:
        assert json.loads((tmp_path / "out" / "config.json").read_text()) == nested_config()


def test_what_a_kill_between_the_renames_left_is_back_before_anything_else(
    run, source, tmp_path, monkeypatch
):
    shutil.copytree(source, tmp_path / ".out.before")
    result = run(source, tmp_path / "out")
    assert "out is there already" in result.stderr
    (tmp_path / "out").rename(tmp_path / ".out.before")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MDLMForMaskedLM, "save_pretrained", full)
    assert run(source, tmp_path / "out", "--overwrite").exit_code == 2
    assert json.loads((tmp_path / "out/config.json").read_text()) == nested_config()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def test_a_link_to_a_model_stays_one_when_the_model_is_replaced(run, source, tmp_path):
    run(source, tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    run(source, tmp_path / "link", "--overwrite", "--dtype", "bfloat16")
    assert (tmp_path / "link").is_symlink()
    assert MDLMForMaskedLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    assert {path.name for path in tmp_path.iterdir()} == {"source", "model", "link"}


def test_a_destination_is_never_seen_half_written(tmp_path):
    with convert.replacing(tmp_path / "out") as aside:
        (aside / "config.json").write_text("{}")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "config.json").read_text() == "{}"


# ---------------------------------------------------------------- tokenizers


def test_without_a_tokenizer_one_line_says_whose_was_used(run, source, tmp_path):
    result = run(source, tmp_path / "out")
    lines = [line for line in result.stderr.splitlines() if "tokenizer" in line]
    assert len(lines) == 1
    assert "--tokenizer gpt2" in lines[0]


def test_the_tokenizer_of_the_source_comes_along(run, with_ids, vocabulary, tmp_path):
    shutil.copytree(vocabulary, with_ids, dirs_exist_ok=True)
    result = run(with_ids, tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.get_vocab() == AutoTokenizer.from_pretrained(vocabulary).get_vocab()


def test_a_named_tokenizer_is_put_beside_the_model(run, with_ids, vocabulary, tmp_path):
    result = run(with_ids, tmp_path / "out", "--tokenizer", vocabulary)
    assert result.exit_code == 0, result.stderr
    assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token_id == IDS - 1


def test_a_tokenizer_longer_than_the_embedding_is_refused(run, source, vocabulary, tmp_path):
    result = run(source, tmp_path / "out", "--tokenizer", vocabulary)
    assert result.exit_code == 2
    assert "the tokenizer has 280 ids and the model 11" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_another_mask_is_refused(run, vocabulary, tmp_path):
    shape = Shape(ids=IDS + 4)
    weights = under(random_weights(shape))
    source = write_folder(tmp_path / "wider", nested_config(shape), weights)
    result = run(source, tmp_path / "out", "--tokenizer", vocabulary)
    assert result.exit_code == 2
    assert "MASK is 279 for the tokenizer and 283 for the model" in result.stderr
    words = ("--tokenizer", vocabulary, "--mask-token-id", 279)
    assert run(source, tmp_path / "out", *words).exit_code == 0


@pytest.fixture
def without_mask(vocabulary, tmp_path):
    """The tokenizer of 280 ids, with an ordinary token in the place of MASK."""
    folder = shutil.copytree(vocabulary, tmp_path / "without_mask")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("mask_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content.replace("[MASK]", "<last>"))
    assert AutoTokenizer.from_pretrained(folder).mask_token is None
    return folder


def test_a_model_without_mask_is_refused(run, with_ids, without_mask, tmp_path):
    result = run(with_ids, tmp_path / "out", "--tokenizer", without_mask)
    assert result.exit_code == 2
    assert "280 ids and the tokenizer as many without MASK" in result.stderr
    assert "--mask-token-id names it" in result.stderr


def test_the_id_of_a_mask_that_the_tokenizer_gets_may_be_given(run, without_mask, tmp_path):
    shape = Shape(ids=IDS + 1)
    source = write_folder(tmp_path / "wider", nested_config(shape), under(random_weights(shape)))
    words = ("--tokenizer", without_mask, "--mask-token-id", IDS)
    result = run(source, tmp_path / "out", *words)
    assert result.exit_code == 0, result.stderr
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (loaded.mask_token, loaded.mask_token_id) == ("[MASK]", IDS)


@pytest.mark.parametrize("place", ["student", "~/vocabulary"])
def test_a_tokenizer_is_found_alike_where_the_id_of_mask_is_given(
    run, pair, place, vocabulary, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(vocabulary, tmp_path / "vocabulary")
    found = AutoTokenizer.from_pretrained(pair / "student" if place == "student" else vocabulary)
    shape = Shape(ids=len(found))
    source = write_folder(tmp_path / "own", nested_config(shape), under(random_weights(shape)))
    words = ("--tokenizer", place, "--mask-token-id", found.mask_token_id)
    result = run(source, tmp_path / "out", *words)
    assert result.exit_code == 0, result.stderr


def test_a_token_that_serves_as_mask_can_be_named(run, with_ids, without_mask, tmp_path):
    words = ("--tokenizer", without_mask, "--mask-token-id", 7)
    result = run(with_ids, tmp_path / "out", *words)
    assert result.exit_code == 0, result.stderr
    assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token_id == 7
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.mask_token_id == 7
