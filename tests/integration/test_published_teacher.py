"""A published MDLM, as it lies on the hub, through the recipe, the harness and the Auto classes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer
from typer.testing import CliRunner

from sdtt.cli import app
from sdtt.data.tokenizer import train_tokenizer
from sdtt.evaluation.task_model import TaskModel
from sdtt.models.mdlm import MDLMForMaskedLM

RECIPE = Path(__file__).parents[2] / "configs" / "recipes" / "mdlm-owt-sdtt.yaml"
WORDS = ("the", "small", "cat", "saw", "a", "red", "bird", "and", "in", "tree", "sang")
WIDTH, BLOCKS, CONDITION, LENGTH = 32, 2, 8, 32
OVERRIDES = ["--rounds", "2", "--steps-per-round", "3", "--start-steps", "8", "--use-cpu"]
OVERRIDES += ["--per-device-train-batch-size", "4", "--gradient-accumulation-steps", "2"]
OVERRIDES += ["--warmup-steps", "0", "--learning-rate", "1e-2", "--save-steps", "3"]


def published_weights(vocab_size):
    """Random weights under the published names; nothing is zero, modulations neither."""
    shapes = {
        "vocab_embed.embedding": (vocab_size, WIDTH),
        "sigma_map.mlp.0.weight": (CONDITION, 256),
        "sigma_map.mlp.0.bias": (CONDITION,),
        "sigma_map.mlp.2.weight": (CONDITION, CONDITION),
        "sigma_map.mlp.2.bias": (CONDITION,),
        "output_layer.norm_final.weight": (WIDTH,),
        "output_layer.linear.weight": (vocab_size, WIDTH),
        "output_layer.linear.bias": (vocab_size,),
        "output_layer.adaLN_modulation.weight": (2 * WIDTH, CONDITION),
        "output_layer.adaLN_modulation.bias": (2 * WIDTH,),
    }
    for n in range(BLOCKS):
        shapes |= {
            f"blocks.{n}.norm1.weight": (WIDTH,),
            f"blocks.{n}.attn_qkv.weight": (3 * WIDTH, WIDTH),
            f"blocks.{n}.attn_out.weight": (WIDTH, WIDTH),
            f"blocks.{n}.norm2.weight": (WIDTH,),
            f"blocks.{n}.mlp.0.weight": (4 * WIDTH, WIDTH),
            f"blocks.{n}.mlp.0.bias": (4 * WIDTH,),
            f"blocks.{n}.mlp.2.weight": (WIDTH, 4 * WIDTH),
            f"blocks.{n}.mlp.2.bias": (WIDTH,),
            f"blocks.{n}.adaLN_modulation.weight": (6 * WIDTH, CONDITION),
            f"blocks.{n}.adaLN_modulation.bias": (6 * WIDTH,),
        }
    generator = torch.Generator().manual_seed(1)
    return {
        f"backbone.{name}": torch.randn(shape, generator=generator) * 0.2 + ("norm" in name)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Text, a folder of the published layout, and the tokenizer, which is not in it."""
    home = tmp_path_factory.mktemp("published")
    stories = [" ".join(WORDS[(i * k + k) % 11] for k in range(120)) + ".\n" for i in range(30)]
    (home / "texts.txt").write_text("".join(stories))
    tokenizer = train_tokenizer(stories, vocab_size=290)
    tokenizer.save_pretrained(home / "tokenizer")
    (home / "mdlm").mkdir()
    config = {
        "architectures": ["MDLM"],
        "auto_map": {
            "AutoConfig": "configuration_mdlm.MDLMConfig",
            "AutoModelForMaskedLM": "modeling_mdlm.MDLM",
        },
        "cond_dim": CONDITION,
        "dropout": 0.1,
        "hidden_dim": WIDTH,
        "model_length": LENGTH,
        "model_type": "mdlm",
        "n_blocks": BLOCKS,
        "n_heads": 2,
        "return_dict": False,
        "time_conditioning": False,
        "torch_dtype": "float32",
        "vocab_size": len(tokenizer),
    }
    (home / "mdlm" / "config.json").write_text(json.dumps(config))
    weights = published_weights(len(tokenizer))
    save_file(weights, home / "mdlm" / "model.safetensors", metadata={"format": "pt"})
    return home


def sdtt(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return SimpleNamespace(code=result.exit_code, err=result.stderr, out=result.stdout)


def distill(home, output, *words):
    given = ("--model", home / "mdlm", "--data", home / "texts.txt", "--output", output)
    return sdtt("distill", "--config", RECIPE, *given, *OVERRIDES, *words)


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "students"
    result = distill(home, output, "--tokenizer", home / "tokenizer")
    assert result.code == 0, result.err
    return output


def law(folder):
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    z = torch.arange(1, 1 + LENGTH)[None]
    z[:, 5:20] = model.mask_token_id
    with torch.no_grad():
        return model(z).logits.softmax(-1)


# The recipe


def test_the_first_teacher_is_the_published_file_to_the_last_bit(run, home):
    saved = load_file(run / "checkpoint-3" / "teacher.safetensors")
    published = load_file(home / "mdlm" / "model.safetensors")
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[name], published[name]) for name in published)


@pytest.mark.parametrize("steps", [4, 2])
@pytest.mark.parametrize("weights", ["", "ema"])
def test_a_student_loads_through_the_auto_classes_with_its_tokenizer(run, steps, weights):
    folder = run / "students" / str(steps) / weights
    student = AutoModelForMaskedLM.from_pretrained(folder)
    assert type(student) is MDLMForMaskedLM
    assert student.config.sdtt_sampling_steps == steps
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    ids = AutoTokenizer.from_pretrained(run / "students" / str(steps))
    assert ids.mask_token_id == student.mask_token_id == student.config.vocab_size - 1
    assert student.generate(max_length=8, steps=2).sequences.shape == (1, 8)


def test_students_have_learned_and_each_round_goes_on(run, home):
    folders = (home / "mdlm", run / "students" / "4", run / "students" / "2")
    teacher, first, second = map(law, folders)
    for one, other in ((teacher, first), (first, second)):
        assert (one - other).abs().max() > 1e-3


def test_what_is_not_overridden_is_the_recipes(run):
    resolved = yaml.safe_load((run / "run.yaml").read_text())
    recipe = yaml.safe_load(RECIPE.read_text())
    names = ("divergence", "ema_decay", "weight_decay", "lr_scheduler_type", "bf16", "loss_dtype")
    assert {name: resolved[name] for name in names} == {name: recipe[name] for name in names}
    assert resolved["rounds"] == 2


def test_a_student_writes_text(run):
    result = sdtt("generate", "--model", run / "students" / "2", "--steps", 2, "--length", 12)
    assert result.code == 0, result.err
    assert result.out.strip()


# What stands in the way, in one line


def test_a_teacher_without_a_tokenizer_asks_for_one(home, tmp_path):
    given = ("--data", home / "texts.txt", "--output", tmp_path / "run", *OVERRIDES)
    result = sdtt("distill", "--model", home / "mdlm", *given)
    assert result.code == 2
    assert "--tokenizer names another, gpt2 for a published MDLM" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_tokenizer_of_other_ids_is_refused(home, tmp_path):
    train_tokenizer(["the small cat. " * 9], 280).save_pretrained(tmp_path / "other")
    result = distill(home, tmp_path / "run", "--tokenizer", tmp_path / "other")
    assert result.code == 2
    assert "use the model's own tokenizer" in result.err


def test_a_missing_folder_is_named_as_a_folder_and_a_name_on_the_hub_as_such(home, tmp_path):
    given = ("--data", home / "texts.txt", "--output", tmp_path / "run")
    given += ("--tokenizer", home / "tokenizer")
    missing = sdtt("distill", "--model", home / "absent", *given)
    assert (missing.code, f"there is no model folder {home / 'absent'}" in missing.err) == (2, True)
    hub = sdtt("distill", "--model", "someone/model", *given)
    assert hub.code == 2
    assert "someone/model" in hub.err
    assert "no model folder" not in hub.err


# The harness


def asked(*args):
    return SimpleNamespace(args=args, task_name="own")


def likelihoods(model, tokenizer):
    requests = [asked("the small", " cat"), asked("a red", " bird"), asked("the", " tree sang")]
    return [value for value, _ in TaskModel(model, tokenizer).loglikelihood(requests)]


def test_the_harness_takes_a_published_folder_with_a_tokenizer(home):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    found = likelihoods(str(home / "mdlm"), tokenizer)
    model = AutoModelForMaskedLM.from_pretrained(home / "mdlm").eval()
    ids = torch.tensor([[*tokenizer.encode("the small"), tokenizer.mask_token_id]])
    (token,) = tokenizer.encode(" cat")
    with torch.no_grad():
        due = model(ids).logits[0, -1].log_softmax(-1)[token]
    assert found[0] == pytest.approx(due.item(), rel=1e-4)


def test_the_harness_scores_a_wrapped_model_by_its_adapters(home):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    base = likelihoods(str(home / "mdlm"), tokenizer)
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["attn_qkv", "mlp.2"], init_lora_weights=False)
    model = AutoModelForMaskedLM.from_pretrained(home / "mdlm")
    wrapped = get_peft_model(model, config).eval()
    found = likelihoods(wrapped, tokenizer)
    assert found == pytest.approx(likelihoods(wrapped.merge_and_unload(), tokenizer), rel=1e-4)
    assert all(abs(one - other) > 1e-3 for one, other in zip(found, base, strict=True))
