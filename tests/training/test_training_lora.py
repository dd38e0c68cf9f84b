"""A LoRA student: its base lies in memory once, and only its adapters learn, teach and are kept."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from sdtt.models.adapters import network_of
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.training.lora import LoraSettings, merged, with_adapters
from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.teacher import own_tensors

ALL = LoraSettings(lora_rank=2, lora_alpha=8)


def adapted(runs, seed=0, settings=ALL, **shape):
    """Adapters of a seed on one and the same base."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return with_adapters(runs.masked_model(5, n_blocks=2, **shape), settings)


def with_random_adapters(runs, **shape):
    """Adapters that change the law."""
    model = adapted(runs, **shape)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3, generator=generator)
    return model


def texts():
    z = torch.randint(19, (3, 8), generator=torch.Generator().manual_seed(1))
    z[:, 2:6] = 19
    return z


def storages(tensors):
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def losses(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


# Adapters act wherever the network is asked


@torch.no_grad()
@pytest.mark.parametrize(
    "targets", [("attn_qkv",), ("attn_out", "mlp.0", "mlp.2"), ALL.lora_targets]
)
def test_adapters_act_in_all_rows_and_in_asked_rows_alike(runs, targets):
    settings = LoraSettings(lora_rank=2, lora_targets=targets)
    model = with_random_adapters(runs, settings=settings).double().eval()
    network, base = network_of(model), runs.masked_model(5, n_blocks=2).double().eval()
    rows = torch.tensor([2, 3, 11, 20])
    asked, every = network.hidden(texts(), rows), network.hidden(texts())
    torch.testing.assert_close(asked, every[rows], rtol=1e-12, atol=1e-12)
    assert (asked - base.hidden(texts(), rows)).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("shape", [{}, {"conditioning": "constant", "cond_dim": 6}])
def test_the_merged_model_has_the_law_of_base_and_adapters(runs, shape):
    model = with_random_adapters(runs, **shape).double().eval()
    full = merged(model)
    assert isinstance(full, MDLMForMaskedLM)
    assert not any("lora" in name for name in full.state_dict())
    due = network_of(model).hidden(texts())
    torch.testing.assert_close(full.hidden(texts()), due, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_merging_leaves_the_model_as_it_was(runs):
    model = with_random_adapters(runs).eval()
    before, law = runs.weights(model), network_of(model).hidden(texts())
    merged(model)
    assert runs.differences(before, runs.weights(model)) == []
    assert torch.equal(network_of(model).hidden(texts()), law)


# One run of two rounds of three updates, watched


class Watch(TrainerCallback):
    def __init__(self, runs):
        self.runs, self.trainer = runs, None
        self.students, self.teachers, self.shared, self.held = [], [], [], []

    def on_step_end(self, *_, **__):
        trainer = self.trainer
        student, teacher = network_of(trainer.model), trainer.teacher
        self.students.append(self.runs.weights(student))
        self.teachers.append(self.runs.weights(teacher))
        frozen = storages(p for p in student.parameters() if not p.requires_grad)
        self.shared.append(frozen <= storages(teacher.parameters()))
        everything = [*student.parameters(), *teacher.parameters(), *trainer.ema.shadow.values()]
        sizes = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in everything}
        self.held.append(sum(sizes.values()))


SETTINGS = {"steps_per_round": 3, "save_steps": 1.0, "save_total_limit": 9, "student_dropout": 0.1}


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    output, watch = tmp_path_factory.mktemp("lora"), Watch(runs)
    model = adapted(runs)
    base = {k: v for k, v in runs.weights(model).items() if "lora" not in k}
    trainer = runs.distiller(output, model, callbacks=(watch,), **SETTINGS)
    watch.trainer = trainer
    trainer.train()
    return SimpleNamespace(output=output, model=model, base=base, watch=watch, trainer=trainer)


def test_base_is_held_once_by_student_teacher_and_average_in_every_round(run):
    base = sum(value.numel() * 4 for value in run.base.values())
    adapters = sum(p.numel() * 4 for p in run.model.parameters() if p.requires_grad)
    assert run.watch.held == [base + 3 * adapters] * 6
    assert run.watch.shared == [True] * 6


def test_training_and_saving_leave_the_base_as_it_was(run, runs):
    now = {k: v for k, v in runs.weights(run.model).items() if "lora" not in k}
    assert len(now) > 10
    assert runs.differences(now, run.base) == []


def test_every_adapter_learns(run, runs):
    before = {k: v for k, v in runs.weights(adapted(runs)).items() if "lora" in k}
    after = {k: v for k, v in runs.weights(run.model).items() if "lora" in k}
    assert runs.differences(before, after) == sorted(after)
    assert len(after) == 2 * 2 * 4  # A and B, two blocks, four linear maps


def test_the_first_teacher_has_the_law_of_the_base(run, runs):
    base = runs.masked_model(5, n_blocks=2).eval()
    trainer = runs.distiller(run.output / "again", adapted(runs))
    with torch.no_grad():
        assert torch.equal(trainer.teacher.hidden(texts()), base.hidden(texts()))


def test_adapters_that_have_learned_teach_from_the_start(runs, tmp_path):
    model = with_random_adapters(runs)
    trainer = runs.distiller(tmp_path, model)
    assert runs.differences(runs.weights(trainer.teacher), runs.weights(network_of(model))) == []


def test_the_second_teacher_is_the_student_of_the_first_round_and_stays_it(run, runs):
    for teacher in run.watch.teachers[3:]:
        assert runs.differences(teacher, run.watch.students[2]) == []
    assert runs.differences(run.watch.students[5], run.watch.students[2]) != []


def test_the_first_loss_is_that_of_a_student_without_adapters(runs, tmp_path):
    settings = {"rounds": 1, "steps_per_round": 1, "student_dropout": 0.0}
    for name, model in (("lora", adapted(runs)), ("full", runs.masked_model(5, n_blocks=2))):
        runs.distiller(tmp_path / name, model, **settings).train()
    assert losses(tmp_path / "lora") == losses(tmp_path / "full")


def test_a_checkpoint_holds_adapters_and_no_base(run):
    checkpoint = run.output / "checkpoint-5"
    files = ("adapter_model.safetensors", "teacher.safetensors", "ema.safetensors")
    for name in files:
        saved = load_file(checkpoint / name)
        assert len(saved) == 16
        assert all("lora_" in key for key in saved)
    assert not (checkpoint / "model.safetensors").exists()


def test_a_checkpoint_holds_the_teacher_of_its_round_to_the_last_bit(run, runs):
    for update, teacher in enumerate(run.watch.teachers, start=1):
        saved = load_file(run.output / f"checkpoint-{update}" / "teacher.safetensors")
        due = {name: value for name, value in teacher.items() if "lora_" in name}
        assert runs.differences(saved, due) == []


@pytest.mark.parametrize("saved", [2, 3, 4])
def test_a_run_with_adapters_is_taken_up_to_the_same_end(tmp_path, runs, run, saved):
    crash = runs.CrashAfter(saved)
    with pytest.raises(runs.Crashed):
        runs.distiller(tmp_path, adapted(runs), callbacks=(crash,), **SETTINGS).train()
    again = runs.distiller(tmp_path, adapted(runs, seed=1), **SETTINGS)  # other adapters
    again.train(resume_from_checkpoint=True)
    whole, cut = (runs.contents(folder / "checkpoint-6") for folder in (run.output, tmp_path))
    assert len(whole) > 60
    assert runs.differences(whole, cut) == []
    assert losses(tmp_path) == losses(run.output)


@torch.no_grad()
@pytest.mark.parametrize(("steps", "update"), [("2", 3), ("1", 6)])
def test_a_student_is_saved_merged_and_as_an_adapter(run, runs, steps, update):
    folder = run.output / "students" / steps
    full = MDLMForMaskedLM.from_pretrained(folder).eval()
    alone = PeftModel.from_pretrained(runs.masked_model(5, n_blocks=2), folder / "adapter").eval()
    due = run.watch.students[update - 1]
    assert runs.differences(runs.weights(network_of(alone)), due) == []
    ours, law = full.hidden(texts()), network_of(alone).hidden(texts())
    torch.testing.assert_close(ours, law, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_average_of_a_student_is_saved_beside_it_in_the_same_two_forms(run, runs):
    folder = run.output / "students" / "1" / "ema"
    alone = PeftModel.from_pretrained(runs.masked_model(5, n_blocks=2), folder / "adapter")
    shadow = run.trainer.ema.shadow
    parameters = {name: value.detach() for name, value in alone.named_parameters()}
    assert runs.differences({name: parameters[name] for name in shadow}, shadow) == []
    MDLMForMaskedLM.from_pretrained(folder)


def test_without_merging_only_the_adapter_is_saved(tmp_path, runs):
    settings = {"rounds": 1, "steps_per_round": 1, "ema_decay": 0.0}
    runs.distiller(tmp_path, adapted(runs), merge_lora=False, **settings).train()
    assert [path.name for path in (tmp_path / "students" / "2").iterdir()] == ["adapter"]


# What may go with it


def test_the_next_teacher_may_be_the_average_of_the_adapters(tmp_path, runs):
    trainer = runs.distiller(tmp_path, adapted(runs), teacher_from="ema", steps_per_round=1)
    trainer.train()
    average = load_file(tmp_path / "checkpoint-2" / "teacher.safetensors")
    alone = PeftModel.from_pretrained(
        runs.masked_model(5, n_blocks=2), tmp_path / "students/2/ema/adapter"
    )
    due = {k: v for k, v in runs.weights(network_of(alone)).items() if "lora_" in k}
    assert runs.differences(average, due) == []
    frozen = storages(p for p in trainer.model.parameters() if not p.requires_grad)
    assert frozen <= storages(trainer.teacher.parameters())


def test_gradient_checkpointing_recomputes_with_the_students_adapters(tmp_path, runs):
    ends = []
    for on in (True, False):
        model = with_random_adapters(runs)
        settings = {"steps_per_round": 2, "activation_checkpointing": on, "student_dropout": 0.2}
        runs.distiller(tmp_path / str(on), model, **settings).train()
        ends.append(runs.weights(model))
    assert runs.differences(*ends) == []


def test_the_dropout_of_adapters_is_its_own(tmp_path, runs):
    model = adapted(runs, settings=LoraSettings(lora_rank=2, lora_dropout=0.3))
    runs.distiller(tmp_path, model, student_dropout=0.0)
    chances = {
        "lora_dropout" in name: module.p
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Dropout)
    }
    assert chances == {True: 0.3, False: 0.0}


def test_a_base_of_the_teachers_dtype_is_shared_and_adapters_are_cast(tmp_path, runs):
    with torch.random.fork_rng():
        base = runs.masked_model(5).bfloat16()
        model = with_adapters(base, ALL)
    trainer = runs.distiller(tmp_path, model, teacher_dtype="bfloat16", steps_per_round=1)
    trainer.train()
    frozen = storages(p for p in model.parameters() if not p.requires_grad)
    assert frozen <= storages(trainer.teacher.parameters())
    own = own_tensors(trainer.teacher, model)
    assert {value.dtype for value in own.values()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_adapters_may_have_a_larger_teacher(tmp_path, runs):
    teacher = runs.masked_model(1, hidden_dim=32)
    trainer = runs.distiller(tmp_path, adapted(runs), teacher, steps_per_round=1)
    assert trainer.teacher.config.hidden_dim == 32
    trainer.train()
    assert trainer.teacher.config.hidden_dim == 16


# What is refused


def test_adapters_of_the_head_are_refused(tmp_path, runs):
    model = get_peft_model(runs.masked_model(), LoraConfig(r=2, target_modules=["linear"]))
    with pytest.raises(ValueError, match="LoRA on the head is not supported"):
        runs.distiller(tmp_path, model)


def test_a_target_that_names_no_layer_is_refused(runs):
    settings = LoraSettings(lora_rank=2, lora_targets=("attn_qkv", "q_proj"))
    with pytest.raises(
        ValueError, match=r"is named 'q_proj'; there are attn_qkv, attn_out, mlp\.0"
    ):
        with_adapters(runs.masked_model(), settings)


def test_without_peft_the_way_out_is_said(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'sdtt\[lora\]'"):
        with_adapters(runs.masked_model(), ALL)


def test_without_a_rank_a_model_stays_as_it_is(runs):
    model = runs.masked_model()
    assert with_adapters(model, LoraSettings()) is model
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": -1}, "lora_rank must be at least 0, got -1"),
        ({"lora_rank": 2, "lora_dropout": 1.0}, "lora_dropout must lie in"),
        ({"lora_alpha": 8}, "lora_alpha needs adapters: give lora_rank"),
        ({"lora_targets": ("mlp.0",)}, "lora_targets needs adapters: give lora_rank"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LoraSettings(**settings)


def test_an_alpha_that_is_not_given_is_twice_the_rank(runs):
    model = with_adapters(runs.masked_model(), LoraSettings(lora_rank=3))
    layer = network_of(model).backbone.blocks[0].attn_qkv
    assert layer.scaling["default"] == 2.0


def test_merging_is_the_default(tmp_path):
    assert SDTTConfig(str(tmp_path), use_cpu=True).merge_lora


def test_a_teacher_with_adapters_is_not_packed(tmp_path, runs):
    with pytest.raises(ValueError, match="a teacher with adapters cannot be packed"):
        runs.distiller(tmp_path, adapted(runs), pack_teacher=True)
