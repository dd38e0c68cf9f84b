"""Claims about checkpoints of Lightning: weights, moving average, settings, and no more."""

import resource
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
import torch

from sdtt.models.formats.lightning import read_lightning
from sdtt.models.formats.placeholders import Placeholder

LIBRARIES = """
import collections, datetime, pathlib, typing

class Node:  # as those of omegaconf
    def __init__(self, **state):
        self.__dict__.update(state)

class Attributes(dict):  # as Lightning's
    pass

class Tokenizer:
    pass

def config(value):
    if isinstance(value, dict):
        return Node(_content={k: config(v) for k, v in value.items()}, _metadata=typing.Any)
    if isinstance(value, list):
        return Node(_content=[config(each) for each in value], _metadata=typing.Any)
    return Node(_val=value, _metadata=typing.Any)
"""

CONFIG = {"model": {"hidden_size": 8, "n_blocks": 2}, "ema": 0.9999, "seeds": [1, None, "a"]}


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """Stands for the packages whose objects are in a checkpoint; gone once it is saved."""
    (tmp_path / "libraries.py").write_text(textwrap.dedent(LIBRARIES))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module("libraries")
    sys.modules.pop("libraries", None)


@pytest.fixture
def checkpoint(libraries):
    """What mdlm, sdtt and duo save, in small."""
    network = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(8)).sum().backward()
    optimizer.step()
    shadow = [parameter.detach() + 1 for parameter in network.parameters()]
    return {
        "epoch": 0,
        "global_step": 7,
        "pytorch-lightning_version": "2.2.1",
        "state_dict": network.state_dict(prefix="backbone._orig_mod."),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"completed": 1}}}},
        "callbacks": {
            "ModelCheckpoint": {"best": torch.tensor(1.0), "path": libraries.pathlib.Path()}
        },
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"milestones": libraries.collections.Counter([3]), "base_lrs": [1e-3]}],
        "hparams_name": "kwargs",
        "hyper_parameters": libraries.Attributes(
            config=libraries.config(CONFIG), tokenizer=libraries.Tokenizer(), vocab_size=11
        ),
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow},
        "sampler": {"random_state": None},
    }


@pytest.fixture
def file(tmp_path, libraries):
    def save(content, **options):
        torch.save(content, tmp_path / "last.ckpt", **options)
        Path(libraries.__file__).unlink(missing_ok=True)
        sys.modules.pop("libraries", None)
        return tmp_path / "last.ckpt"

    return save


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_and_moving_average_are_those_that_were_saved(checkpoint, file, zipped):
    read = read_lightning(file(checkpoint, _use_new_zipfile_serialization=zipped))
    assert list(read.weights) == ["backbone._orig_mod.weight", "backbone._orig_mod.bias"]
    for name, weight in checkpoint["state_dict"].items():
        assert torch.equal(read.weights[name], weight)
    assert len(read.ema) == 2
    for found, shadow in zip(read.ema, checkpoint["ema"]["shadow_params"], strict=True):
        assert torch.equal(found, shadow)


def test_settings_come_out_plain_and_other_objects_as_placeholders(checkpoint, file):
    settings = read_lightning(file(checkpoint)).hyper_parameters
    assert settings["config"] == CONFIG
    assert settings["vocab_size"] == 11
    assert isinstance(settings["tokenizer"], Placeholder)
    assert settings["tokenizer"].name == "libraries.Tokenizer"


def test_every_class_that_was_not_loaded_is_named(checkpoint, file):
    names = read_lightning(file(checkpoint)).placeholders
    path = type(Path()).__name__
    assert set(names) >= {"libraries.Attributes", "libraries.Node", "libraries.Tokenizer"}
    assert set(names) - {f"pathlib.{path}", f"pathlib._local.{path}"} == {
        *("libraries.Attributes", "libraries.Node", "libraries.Tokenizer", "typing.Any")
    }
    assert "libraries" not in sys.modules


def test_a_checkpoint_without_average_or_settings_says_so(checkpoint, file):
    bare = {"state_dict": checkpoint["state_dict"]}
    read = read_lightning(file(bare))
    assert read.ema is None
    assert read.hyper_parameters == {}


@pytest.mark.parametrize("ema", [{"decay": 0.9}, {"shadow_params": [1]}, [torch.ones(1)], "ema"])
def test_a_moving_average_of_another_form_is_an_error(checkpoint, file, ema):
    with pytest.raises(ValueError, match="its 'ema' has no list shadow_params of tensors"):
        read_lightning(file(checkpoint | {"ema": ema}))


def test_a_weight_that_is_no_tensor_is_named(checkpoint, file, libraries):
    checkpoint["state_dict"]["backbone.extra"] = libraries.Tokenizer()
    with pytest.raises(ValueError, match=r"state_dict\['backbone\.extra'\] is <libraries\.Token"):
        read_lightning(file(checkpoint))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"model": 1, "optimizer": 2}, "it has no state_dict, but model, optimizer"),
        ({"a.weight": torch.ones(1)}, "it is a bare dictionary of tensors"),
        ([1], "it holds a list"),
        ({}, "but nothing"),
        ({"state_dict": [1]}, "it has no state_dict"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_has_instead(file, content, why):
    with pytest.raises(ValueError, match=rf"last\.ckpt is no checkpoint of Lightning: .*{why}"):
        read_lightning(file(content))


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="it is said there")
def test_what_is_not_asked_for_is_not_read(file):
    """A file of 48 MiB, of which 1 MiB is weights, costs far less memory than itself."""
    large = {f"exp_avg_{i}": torch.zeros(4, 2**20) for i in range(3)}
    path = file({"state_dict": {"w": torch.ones(2**18)}, "optimizer_states": [large]})
    del large
    assert path.stat().st_size > 48 * 2**20
    before = resident()
    read = read_lightning(path)
    assert read.weights["w"].sum() == 2**18
    assert resident() - before < 16 * 2**20


def resident():
    """Bytes of memory of this process that are in use, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
