"""Claims about configs/recipes: every file is read by its verb, and says what it is said to say."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from sdtt.cli import app
from sdtt.models.mdlm import MDLMForMaskedLM, preset

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"

SHAPES = {
    "mdlm-owt-sdtt": {"vocab_size": 50258, "model_length": 1024},
    "one_gpu_hour": {"vocab_size": 8192, "model_length": 512},
    "cpu_evening": {"vocab_size": 4096, "model_length": 128},
    "pair_student": {"vocab_size": 4096, "model_length": 128},
    "caching_taught": {"vocab_size": 4096, "model_length": 128},
}
"""Of the teacher of each distillation: the length and vocabulary that its own recipe gives it."""

PRETRAINING = (
    *("one_gpu_hour_teacher", "cpu_evening_causal", "cpu_evening_teacher"),
    *("pair_judge", "pair_start", "pair_teacher", "pair_caching"),
)


@cache
def planned(verb, name, *words):
    """The plan of a recipe, for a GPU of 1 TFLOP/s used to the full; each is made once."""
    arguments = [verb, "--config", str(RECIPES / f"{name}.yaml"), "--output", "o", "--data", "t"]
    arguments += ["--dry-run", "--assumed-mfu", "1", "--peak-tflops", "1", "--json", "--use-cpu"]
    result = CliRunner().invoke(app, [*arguments, *map(str, words)])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Stand-ins for the teachers: the right length and vocabulary, and one narrow block."""
    home = tmp_path_factory.mktemp("teachers")
    for name, shape in SHAPES.items():
        config = preset("tiny", hidden_dim=8, n_blocks=1, n_heads=2, mask_token_id=None, **shape)
        torch.manual_seed(0)
        MDLMForMaskedLM(config).save_pretrained(home / name)
    return home


def test_every_recipe_is_checked_here():
    assert sorted(path.stem for path in RECIPES.iterdir()) == sorted([*SHAPES, *PRETRAINING])


@pytest.mark.parametrize("name", SHAPES)
def test_a_recipe_of_a_distillation_is_a_plan(name, teachers):
    config = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    plan = planned("distill", name, "--model", teachers / name)
    assert len(plan["stages"]) == config["rounds"]
    k = config.get("teacher_steps", 2)
    assert plan["stages"][-1]["student_steps"] == config["start_steps"] // k ** config["rounds"]
    micro = config["per_device_train_batch_size"] * config.get("gradient_accumulation_steps", 1)
    assert plan["tokens"] == plan["updates"] * micro * SHAPES[name]["model_length"]


@pytest.mark.parametrize("name", PRETRAINING)
def test_a_recipe_of_a_pretraining_is_a_plan(name):
    config = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    plan = planned("pretrain", name, "--vocab-size", config.get("vocab_size", 4096))
    assert plan["updates"] == config["max_steps"]
    assert plan["hours"] == pytest.approx(plan["flops"] / 1e12 / 3600)


def test_the_papers_recipe_is_the_papers():
    config = yaml.safe_load((RECIPES / "mdlm-owt-sdtt.yaml").read_text())
    plan = planned("distill", "mdlm-owt-sdtt")
    named = (config["model"], config["tokenizer"], config["data"])
    assert named == ("kuleshov-group/mdlm-owt", "gpt2", "Skylion007/openwebtext")
    steps = [(stage["teacher_steps"], stage["student_steps"]) for stage in plan["stages"]]
    assert steps == [(1024 >> i, 512 >> i) for i in range(7)]
    assert {stage["updates"] for stage in plan["stages"]} == {10_000}
    assert {stage["learning_rate"] for stage in plan["stages"]} == {6e-5}
    assert (plan["texts"], plan["length"]) == (128, 1024)
    assert (config["ema_decay"], config["warmup_steps"]) == (0.9999, 500)
    assert (config["bf16"], config["loss_dtype"]) == (True, "float32")


def test_the_papers_recipe_is_planned_at_full_size_without_the_network():
    plan = planned("distill", "mdlm-owt-sdtt", "--gpus", "H100,a100")
    assert plan["parameters"] == pytest.approx(169.6e6, rel=1e-3)
    hours = {each["gpu"]: each["hours"] for each in plan["gpus"]}
    assert hours["H100"] == pytest.approx(plan["flops"] / 989.4e12 / 3600)
    assert hours["a100"] == pytest.approx(plan["flops"] / 312e12 / 3600)


def test_a_flag_goes_before_the_recipe():
    plan = planned("distill", "mdlm-owt-sdtt", "--rounds", "2")
    assert len(plan["stages"]) == 2
