"""The modelling file that goes with a model: the same law and texts where there is no sdtt."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, GenerationConfig

from sdtt.models.export import add_code, save_with_code
from sdtt.models.fold import fold
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.models.remote import modeling_mdlm as remote
from sdtt.sampling.generation import DiffusionGenerationConfig

CONDITIONED = {"conditioning": "constant", "cond_dim": 6}
FORMS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "erf gelu": {"hidden_act": "gelu", "dropout": 0.1},
    "attention bias": {"attention_bias": True, "mask_token_id": 3},
    "conditioned": CONDITIONED,
    "conditioned and tied": CONDITIONED | {"tie_word_embeddings": True},
    "folded": CONDITIONED,
    "bfloat16": CONDITIONED,
}
SAMPLERS = [("dilated", 4), ("dilated", 12), ("ancestral", 4), ("ancestral", 64)]

# -I -S: neither the working folder nor any .pth file, so that no source of sdtt is in reach. The
# dependencies come from the site-packages of this interpreter.
WITHOUT = """
import importlib.util, json, sys

folder, site_packages = sys.argv[1:]
sys.path[:0] = json.loads(site_packages)
assert importlib.util.find_spec("sdtt.models") is None, "sdtt is in reach"

import torch
from transformers import AutoModelForMaskedLM

result = {}
for name, asked in torch.load(f"{folder}/asked.pt").items():
    place = f"{folder}/{name}"
    model = AutoModelForMaskedLM.from_pretrained(place, dtype="auto", trust_remote_code=True)
    with torch.no_grad():
        logits = model(asked["ids"], attention_mask=asked["real"]).logits
    texts = [model.generate(**each) for each in asked["settings"]]
    result[name] = {"logits": logits, "texts": texts, "module": type(model).__module__}
assert "sdtt.models" not in sys.modules
torch.save(result, f"{folder}/answered.pt")
"""


def asked_of(mask):
    """Texts with padding on both sides, and settings to sample by, prompts and infilling too."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(11, (3, 10), generator=generator)
    real = torch.ones(3, 10, dtype=torch.long)
    real[1, 7:], real[2, :2] = 0, 0
    each = [
        {"sampler": sampler, "steps": steps, "seed": seed, "num_return_sequences": 5}
        for seed, (sampler, steps) in enumerate(SAMPLERS)
    ]
    prompts = torch.tensor([[1, 2, 4], [5, 6, 7]])
    infill = torch.tensor([[1, mask, mask, 4, mask, 6, mask, mask]])
    each += [
        {"input_ids": prompts, "num_return_sequences": 3, "max_length": 9, "steps": 3},
        {"input_ids": infill, "num_return_sequences": 3, "steps": 2, "temperature": 0.5},
        {"num_return_sequences": 2},  # by the saved config
    ]
    return {"ids": ids, "real": real, "settings": each}


@pytest.fixture(scope="module")
def models(random_model):
    made = {name: random_model(**settings) for name, settings in FORMS.items()}
    made["folded"] = fold(made["folded"])
    made["bfloat16"] = made["bfloat16"].bfloat16()
    for model in made.values():
        model.generation_config = DiffusionGenerationConfig(sampler="ancestral", steps=5)
    return made


@pytest.fixture(scope="module")
def asked(models):
    return {name: asked_of(model.mask_token_id) for name, model in models.items()}


@pytest.fixture(scope="module")
def folder(models, asked, tmp_path_factory):
    """The folder of each model with its code."""
    folder = tmp_path_factory.mktemp("with-code")
    for name, model in models.items():
        model.save_pretrained(folder / name)
        add_code(folder / name)
    torch.save(asked, folder / "asked.pt")
    return folder


@pytest.fixture(scope="module")
def answered(folder):
    """What a process without sdtt makes of the folders."""
    site_packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    process = [sys.executable, "-I", "-S", "-c", WITHOUT, str(folder), json.dumps(site_packages)]
    done = subprocess.run(process, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "answered.pt")


@torch.no_grad()
@pytest.mark.parametrize("name", FORMS)
def test_without_sdtt_a_model_has_the_logits_that_it_has_with_it(models, asked, answered, name):
    model, given = models[name], answered[name]
    assert given["module"].startswith("transformers_modules.")
    due = model(asked[name]["ids"], attention_mask=asked[name]["real"]).logits
    real = asked[name]["real"].bool()
    error = 0.05 if name == "bfloat16" else 1e-5
    torch.testing.assert_close(given["logits"][real], due[real], rtol=error, atol=error)


@pytest.mark.parametrize("name", [name for name in FORMS if name != "bfloat16"])
def test_without_sdtt_a_seed_gives_the_texts_that_it_gives_with_it(models, asked, answered, name):
    for settings, texts in zip(asked[name]["settings"], answered[name]["texts"], strict=True):
        due = models[name].generate(**settings, return_dict_in_generate=False)
        assert torch.equal(texts, due), settings


def test_where_sdtt_is_imported_its_own_class_is_taken(folder):
    for name in FORMS:
        for options in ({}, {"trust_remote_code": True}):
            model = AutoModelForMaskedLM.from_pretrained(folder / name, **options)
            assert type(model) is MDLMForMaskedLM


def test_a_model_that_was_loaded_beside_its_code_is_saved_without_it(folder, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(folder / "plain", trust_remote_code=True)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_the_file_needs_torch_transformers_and_numpy_alone():
    lines = Path(remote.__file__).read_text(encoding="utf-8").splitlines()
    named = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import", "from"))}
    assert named == {"hashlib", "typing", "numpy", "torch", "transformers"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": -1}, "needs steps >= 1"),
        ({"steps": 0}, "needs steps >= 1 .* got 0, 1"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"sampler": "confidence"}, "sampler must be one of dilated, ancestral"),
        ({"input_ids": torch.zeros(1, 13, dtype=torch.long)}, "a prompt of 13 tokens"),
        ({"max_length": 13}, "a text of 13"),
        ({"batch_size": 0}, "a batch of at least 1, got 1, 0"),
        ({"num_return_sequences": 0}, "needs texts .* got 0, 16"),
    ],
    ids=str,
)
def test_what_it_cannot_sample_is_refused(settings, words):
    shape = {"vocab_size": 11, "hidden_dim": 8, "n_blocks": 1, "n_heads": 2, "model_length": 12}
    model = remote.MDLMForMaskedLM(remote.MDLMConfig(**shape))
    with pytest.raises(ValueError, match=words):
        model.generate(**settings)


def test_it_takes_what_a_tokenizer_gives():
    shape = {"vocab_size": 11, "hidden_dim": 8, "n_blocks": 1, "n_heads": 2, "model_length": 12}
    model = remote.MDLMForMaskedLM(remote.MDLMConfig(**shape))
    ids = torch.tensor([[1, 2, 3]])
    ours = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4)
    assert torch.equal(ours, model.generate(ids, max_length=7))
    with pytest.raises(ValueError, match="prompts with padding need sdtt"):
        model.generate(ids, attention_mask=torch.tensor([[1, 1, 0]]))
    with pytest.raises(ValueError, match="exclude each other"):
        model.generate(ids, max_new_tokens=4, max_length=7)


@pytest.mark.parametrize("saved", [{"seed": 7}, {"max_length": 9}, {"max_new_tokens": 4}], ids=str)
def test_what_is_saved_counts_as_it_does_with_sdtt(random_model, tmp_path, saved):
    ours = random_model()
    ours.generation_config = DiffusionGenerationConfig(steps=3, batch_size=2, **saved)
    save_with_code(ours, tmp_path)
    alone = remote.MDLMForMaskedLM(
        remote.MDLMConfig(**json.loads((tmp_path / "config.json").read_text()))
    )
    alone.load_state_dict(ours.state_dict())
    alone.generation_config = GenerationConfig.from_pretrained(tmp_path)
    for ids in (None, torch.tensor([[1, 2, 4]])):
        due = ours.generate(ids, num_return_sequences=3, return_dict_in_generate=False)
        assert torch.equal(alone.generate(ids, num_return_sequences=3), due)


def test_a_number_of_texts_with_which_transformers_loads_nothing_is_not_saved(
    random_model, tmp_path
):
    model = random_model()
    model.generation_config = DiffusionGenerationConfig(num_return_sequences=3)
    with pytest.raises(ValueError, match="has num_return_sequences=3, with which"):
        save_with_code(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="has num_return_sequences=3, with which"):
        add_code(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "value"), [("top_p", 0.9), ("top_k", 1), ("stratified", True), ("stop_at_eos", True)]
)
def test_a_saved_setting_that_needs_sdtt_is_refused_rather_than_left_out(name, value):
    shape = {"vocab_size": 11, "hidden_dim": 8, "n_blocks": 1, "n_heads": 2, "model_length": 12}
    model = remote.MDLMForMaskedLM(remote.MDLMConfig(**shape))
    setattr(model.generation_config, name, value)
    with pytest.raises(ValueError, match=rf"{name}={value} of generation_config.json needs sdtt"):
        model.generate()


@pytest.mark.parametrize(
    "settings",
    [CONDITIONED | {"conditioning": "time"}, {"attention": "reveal_causal"}],
    ids=["time", "reveal_causal"],
)
def test_a_model_of_which_the_file_would_leave_something_out_gets_no_code(
    random_model, settings, tmp_path
):
    model = random_model(**settings)
    with pytest.raises(ValueError, match=r"modeling_mdlm\.py has no \w+='\w+', and without it"):
        save_with_code(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model.save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match=r"modeling_mdlm\.py has no"):
        add_code(tmp_path / "own")


def test_a_folder_of_another_model_gets_no_code(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="its model_type is 'gpt2'"):
        add_code(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attention": "reveal_causal"}, "has no attention='reveal_causal'"),
        ({"conditioning": "time", "cond_dim": 6}, "has no conditioning='time'"),
    ],
    ids=str,
)
def test_a_model_whose_law_the_file_does_not_have_gets_no_code(
    random_model, settings, words, tmp_path
):
    random_model(**settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        add_code(tmp_path)
    assert not (tmp_path / "modeling_mdlm.py").exists()
