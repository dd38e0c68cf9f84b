"""What a source is: files of Lightning and their averages, names on the hub, local folders."""

import json
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants, errors
from published import (
    mdlm_config,
    nested_config,
    parameters,
    random_weights,
    under,
    write_folder,
    write_lightning,
)
from transformers import AutoModelForMaskedLM

from sdtt.data.tokenizer import load_tokenizer
from sdtt.models.checkpoints import load_config, load_model, load_outline, load_tokenizer_of
from sdtt.models.formats import hub
from sdtt.models.formats.source import read_source

WEIGHTS = random_weights()
HEAD = "backbone.output_layer.linear.weight"


class Vocabulary:
    """A class of somebody else's, as Lightning keeps a tokenizer among the hyper-parameters."""

    def __init__(self):
        self.size = 11


def head_of(source):
    return source.model().state_dict()[HEAD]


@pytest.fixture
def averaged(tmp_path):
    """A file in which the average of every weight is one more than the weight."""
    average = [weight + 1 for weight in parameters(WEIGHTS)]
    return write_lightning(tmp_path / "x.ckpt", under(WEIGHTS), average, nested_config())


def test_the_moving_average_is_taken_where_there_is_one(averaged):
    trained = WEIGHTS["output_layer.linear.weight"]
    assert torch.equal(head_of(read_source(averaged)), trained + 1)
    assert torch.equal(head_of(read_source(averaged, weights="ema")), trained + 1)
    assert torch.equal(head_of(read_source(averaged, weights="raw")), trained)
    assert torch.equal(load_model(averaged).state_dict()[HEAD], trained + 1)


def test_the_account_says_which_weights_were_taken(averaged):
    assert "the moving average (EMA)" in read_source(averaged).notes[-1]
    assert "the trained weights" in read_source(averaged, weights="raw").notes[-1]


def test_an_average_that_is_not_there_cannot_be_asked_for(tmp_path):
    file = write_lightning(tmp_path / "x.ckpt", under(WEIGHTS), config=nested_config())
    with pytest.raises(ValueError, match="has no moving average"):
        read_source(file, weights="ema")
    folder = write_folder(tmp_path / "m", nested_config(), under(WEIGHTS))
    with pytest.raises(ValueError, match="has no moving average"):
        read_source(folder, weights="ema")


def test_an_average_of_another_number_is_refused(tmp_path):
    average = parameters(WEIGHTS)[:-1]
    file = write_lightning(tmp_path / "x.ckpt", under(WEIGHTS), average, nested_config())
    with pytest.raises(ValueError, match="has 29 tensors for 30 parameters; --weights raw"):
        read_source(file)


def test_an_average_of_another_shape_is_refused(tmp_path):
    average = parameters(WEIGHTS)
    average[3] = average[3][:-1]
    file = write_lightning(tmp_path / "x.ckpt", under(WEIGHTS), average, nested_config())
    says = r"the moving average of backbone\.sigma_map\.mlp\.2\.weight is \[5, 6\], the parameter"
    with pytest.raises(ValueError, match=says):
        read_source(file)


def test_averages_of_a_noise_schedule_come_last_and_are_left(tmp_path):
    weights = under(WEIGHTS) | {"noise.scale": torch.ones(1)}
    average = [*(weight + 1 for weight in parameters(WEIGHTS)), torch.ones(1)]
    found = read_source(write_lightning(tmp_path / "x.ckpt", weights, average, nested_config()))
    assert torch.equal(head_of(found), WEIGHTS["output_layer.linear.weight"] + 1)
    assert "noise.scale" in found.account.left


def test_foreign_classes_of_a_file_are_named(tmp_path):
    file = write_lightning(
        tmp_path / "x.ckpt", under(WEIGHTS), config=nested_config(), tokenizer=Vocabulary()
    )
    assert "Vocabulary" in read_source(file).notes[-1]


def test_weights_of_half_precision_stay_as_they_are_unless_told_otherwise(tmp_path):
    half = {name: weight.bfloat16() for name, weight in under(WEIGHTS).items()}
    found = read_source(write_folder(tmp_path / "m", nested_config(), half))
    assert {p.dtype for p in found.model().parameters()} == {torch.bfloat16}
    assert {p.dtype for p in found.model(torch.float32).parameters()} == {torch.float32}
    assert load_model(tmp_path / "m", dtype="float32").dtype == torch.float32


def test_of_mixed_precisions_the_model_has_the_higher(tmp_path):
    mixed = under(WEIGHTS) | {HEAD: WEIGHTS["output_layer.linear.weight"].bfloat16()}
    found = read_source(write_folder(tmp_path / "m", nested_config(), mixed))
    assert {p.dtype for p in found.model().parameters()} == {torch.float32}


def test_nothing_is_read_into_memory_before_it_is_used(tmp_path):
    """Two models of one file share its pages: a weight of the one is where the map has it."""
    folder = write_folder(tmp_path / "m", nested_config(), under(WEIGHTS))
    found = read_source(folder)
    first, second = found.model().state_dict(), found.model().state_dict()
    assert all(first[name].data_ptr() == second[name].data_ptr() for name in first)


def test_a_published_folder_has_a_config_and_an_outline(tmp_path):
    folder = write_folder(tmp_path / "m", nested_config(), under(WEIGHTS))
    assert load_config(folder).hidden_dim == 16
    assert {p.device.type for p in load_outline(folder).parameters()} == {"meta"}


def test_a_published_folder_without_a_tokenizer_says_how_to_get_one(tmp_path):
    folder = write_folder(tmp_path / "m", nested_config(), under(WEIGHTS))
    with pytest.raises(ValueError, match=r"none was saved with it; 'sdtt convert .* gpt2'"):
        load_tokenizer_of(folder)


@pytest.mark.parametrize("load", [AutoModelForMaskedLM.from_pretrained, load_model, load_config])
def test_code_beside_a_checkpoint_is_never_run(load, tmp_path):
    folder = write_folder(tmp_path / "m", mdlm_config(), under(WEIGHTS))
    for name in ("configuration_mdlm.py", "modeling_mdlm.py"):
        (folder / name).write_text("raise SystemExit('this code ran')")
    assert load(folder)


@pytest.mark.parametrize("load", [load_model, load_config, load_tokenizer_of, load_tokenizer])
def test_code_beside_a_model_of_a_strange_type_is_not_even_asked_for(load, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: "y")
    code = {
        "AutoConfig": "own.C",
        "AutoModelForMaskedLM": "own.M",
        "AutoTokenizer": ["own.T", None],
    }
    config = {"model_type": "strange", "auto_map": code}
    folder = write_folder(tmp_path / "m", config, under(WEIGHTS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": code}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(ValueError, match="contains custom code which must be executed"):
        load(folder)
    assert not (tmp_path / "canary").exists()


def test_a_causal_model_whose_config_names_no_type_is_refused_in_words(tmp_path):
    folder = write_folder(tmp_path / "m", {}, under(WEIGHTS))
    with pytest.raises(ValueError, match=r"cannot load a causal .*Should have a .model_type."):
        load_model(folder, causal=True)


def test_a_transformers_folder_that_a_wrapper_saved_loads_like_another(tmp_path):
    weights = {f"backbone._orig_mod.{name}": weight for name, weight in WEIGHTS.items()}
    folder = write_folder(tmp_path / "m", mdlm_config(), weights)
    assert torch.equal(load_model(folder).state_dict()[HEAD], WEIGHTS["output_layer.linear.weight"])


# ---------------------------------------------------------------- what is not there


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder or file .*absent"):
        read_source(str(tmp_path / "absent"))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match="is a file that is not known: give the folder"):
        read_source(tmp_path / "x.txt")


def test_a_folder_of_pickles_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle, which is not read"):
        read_source(tmp_path)


def test_a_revision_of_a_folder_is_refused(tmp_path):
    folder = write_folder(tmp_path / "m", mdlm_config(), under(WEIGHTS))
    for read in (read_source, load_model):
        with pytest.raises(ValueError, match=r"a revision .'main'. goes with a name on the hub"):
            read(folder, revision="main")


@pytest.mark.parametrize("read", [read_source, load_model, load_config])
def test_without_a_network_one_line_says_how_to_go_on(read):
    with pytest.raises(ValueError, match=r"there is no network.*give the local folder") as caught:
        read("owner/name")
    assert "\n" not in str(caught.value)


def answered(kind):
    """An error of the hub, as its client makes it of an answer."""
    return kind("404 of the hub\nand more", response=SimpleNamespace(headers={}, request=None))


def test_a_revision_that_does_not_exist_is_answered_with_the_nearest(monkeypatch):
    def refuse(*_, **__):
        raise answered(errors.RevisionNotFoundError)

    names = ("main", "baselines_kld_step_10000", "teacher_1M_sm")
    refs = SimpleNamespace(branches=[SimpleNamespace(name=name) for name in names], tags=[])
    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub.HfApi, "list_repo_refs", lambda *_: refs)
    says = "has no revision 'baselines_kld_step_1000'; there are 3, the nearest: baselines_kld_step"
    with pytest.raises(ValueError, match=says):
        read_source("owner/name", revision="baselines_kld_step_1000")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (errors.RepositoryNotFoundError, "no model of that name on the hub"),
        (errors.GatedRepoError, "is gated: ask there for access"),
        (errors.RemoteEntryNotFoundError, r"has no config\.json"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(kind, says, monkeypatch):
    def refuse(*_, **__):
        raise answered(kind)

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=says):
        read_source("owner/name")


def test_a_page_instead_of_json_is_said_to_be_one(monkeypatch):
    def page(*_, **__):
        return json.loads("<html>")

    monkeypatch.setattr(hub, "snapshot_download", page)
    with pytest.raises(ValueError, match="from the hub: its answer is no JSON, but perhaps"):
        read_source("owner/name")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache in which a revision of jdeschena/sdtt lies, and the main branch is an MDLM."""
    place = tmp_path / "hub" / "models--jdeschena--sdtt"
    (place / "refs").mkdir(parents=True)
    for revision, digest, config in (
        ("main", "a" * 40, mdlm_config()),
        ("round7", "b" * 40, nested_config()),
    ):
        (place / "refs" / revision).write_text(digest)
        write_folder(place / "snapshots" / digest, config, under(WEIGHTS))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for module in ("file_download", "_snapshot_download"):
        monkeypatch.setattr(
            f"huggingface_hub.{module}.constants.HF_HUB_CACHE", str(tmp_path / "hub")
        )


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(("revision", "layout"), [(None, "mdlm"), ("round7", "nested")])
def test_a_cached_revision_loads_without_a_network(revision, layout):
    assert read_source("jdeschena/sdtt", revision=revision).layout.name == layout
    loaded = load_model("jdeschena/sdtt", revision=revision)
    assert torch.equal(loaded.state_dict()[HEAD], WEIGHTS["output_layer.linear.weight"])


@pytest.mark.usefixtures("cached")
def test_a_revision_that_is_not_cached_is_named():
    with pytest.raises(ValueError, match="at revision 'round8' nothing is cached"):
        load_model("jdeschena/sdtt", revision="round8")
