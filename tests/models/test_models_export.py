"""Models in the reference's layouts: the same law, under the published keys, or a refusal."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from sdtt.models.checkpoints import load_model
from sdtt.models.export import as_reference, export_reference
from sdtt.models.fold import fold
from sdtt.models.formats.checkpoint import WITHOUT_MASK
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM

CONDITIONED = {"conditioning": "constant", "cond_dim": 6}
FORMS = [
    {},
    {"tie_word_embeddings": True},
    CONDITIONED,
    CONDITIONED | {"tie_word_embeddings": True},
]


def texts(count=3, length=10):
    return torch.randint(11, (count, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def log_law(model):
    return model(texts()).logits[..., :10].log_softmax(-1)


def from_nested(folder):
    """The model of a folder of the SDTT releases, its keys mapped by hand."""
    weights = load_file(folder / "model.safetensors")
    given = json.loads((folder / "config.json").read_text())["model"]
    shape = MDLMConfig(
        vocab_size=len(weights["backbone.vocab_embed.embedding"]),
        hidden_dim=given["hidden_size"],
        model_length=given["length"],
        n_blocks=given["n_blocks"],
        n_heads=given["n_heads"],
        cond_dim=given["cond_dim"],
    )
    del weights["backbone.rotary_emb.inv_freq"]
    model = MDLMForMaskedLM(shape).eval()
    model.load_state_dict(weights)
    return model


LOADERS = {"mdlm": AutoModelForMaskedLM.from_pretrained, "sdtt": from_nested}


@pytest.mark.parametrize("layout", ["mdlm", "sdtt"])
@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_an_exported_model_comes_back_with_the_same_law(random_model, settings, layout, tmp_path):
    model = random_model(**settings)
    export_reference(model, tmp_path, layout)
    loaded = LOADERS[layout](tmp_path)
    torch.testing.assert_close(log_law(loaded), log_law(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_a_folded_model_gets_its_attention_bias_back_as_a_shift(
    random_model, dtype, error, tmp_path
):
    model = random_model(**CONDITIONED).to(dtype)
    export_reference(fold(model), tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=dtype)
    torch.testing.assert_close(log_law(loaded), log_law(model), rtol=error, atol=error)


@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_an_exported_model_has_the_published_keys_and_no_other(random_model, settings):
    published = set(random_model(**CONDITIONED).state_dict()) | {"backbone.rotary_emb.inv_freq"}
    assert set(as_reference(random_model(**settings)).weights) == published


def test_an_exported_model_says_where_mask_is_whatever_its_vocabulary(
    random_model, tmp_path, monkeypatch
):
    monkeypatch.setitem(WITHOUT_MASK, 11, "that of no model")
    export_reference(random_model(), tmp_path)
    assert load_model(tmp_path).mask_token_id == 10


def test_the_frequencies_are_those_of_the_reference_buffer(random_model):
    given = as_reference(random_model()).weights["backbone.rotary_emb.inv_freq"]
    torch.testing.assert_close(given, torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_the_flat_config_has_the_published_keys(random_model):
    model = random_model(dropout=0.1, bos_token_id=3)
    config = as_reference(model, dtype=torch.bfloat16).config
    assert config["auto_map"]["AutoModelForMaskedLM"].startswith("kuleshov-group/mdlm-owt--")
    given = {name: value for name, value in config.items() if name != "auto_map"}
    assert given == {
        "architectures": ["MDLM"],
        "model_type": "mdlm",
        "vocab_size": 11,
        "mask_token_id": 10,
        "model_length": 12,
        "hidden_dim": 16,
        "cond_dim": 128,
        "n_blocks": 3,
        "n_heads": 2,
        "dropout": 0.1,
        "time_conditioning": False,
        "return_dict": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 3,
    }


def test_exported_weights_are_rounded_once(random_model):
    model = random_model(**CONDITIONED)
    exported, own = as_reference(model, dtype=torch.bfloat16).weights, model.state_dict()
    assert all(torch.equal(exported[name], own[name].bfloat16()) for name in own)


def test_exporting_changes_nothing_of_the_model(random_model):
    model = random_model(**CONDITIONED, attention_bias=True)
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.attn_qkv.bias.zero_()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for weight in as_reference(model).weights.values():
        weight.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask_token_id": 3}, "this model's MASK is 3 of 11 ids"),
        ({"hidden_act": "gelu"}, "tanh-GELU only: this model's hidden_act is 'gelu'"),
        (CONDITIONED | {"conditioning": "time"}, "has no conditioning='time'"),
        ({"attention": "reveal_causal"}, "has no attention='reveal_causal'"),
        ({"attention_bias": True}, "that of backbone.blocks.0 is not what a shift"),
        ({"attention_bias": True, **CONDITIONED}, "that of backbone.blocks.0 is not what a shift"),
    ],
    ids=str,
)
def test_what_the_reference_cannot_express_is_refused(random_model, settings, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        export_reference(random_model(**settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_layout_is_refused_by_name(random_model):
    with pytest.raises(ValueError, match="unknown layout 'sedd'; there are mdlm, sdtt"):
        as_reference(random_model(), "sedd")
