"""Every published layout gives the law of the network written out from its weights."""

import pytest
import torch
from published import (
    SMALL,
    Shape,
    mdlm_config,
    nested_config,
    parameters,
    plain_law,
    random_weights,
    texts,
    under,
    write_folder,
    write_lightning,
)
from transformers import AutoModelForMaskedLM

from sdtt.models.checkpoints import load_model
from sdtt.models.formats.convert import convert_checkpoint
from sdtt.models.formats.source import read_source
from sdtt.models.mdlm import MDLMForMaskedLM


def mdlm_folder(place, weights, shape):
    return write_folder(place / "mdlm", mdlm_config(shape), under(weights))


def mdlm_folder_without_buffers(place, weights, shape):
    kept = {name: weight for name, weight in under(weights).items() if "inv_freq" not in name}
    return write_folder(place / "plain", mdlm_config(shape), kept)


def sdtt_folder(place, weights, shape):
    return write_folder(place / "sdtt", nested_config(shape), under(weights))


def sharded_folder(place, weights, shape):
    return write_folder(place / "shards", nested_config(shape), under(weights), shards=3)


def lightning_file(place, weights, shape):
    return write_lightning(place / "raw.ckpt", under(weights), config=nested_config(shape))


def lightning_average(place, weights, shape):
    """The weights are the average; what was trained is something else."""
    trained = under({name: torch.randn_like(weight) for name, weight in weights.items()})
    trained["backbone.rotary_emb.inv_freq"] = weights["rotary_emb.inv_freq"]
    average = parameters(weights)
    return write_lightning(place / "ema.ckpt", trained, average, nested_config(shape))


def compiled_and_wrapped(place, weights, shape):
    names = under(weights, "module.backbone._orig_mod.")
    return write_lightning(place / "wrapped.ckpt", names, parameters(weights), nested_config(shape))


def network_of_transformers(place, weights, shape):
    names = under(weights, "_orig_mod.backbone.module.backbone.")
    return write_lightning(place / "hf.ckpt", names, config=nested_config(shape))


def without_a_config(place, weights, _):
    return write_lightning(place / "bare.ckpt", under(weights))


LAYOUTS = [
    mdlm_folder,
    mdlm_folder_without_buffers,
    sdtt_folder,
    sharded_folder,
    lightning_file,
    lightning_average,
    compiled_and_wrapped,
    network_of_transformers,
    without_a_config,
]


@torch.no_grad()
def law(model, z):
    return model(z).logits[..., :-1].log_softmax(-1)


def assert_law(model, weights, shape, z):
    assert type(model) is MDLMForMaskedLM
    assert not model.training
    due = plain_law(weights, z, shape.heads)
    torch.testing.assert_close(law(model, z), due, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_loaded_checkpoint_has_the_law_of_the_network_written_out(write, tmp_path):
    weights = random_weights()
    assert_law(load_model(write(tmp_path, weights, Shape())), weights, Shape(), texts())


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("write", LAYOUTS)
def test_a_converted_checkpoint_has_it_through_the_auto_class(write, folded, tmp_path):
    weights = random_weights()
    source = read_source(write(tmp_path, weights, Shape()))
    convert_checkpoint(source, tmp_path / "out", folded=folded)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert loaded.config.conditioning == ("none" if folded else "constant")
    assert_law(loaded, weights, Shape(), texts())


@pytest.mark.parametrize("write", [mdlm_folder, mdlm_folder_without_buffers])
def test_a_transformers_folder_has_it_through_the_auto_class_at_once(write, tmp_path):
    weights = random_weights()
    loaded = AutoModelForMaskedLM.from_pretrained(write(tmp_path, weights, Shape()))
    assert_law(loaded, weights, Shape(), texts())


def test_every_kind_of_weight_enters_the_law():
    """Else parity would not see it: a change of any one weight shows."""
    weights, z = random_weights(), texts()
    due = plain_law(weights, z, 2)
    for name in weights.keys() - {"rotary_emb.inv_freq"}:
        other = {**weights, name: weights[name] + 0.3 * torch.randn_like(weights[name])}
        assert (plain_law(other, z, 2) - due).abs().max() > 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("write", [mdlm_folder, sdtt_folder, lightning_average])
def test_the_published_size_has_the_law_of_the_network_written_out(write, folded, tmp_path):
    weights = random_weights(SMALL, scale=0.03)
    z = texts(SMALL, count=2, length=128)
    model = load_model(write(tmp_path, weights, SMALL))
    assert_law(model.fold() if folded else model, weights, SMALL, z)
