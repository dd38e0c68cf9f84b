"""Weights in eight bits by torchao: the law moves by little, and everything asks for it as before.

Skipped where torchao is not installed: the package does not need it.
"""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMaskedLM, TorchAoConfig

from sdtt.models.checkpoints import load_model
from sdtt.models.mdlm import MDLMForMaskedLM

quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")

CONDITIONED = {"conditioning": "constant", "cond_dim": 32}
SHAPE = {"vocab_size": 41, "hidden_dim": 64, "n_blocks": 3, "n_heads": 4, "model_length": 16}
CASES = [
    ({}, False),
    ({}, True),
    (CONDITIONED, False),
    (CONDITIONED, True),
    ({"tie_word_embeddings": True}, False),
    ({"tie_word_embeddings": True}, True),
]
ROWS = torch.tensor([4, 2, 17, 40])


def texts():
    z = torch.randint(40, (3, 16), generator=torch.Generator().manual_seed(0))
    z[:, 2:9] = 40
    return z


def quantise(folder, head):
    kind = quantization.Int8WeightOnlyConfig(version=2)
    how = TorchAoConfig(kind, include_input_output_embeddings=head)
    return AutoModelForMaskedLM.from_pretrained(folder, quantization_config=how)


@pytest.fixture(scope="module", params=CASES, ids=str)
def pair(request, random_model, tmp_path_factory):
    """A model, and the same in eight bits, with its head or without."""
    settings, head = request.param
    folder = tmp_path_factory.mktemp("model")
    model = random_model(**SHAPE | settings, scale=0.1)
    model.save_pretrained(folder)
    return model, quantise(folder, head)


def law(model, *rows):
    with torch.no_grad():
        return model.logits(model.hidden(texts(), *rows)).softmax(-1)


def in_eight_bits(model):
    return {name for name, p in model.named_parameters() if type(p).__name__ == "Int8Tensor"}


def test_linear_maps_of_the_blocks_are_in_eight_bits_and_the_head_only_where_asked_for(pair):
    model, quantised = pair
    names = in_eight_bits(quantised)
    maps = ("attn_qkv", "attn_out", "mlp.0", "mlp.2")
    assert {f"backbone.blocks.{n}.{m}.weight" for n in range(3) for m in maps} <= names
    assert not any("embed" in name or "norm" in name for name in names)
    if model.config.tie_word_embeddings:
        assert "backbone.output_layer.linear.weight" not in names


def test_the_law_moves_by_at_most_a_hundredth_in_total_variation(pair):
    model, quantised = pair
    distance = (law(model) - law(quantised)).abs().sum(-1) / 2
    assert 0 < distance.max() < 0.01


def test_asked_rows_are_rows_of_the_whole_in_eight_bits(pair):
    quantised = pair[1]
    torch.testing.assert_close(law(quantised, ROWS), law(quantised)[ROWS], rtol=1e-4, atol=1e-6)


def test_losses_read_the_head_that_samplers_read(pair):
    quantised = pair[1]
    labels = torch.where(texts() == 40, 3, -100)
    with torch.no_grad():
        loss = quantised(texts(), labels=labels).loss
    due = -law(quantised)[(labels == 3).flatten(), 3].log().mean()
    torch.testing.assert_close(loss, due, rtol=1e-4, atol=1e-5)


def test_a_quantised_model_generates_and_is_its_own_fast_form(pair):
    quantised = pair[1]
    text = quantised.generate(max_length=16, steps=4, seed=1).sequences
    assert (text < 40).all()
    assert quantised.for_inference() is quantised


def test_a_quantised_model_comes_back_from_a_file_with_its_law(pair, tmp_path):
    quantised = pair[1]
    quantised.save_pretrained(tmp_path)
    for loaded in (AutoModelForMaskedLM.from_pretrained(tmp_path), load_model(tmp_path)):
        assert type(loaded) is MDLMForMaskedLM
        assert in_eight_bits(loaded) == in_eight_bits(quantised)
        torch.testing.assert_close(law(loaded), law(quantised))


def test_adapters_learn_on_a_quantised_model(random_model, tmp_path):
    random_model(**SHAPE, scale=0.1).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["attn_qkv", "attn_out", "mlp.0", "mlp.2"])
    model = get_peft_model(quantise(tmp_path, head=False), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    labels = torch.where(texts() == 40, 3, -100)
    losses = []
    for _ in range(12):
        loss = model(texts(), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_folding_and_resizing_a_quantised_model_is_refused(random_model, tmp_path):
    random_model(**SHAPE | CONDITIONED).save_pretrained(tmp_path)
    quantised = quantise(tmp_path, head=False)
    with pytest.raises(ValueError, match="cannot be folded: fold the plain one before"):
        quantised.fold()
    with pytest.raises(ValueError, match="keeps its vocabulary: resize the plain one"):
        quantised.resize_token_embeddings(50)


def test_a_model_folded_before_it_is_quantised_is_nearer_to_its_law(random_model, tmp_path):
    model = random_model(**SHAPE | CONDITIONED, scale=0.2)
    distance = {}
    for name, form in (("after", model), ("folded", model.fold())):
        form.save_pretrained(tmp_path / name)
        quantised = quantise(tmp_path / name, head=False)
        distance[name] = (law(model) - law(quantised)).abs().sum(-1).mean() / 2
    assert distance["folded"] < distance["after"]
