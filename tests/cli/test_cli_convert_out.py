"""`sdtt convert --to` and `--with-code`: the way out."""

import json

import pytest
import torch
from published import plain_law
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from sdtt.cli.convert import COMMAND
from sdtt.models.checkpoints import load_model
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM

SHAPE = {"vocab_size": 11, "hidden_dim": 16, "n_blocks": 2, "n_heads": 2, "model_length": 12}


def saved(folder, **settings):
    torch.manual_seed(0)
    model = MDLMForMaskedLM(MDLMConfig(**SHAPE | settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name), 0.3)
    model.save_pretrained(folder)
    return model


def texts():
    return torch.randint(11, (3, 10), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def law(model):
    return model(texts()).logits[..., :10].log_softmax(-1)


@pytest.mark.parametrize("layout", ["mdlm", "sdtt"])
@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True}, {"cond_dim": 6}], ids=str)
def test_a_model_goes_out_in_the_layout_of_the_reference_and_comes_back(
    invoke, tmp_path, layout, settings
):
    model = saved(tmp_path / "own", **settings)
    result = invoke(COMMAND, "fake", str(tmp_path / "own"), str(tmp_path / "out"), "--to", layout)
    assert result.exit_code == 0, result.stderr
    weights = load_file(tmp_path / "out/model.safetensors")
    plain = {name.removeprefix("backbone."): weight for name, weight in weights.items()}
    torch.testing.assert_close(plain_law(plain, texts(), 2), law(model), rtol=1e-4, atol=1e-4)
    back = load_model(tmp_path / "out")
    torch.testing.assert_close(law(back), law(model), rtol=1e-5, atol=1e-5)


def test_a_model_goes_out_with_its_code_and_may_be_replaced(invoke, tmp_path):
    saved(tmp_path / "own")
    words = "fake", str(tmp_path / "own"), str(tmp_path / "out"), "--with-code"
    assert invoke(COMMAND, *words).exit_code == 0
    assert (tmp_path / "out/modeling_mdlm.py").is_file()
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["auto_map"]["AutoModelForMaskedLM"] == "modeling_mdlm.MDLMForMaskedLM"
    assert type(AutoModelForMaskedLM.from_pretrained(tmp_path / "out")) is MDLMForMaskedLM
    result = invoke(COMMAND, *words, "--overwrite")
    assert result.exit_code == 0, result.stderr


def test_converting_a_model_with_code_leaves_the_code_behind(invoke, tmp_path):
    saved(tmp_path / "own")
    invoke(COMMAND, "fake", str(tmp_path / "own"), str(tmp_path / "code"), "--with-code")
    invoke(COMMAND, "fake", str(tmp_path / "code"), str(tmp_path / "clean"))
    assert not list((tmp_path / "clean").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "clean/config.json").read_text())


def test_what_the_reference_cannot_express_is_refused_before_anything_is_written(invoke, tmp_path):
    saved(tmp_path / "own", hidden_act="gelu")
    words = "fake", str(tmp_path / "own"), str(tmp_path / "out"), "--to", "mdlm"
    for more in ([], ["--dry-run"]):
        result = invoke(COMMAND, *words, *more)
        assert result.exit_code == 2
        assert "this model's hidden_act is 'gelu'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_that_its_code_would_change_is_refused_before_anything_is_written(invoke, tmp_path):
    saved(tmp_path / "own", conditioning="time", cond_dim=6)
    for more in ([], ["--dry-run"]):
        words = "fake", str(tmp_path / "own"), str(tmp_path / "out"), "--with-code"
        result = invoke(COMMAND, *words, *more)
        assert result.exit_code == 2
        assert "modeling_mdlm.py has no conditioning='time'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_code_does_not_go_with_the_layout_of_the_reference(invoke, tmp_path):
    result = invoke(COMMAND, "fake", str(tmp_path), "out", "--to", "sdtt", "--with-code")
    assert result.exit_code == 2
    assert "--with-code does not go with --to sdtt" in result.stderr
