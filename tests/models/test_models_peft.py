"""``peft`` sees an ordinary transformers model: it learns, is saved, loaded, merged, sampled."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForMaskedLM

from sdtt.diffusion.denoiser import Denoiser
from sdtt.models.adapters import network_of
from sdtt.models.mdlm import MDLMForMaskedLM

TARGETS = ["attn_qkv", "attn_out", "mlp.0", "mlp.2"]
SHAPES = [{}, {"conditioning": "constant", "cond_dim": 6}, {"tie_word_embeddings": True}]
UPDATES = 20


def texts():
    z = torch.randint(10, (3, 10), generator=torch.Generator().manual_seed(0))
    z[:, 2:6] = 10
    return z


def labels():
    return torch.where(texts() == 10, 3, -100)


def law(model):
    with torch.no_grad():
        return model(texts()).logits.softmax(-1)


def learned(model, targets):
    """The model with adapters after some updates, and the losses of these."""
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(UPDATES):
        loss = model(input_ids=texts(), labels=labels()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model.eval(), losses


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def trained(request, random_model, tmp_path_factory):
    """A base in a folder, the same with adapters that have learned, and their folder."""
    home = tmp_path_factory.mktemp("peft")
    base = random_model(**request.param)
    base.save_pretrained(home / "base")
    model, losses = learned(AutoModelForMaskedLM.from_pretrained(home / "base"), TARGETS)
    model.save_pretrained(home / "adapter")
    return base, model, losses, home


def test_adapters_learn(trained):
    _, model, losses, _ = trained
    assert losses[-1] < losses[0] / 2
    adapted = {n.split(".lora_A")[0] for n, _ in model.named_parameters() if "lora_A" in n}
    assert sum(".blocks." in name for name in adapted) == 3 * len(TARGETS)


def test_saved_adapters_have_their_law_on_the_base_from_its_folder(trained):
    base, model, _, home = trained
    fresh = AutoModelForMaskedLM.from_pretrained(home / "base")
    loaded = PeftModel.from_pretrained(fresh, home / "adapter")
    torch.testing.assert_close(law(loaded), law(model))
    assert (law(loaded) - law(base)).abs().max() > 0.1


def test_the_auto_class_loads_base_and_adapters_from_the_folder_of_the_adapters(trained):
    _, model, _, home = trained
    loaded = AutoModelForMaskedLM.from_pretrained(home / "adapter")
    assert type(loaded) is MDLMForMaskedLM
    torch.testing.assert_close(law(loaded), law(model))


def test_a_merged_model_has_the_law_of_base_and_adapters_also_from_its_own_file(trained, tmp_path):
    _, model, _, home = trained
    fresh = AutoModelForMaskedLM.from_pretrained(home / "base")
    merged = PeftModel.from_pretrained(fresh, home / "adapter").merge_and_unload()
    assert type(merged) is MDLMForMaskedLM
    merged.save_pretrained(tmp_path)
    for one in (merged, AutoModelForMaskedLM.from_pretrained(tmp_path)):
        torch.testing.assert_close(law(one), law(model), rtol=1e-4, atol=1e-5)


def test_a_wrapped_model_is_a_denoiser_and_generates_from_its_adapters(trained):
    base, model, _, _ = trained
    assert isinstance(model, Denoiser)
    given = {"max_length": 12, "steps": 4, "seed": 1, "num_return_sequences": 8}
    text = model.generate(**given).sequences
    assert torch.equal(text, network_of(model).generate(**given).sequences)
    with model.disable_adapter():
        assert torch.equal(model.generate(**given).sequences, base.generate(**given).sequences)
    assert not torch.equal(text, base.generate(**given).sequences)


def test_the_fast_form_of_a_model_with_adapters_keeps_them(trained):
    network = network_of(trained[1])
    assert network.for_inference() is network


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_all_linear_means_all_linear_maps_but_the_head(random_model, settings):
    model = random_model(**settings)
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    prefix = "base_model.model."
    adapted = {n.split(".lora_A")[0] for n, _ in model.named_parameters() if "lora_A" in n}
    due = linear - {"backbone.output_layer.linear"}
    assert {name.removeprefix(prefix) for name in adapted} == due


def test_adapters_of_transformers_own_interface_learn_and_switch_off(random_model):
    model = random_model()
    before = law(model)
    model.add_adapter(LoraConfig(r=2, target_modules=TARGETS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    assert (law(model) - before).abs().max() > 0.05
    model.disable_adapters()
    torch.testing.assert_close(law(model), before)
