import json

import numpy as np
import pytest
import torch
from published import plain_scores
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForMaskedLM

from sdtt.diffusion.denoiser import Denoiser, as_denoiser
from sdtt.models.exact import TableDenoiser
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM, preset

SHAPE = {"vocab_size": 11, "hidden_dim": 16, "n_blocks": 2, "n_heads": 2, "model_length": 12}
CONDITIONED = {"conditioning": "constant", "cond_dim": 6}


def network(random=True, **settings):
    """A small model; every parameter, modulations too, is random unless told otherwise."""
    torch.manual_seed(0)
    model = MDLMForMaskedLM(MDLMConfig(**SHAPE | settings)).eval()
    if random:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(float("norm" in name), 0.3, generator=generator)
    return model


def texts(count=3, length=10, seed=0):
    return torch.randint(11, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[{}, CONDITIONED, {"tie_word_embeddings": True}])
def model(request):
    return network(**request.param)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("small", 169), ("medium", 424), ("large", 863), ("1.3b", 1450), ("3b", 3320), ("8b", 8590)],
)
def test_a_preset_has_the_size_of_the_paper(name, millions):
    with torch.device("meta"):
        model = MDLMForMaskedLM(preset(name))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.01)


def test_parameters_have_the_published_names():
    shapes = {name: tuple(p.shape) for name, p in network(**CONDITIONED).named_parameters()}
    published = {
        "backbone.vocab_embed.embedding": (11, 16),
        "backbone.sigma_map.mlp.0.weight": (6, 256),
        "backbone.sigma_map.mlp.0.bias": (6,),
        "backbone.sigma_map.mlp.2.weight": (6, 6),
        "backbone.sigma_map.mlp.2.bias": (6,),
        "backbone.output_layer.norm_final.weight": (16,),
        "backbone.output_layer.linear.weight": (11, 16),
        "backbone.output_layer.linear.bias": (11,),
        "backbone.output_layer.adaLN_modulation.weight": (32, 6),
        "backbone.output_layer.adaLN_modulation.bias": (32,),
    }
    for block in ("backbone.blocks.0", "backbone.blocks.1"):
        published |= {
            f"{block}.norm1.weight": (16,),
            f"{block}.attn_qkv.weight": (48, 16),
            f"{block}.attn_out.weight": (16, 16),
            f"{block}.norm2.weight": (16,),
            f"{block}.mlp.0.weight": (64, 16),
            f"{block}.mlp.0.bias": (64,),
            f"{block}.mlp.2.weight": (16, 64),
            f"{block}.mlp.2.bias": (16,),
            f"{block}.adaLN_modulation.weight": (96, 6),
            f"{block}.adaLN_modulation.bias": (96,),
        }
    assert shapes == published


def assert_same_model(loaded, model):
    """Every weight bitwise; logits to rounding, for kernels may depend on how memory is aligned."""
    weights, expected = loaded.state_dict(), model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    torch.testing.assert_close(loaded(texts()).logits, model(texts()).logits)


def test_a_saved_model_comes_back_bitwise_through_the_auto_class(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(loaded) is MDLMForMaskedLM
    assert loaded.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert_same_model(loaded, model)


def test_tied_weights_are_one_tensor_before_and_after_loading(tmp_path):
    model = network(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    for one in (model, AutoModelForMaskedLM.from_pretrained(tmp_path)):
        assert one.backbone.output_layer.linear.weight is one.backbone.vocab_embed.embedding


def test_a_saved_folder_holds_a_config_and_safetensors_and_no_code(model, tmp_path):
    model.save_pretrained(tmp_path)
    files = {"config.json", "generation_config.json", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_a_published_folder_loads_into_our_class_without_its_code(tmp_path):
    source = network(**CONDITIONED)
    source.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "backbone.sigma_map.mlp.0.weight" in weights
    published = {
        "architectures": ["MDLM"],
        "auto_map": {
            "AutoConfig": "configuration_mdlm.MDLMConfig",
            "AutoModelForMaskedLM": "modeling_mdlm.MDLM",
        },
        "cond_dim": 6,
        "dropout": 0.1,
        "hidden_dim": 16,
        "model_length": 12,
        "model_type": "mdlm",
        "n_blocks": 2,
        "n_heads": 2,
        "return_dict": False,
        "time_conditioning": False,
        "torch_dtype": "float32",
        "vocab_size": 11,
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(loaded) is MDLMForMaskedLM
    assert loaded.config.conditioning == "constant"
    assert loaded.config.mask_token_id == 10
    assert_same_model(loaded.eval(), source)


def test_standard_names_of_the_config_reach_the_published_ones():
    config = AutoConfig.for_model("mdlm", **SHAPE)
    assert (config.hidden_size, config.num_hidden_layers) == (16, 2)
    assert (config.num_attention_heads, config.max_position_embeddings) == (2, 12)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", [{}, CONDITIONED])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_network_is_the_published_one_written_out(conditioning, attention):
    model = network(**conditioning)
    model.set_attn_implementation(attention)
    z = texts()
    ours = model.logits(model.hidden(z)).view(3, 10, -1)
    weights = {name.removeprefix("backbone."): p for name, p in model.named_parameters()}
    plain = plain_scores(weights, z, heads=2)[..., :10]
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_a_network_is_a_denoiser(model):
    assert isinstance(model, Denoiser)
    assert as_denoiser(model) is model
    assert as_denoiser(TableDenoiser(torch.full((2,), 0.5).double())).mask_token_id == 2


def test_what_is_no_denoiser_is_refused():
    with pytest.raises(ValueError, match="Linear is no denoiser"):
        as_denoiser(torch.nn.Linear(2, 2))


@torch.no_grad()
def test_rows_select_rows_of_the_whole(model):
    z, rows = texts(), torch.tensor([29, 4, 11, 4])
    torch.testing.assert_close(model.hidden(z, rows), model.hidden(z)[rows], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_logits_of_forward_are_those_of_the_denoiser(model):
    z = texts()
    logits = model(z).logits
    assert logits.shape == (3, 10, 11)
    assert logits[..., 10].isneginf().all()
    torch.testing.assert_close(logits[..., :10].flatten(0, 1), model.logits(model.hidden(z)))


@torch.no_grad()
@pytest.mark.parametrize("mask_id", [0, 4, 10])
def test_mask_has_probability_zero_wherever_its_id_lies(mask_id):
    model = network(mask_token_id=mask_id)
    law = model(texts()).logits.softmax(-1)
    assert (law[..., mask_id] == 0).all()
    rows = model.logits(model.hidden(texts())).softmax(-1)
    torch.testing.assert_close(rows, law.flatten(0, 1)[:, : rows.shape[1]])


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_padded_text_has_the_logits_that_it_has_alone(attention, side):
    model = network()
    model.set_attn_implementation(attention)
    z, real = texts(2), torch.ones(2, 10, dtype=torch.bool)
    own = slice(0, 6) if side == "right" else slice(4, 10)
    real[1] = False
    real[1, own] = True
    together = model(z, attention_mask=real).logits[..., :10]
    torch.testing.assert_close(together[0], model(z[:1]).logits[0, :, :10], rtol=1e-4, atol=1e-4)
    alone = model(z[1:, own]).logits[0, :, :10]
    torch.testing.assert_close(together[1, own], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_mask_of_integers_is_a_mask(model):
    real = torch.ones(3, 10, dtype=torch.long)
    real[:, 7:] = 0
    with_integers, with_truths = (model(texts(), attention_mask=m) for m in (real, real.bool()))
    assert torch.equal(with_integers.logits, with_truths.logits)


@torch.no_grad()
def test_written_out_attention_is_sdpa(model):
    fused = model(texts()).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(texts()).logits, fused, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_last_token_reaches_the_first_position(model):
    z, other = texts(1), texts(1)
    other[0, -1] = (z[0, -1] + 1) % 10
    assert (model(z).logits[0, 0, :10] - model(other).logits[0, 0, :10]).abs().max() > 1e-3


@torch.no_grad()
def test_positions_matter(model):
    z = torch.tensor([[1, 2, 3, 10, 4, 5]])
    swapped = torch.tensor([[2, 1, 3, 10, 4, 5]])
    assert (model(z).logits[0, 3, :10] - model(swapped).logits[0, 3, :10]).abs().max() > 1e-3


@torch.no_grad()
def test_the_blocks_of_a_fresh_conditioned_model_are_the_identity():
    model = network(random=False, **CONDITIONED)
    embedded = model.backbone.vocab_embed(texts()).flatten(0, 1)
    norm = model.backbone.output_layer.norm_final
    torch.testing.assert_close(model.hidden(texts()), norm(embedded))


@torch.no_grad()
def test_a_fresh_conditioned_model_gives_the_flat_law_everywhere():
    model = network(random=False, **CONDITIONED)
    law = model.logits(model.hidden(texts())).softmax(-1)
    torch.testing.assert_close(law, torch.full_like(law, 1 / 10))


def test_labels_give_their_mean_cross_entropy_over_the_tokens_that_can_be(model):
    z, labels = texts(), texts(seed=1) % 10
    labels[:, ::3] = -100
    output = model(z, labels=labels)
    due = functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(output.loss, due)
    gradients = [
        torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        for loss in (output.loss, due)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_objective_gets_the_rows_that_it_asked_for_and_the_head(model):
    rows = torch.tensor([3, 17])
    output = model(
        texts(), rows=rows, objective=lambda hidden, head: head.scores(hidden).logsumexp(-1).sum()
    )
    due = model.head.scores(model.hidden(texts(), rows)).logsumexp(-1).sum()
    torch.testing.assert_close(output.loss, due)
    assert output.logits is None


def test_a_text_longer_than_the_model_is_refused(model):
    with pytest.raises(ValueError, match="a text of 13 tokens is longer than the model's 12"):
        model(texts(length=13))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_heads": 3}, r"multiple of 2 \* n_heads"),
        ({"n_heads": 16}, r"multiple of 2 \* n_heads"),  # odd heads cannot be turned
        ({"conditioning": "adaLN", "cond_dim": 6}, "'constant' or 'time', got 'adaLN'"),
        ({"conditioning": "constant"}, "does not go with cond_dim=None"),
        ({"conditioning": "none", "cond_dim": 6}, "does not go with cond_dim=6"),
        ({"conditioning": "time"}, "does not go with cond_dim=None"),
        ({"time_conditioning": True}, "conditioning='time' does not go with cond_dim=None"),
        ({"time_conditioning": True} | CONDITIONED, "does not go with conditioning='constant'"),
        ({"mask_token_id": 11}, r"mask_token_id must lie in \[0, 11\), got 11"),
        ({"mask_token_id": -1}, r"mask_token_id must lie in \[0, 11\), got -1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
        ({"n_heads": 0}, "n_heads must be a whole number from 1 on, got 0"),
        ({"n_heads": -2}, "n_heads must be a whole number from 1 on, got -2"),
        ({"n_blocks": 0}, "n_blocks must be a whole number from 1 on, got 0"),
        ({"hidden_dim": 0}, "hidden_dim must be a whole number from 1 on, got 0"),
        ({"model_length": 0}, "model_length must be a whole number from 1 on, got 0"),
        ({"vocab_size": 1}, "vocab_size must be a whole number from 2 on, got 1"),
        ({"conditioning": "time", "cond_dim": -4}, "cond_dim must be a whole number, .* got -4"),
        ({"hidden_act": "nope"}, "unknown hidden_act 'nope'"),
        ({"hidden_act": []}, r"unknown hidden_act \[\]"),
        ({"time_conditioning": None}, "time_conditioning must be true or false, got None"),
        ({"dtype": "bf16"}, "dtype must be the name of a type of torch's, .* got 'bf16'"),
        ({"dtype": "int8"}, "dtype must be the name of a type of torch's, .* got 'int8'"),
        ({"torch_dtype": "fp16"}, "dtype must be the name of a type of torch's, .* got 'fp16'"),
    ],
)
def test_a_config_that_cannot_be_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        MDLMConfig(**SHAPE | settings)


def test_numbers_of_numpy_are_numbers(tmp_path):
    numbers = {"vocab_size": np.int64(11), "dropout": np.float64(0.1)}
    MDLMConfig(**SHAPE | numbers).save_pretrained(tmp_path)
    loaded = MDLMConfig.from_pretrained(tmp_path)
    assert (loaded.vocab_size, loaded.mask_token_id, loaded.dropout) == (11, 10, 0.1)


def test_an_unknown_preset_is_refused_by_naming_the_others():
    with pytest.raises(ValueError, match="unknown preset 'huge'; there are tiny, mini, small"):
        preset("huge")


def test_a_preset_takes_other_values():
    assert preset("tiny", vocab_size=300).mask_token_id == 299
