"""What is saved is plain: no code, no name of another's class, no path, one precision."""

import json

import pytest
import torch
from published import Shape, mdlm_config, random_weights, under, write_folder
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from sdtt.models.checkpoints import load_model


@pytest.fixture
def published(tmp_path):
    """A folder as kuleshov-group/mdlm-owt has it: auto_map, return_dict false, and its code."""
    weights = under(random_weights(Shape()))
    folder = write_folder(tmp_path / "published", mdlm_config(), weights)
    (folder / "modeling_mdlm.py").write_text("raise SystemExit('remote code was run')")
    (folder / "configuration_mdlm.py").write_text("raise SystemExit('remote code was run')")
    return folder


def texts():
    return torch.randint(11, (3, 10), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_published_model_is_saved_as_a_plain_one_and_comes_back(published, dtype, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(published, dtype=dtype)
    model.save_pretrained(tmp_path / "saved")
    files = {path.name for path in (tmp_path / "saved").iterdir()}
    assert files == {"config.json", "generation_config.json", "model.safetensors"}
    weights = load_file(tmp_path / "saved/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {dtype}
    back = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved", dtype="auto")
    assert back.dtype == dtype
    torch.testing.assert_close(back(texts()).logits, model(texts()).logits)


def test_the_config_that_is_saved_keeps_nothing_of_the_code_it_came_with(published, tmp_path):
    AutoModelForMaskedLM.from_pretrained(published).save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved/config.json").read_text()
    config = json.loads(text)
    assert (config["model_type"], config["architectures"]) == ("mdlm", ["MDLMForMaskedLM"])
    assert not {"auto_map", "return_dict", "_name_or_path"} & set(config)
    assert str(tmp_path) not in text


def test_a_config_that_was_registered_as_remote_code_is_saved_without_it(published, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(published)
    model.config.auto_map = {"AutoConfig": "elsewhere.Config"}  # as somebody's tool may set it
    model.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved/config.json").read_text())


def test_of_a_folder_that_is_not_there_those_beside_it_are_named(random_model, tmp_path):
    for steps in ("1024-round-1", "512"):
        random_model().save_pretrained(tmp_path / "students" / steps)
    missing = tmp_path / "students" / "1024"
    with pytest.raises(ValueError, match=r"folder .*/1024; beside it there are 1024-round-1, 512"):
        load_model(missing)
