"""`sdtt distill` with another teacher, and with adapters on a frozen base."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM
from typer.testing import CliRunner

from sdtt.cli import app
from sdtt.cli.distill import DistillSettings
from sdtt.data.tokenizer import train_tokenizer
from sdtt.models.adapters import network_of
from sdtt.models.checkpoints import load_model
from sdtt.models.mdlm import MDLMForMaskedLM, preset

WORDS = ("the", "small", "cat", "saw", "a", "red", "bird", "and", "in", "tree", "sang")
SHORT = ["--rounds", "2", "--steps-per-round", "2", "--start-steps", "8", "--warmup-steps", "0"]
SHORT += ["--per-device-train-batch-size", "4", "--save-steps", "2", "--learning-rate", "1e-2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Texts, a small model, a larger one and a BERT, of random weights and one vocabulary."""
    home = tmp_path_factory.mktemp("distill")
    stories = [" ".join(WORDS[(i * k + k) % 11] for k in range(120)) + ".\n" for i in range(20)]
    (home / "texts.txt").write_text("".join(stories))
    tokenizer = train_tokenizer(stories, vocab_size=290)
    shape = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id}
    shape |= {"hidden_dim": 32, "n_heads": 2, "model_length": 16}
    torch.manual_seed(0)
    for name, blocks in (("small", 1), ("large", 3)):
        MDLMForMaskedLM(preset("tiny", **shape, n_blocks=blocks)).save_pretrained(home / name)
    bert = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32}
    bert |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
    BertForMaskedLM(BertConfig(**bert)).save_pretrained(home / "bert")
    tokenizer.save_pretrained(home / "small")
    return home


def distill(home, output, *words):
    parts = ["distill", "--model", home / "small", "--data", home / "texts.txt"]
    parts += ["--output", output, *SHORT, *words]
    result = CliRunner().invoke(app, [str(part) for part in parts])
    return SimpleNamespace(code=result.exit_code, err=result.stderr)


@pytest.mark.parametrize(("name", "kind"), [("large", "blocks.2."), ("bert", "trunk.bert.")])
def test_the_first_teacher_is_the_one_in_the_given_folder(home, tmp_path, name, kind):
    words = ("--teacher", home / name, "--rounds", "1")
    result = distill(home, tmp_path / "run", *words)
    assert result.code == 0, result.err
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "teacher.safetensors")
    given = load_model(home / name).state_dict()
    assert any(kind in key for key in saved)
    for key, value in saved.items():
        assert torch.equal(value, given[key.removeprefix("trunk.")])


def test_adapters_are_trained_resumed_and_saved_in_two_forms(home, tmp_path):
    words = ("--lora-rank", "4", "--lora-targets", "attn_qkv,mlp.2")
    for output, more in ((tmp_path / "a", ()), (tmp_path / "b", ())):
        result = distill(home, output, *words, *more)
        assert result.code == 0, result.err
    folder = tmp_path / "a" / "students" / "2"
    full = load_model(folder)
    base = load_model(home / "small")
    alone = network_of(PeftModel.from_pretrained(base, folder / "adapter"))
    assert {name.split(".")[-4] for name in alone.state_dict() if "lora_A" in name} == {
        "attn_qkv",
        "2",
    }
    z = torch.arange(16)[None]
    with torch.no_grad():
        torch.testing.assert_close(full.hidden(z), alone.hidden(z), rtol=1e-4, atol=1e-5)
    one, other = (
        load_file(tmp_path / name / "students/2/adapter/adapter_model.safetensors") for name in "ab"
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_distillation_with_adapters_is_resumed_by_the_same_command(home, tmp_path):
    words = ("--lora-rank", "4", "--no-merge-lora", "--teacher-dtype", "bfloat16")
    assert distill(home, tmp_path / "run", *words).code == 0
    adapter = tmp_path / "run" / "students" / "2" / "adapter" / "adapter_model.safetensors"
    due = adapter.read_bytes()
    adapter.unlink()
    (tmp_path / "run" / "checkpoint-4" / "manifest.json").unlink()
    result = distill(home, tmp_path / "run", *words, "--resume")
    assert result.code == 0, result.err
    assert adapter.read_bytes() == due
    assert not (adapter.parent.parent / "config.json").exists()


def test_overwriting_spares_the_teacher_that_the_run_reads(home, tmp_path):
    (tmp_path / "students").mkdir()
    load_model(home / "large").save_pretrained(tmp_path / "students" / "8")
    words = ("--teacher", tmp_path / "students" / "8", "--overwrite")
    result = distill(home, tmp_path, *words)
    assert result.code == 2
    assert "choose another --output" in result.err


def test_settings_of_adapters_without_a_rank_are_refused(home, tmp_path):
    result = distill(home, tmp_path / "run", "--lora-alpha", "16")
    assert (result.code, "lora_alpha needs adapters" in result.err) == (2, True)


def test_a_student_of_another_attention_is_taught_by_the_model_as_it_is(home, tmp_path):
    words = ("--attention", "reveal_causal", "--rounds", "1", "--teacher-steps", "1")
    result = distill(home, tmp_path / "run", *words)
    assert result.code == 0, result.err
    assert load_model(tmp_path / "run" / "students" / "8-round-1").follows_order
    given = load_model(home / "small").state_dict()
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "teacher.safetensors")
    assert saved
    assert all(torch.equal(value, given[key]) for key, value in saved.items())


def test_the_first_teacher_keeps_the_attention_of_the_model(home):
    model = load_model(home / "small")
    settings = DistillSettings(data=("t",), model=Path("m"), attention="reveal_causal")
    student, teacher = settings.student_and_teacher(model, None)
    assert student.follows_order
    assert teacher is model
    assert not teacher.follows_order
    other = load_model(home / "large")
    assert settings.student_and_teacher(model, other)[1] is other


@pytest.mark.parametrize("attention", [None, "bidirectional"])
def test_the_attention_that_the_model_has_changes_nothing(home, attention):
    model = load_model(home / "small")
    settings = DistillSettings(data=("t",), model=Path("m"), attention=attention)
    student, teacher = settings.student_and_teacher(model, None)
    assert student is model
    assert teacher is None


def test_a_student_that_is_no_denoiser_is_refused(home, tmp_path):
    words = ("--model", home / "bert", "--tokenizer", home / "small")
    result = distill(home, tmp_path / "run", *words)
    assert result.code != 0
    assert "BertForMaskedLM is no denoiser" in result.err


def test_a_model_of_one_attention_cannot_have_another():
    settings = DistillSettings(data=("t",), model=Path("m"), attention="reveal_causal")
    with pytest.raises(ValueError, match="a Foreign knows one attention only"):
        settings.student_and_teacher(type("Foreign", (), {"config": None})(), None)
