"""Who may teach a student, in which precision, and what a checkpoint keeps of it."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, TrainerCallback

from sdtt.diffusion.denoiser import Head
from sdtt.models.adapters import MaskedLMDenoiser
from sdtt.models.exact import MarkovDenoiser
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.stream import noise_of
from sdtt.training.teacher import frozen_teacher, own_tensors

ONE = {"rounds": 1, "steps_per_round": 1}


def losses(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def size_of(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# Precision


def test_a_bfloat16_teacher_takes_half_the_memory_of_its_student(tmp_path, runs):
    trainer = runs.distiller(tmp_path, teacher_dtype="bfloat16")
    ours, due = (size_of(model.parameters()) for model in (trainer.teacher, trainer.model))
    assert ours == due / 2


@pytest.mark.parametrize(
    ("name", "due"),
    [
        ("same", torch.bfloat16),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_the_passes_of_a_teacher_run_in_its_own_dtype_whatever_the_autocast(
    tmp_path, runs, name, due
):
    seen = set()
    trainer = runs.distiller(tmp_path, teacher_dtype=name, bf16=True, **ONE)
    mlp = trainer.teacher.backbone.blocks[0].mlp
    mlp.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    trainer.train()
    assert seen == {due}


def test_a_teacher_dtype_is_as_if_the_teacher_had_been_cast_before(tmp_path, runs):
    for name, dtype, teacher in (
        ("cast", "same", runs.masked_model(1).bfloat16()),
        ("named", "bfloat16", runs.masked_model(1)),
        ("plain", "same", runs.masked_model(1)),
    ):
        runs.distiller(tmp_path / name, None, teacher, teacher_dtype=dtype, **ONE).train()
    cast, named, plain = (losses(tmp_path / name)[0] for name in ("cast", "named", "plain"))
    assert named == cast
    assert 0 < abs(named - plain) < 0.05 * plain


def test_the_law_of_a_bfloat16_teacher_is_made_of_its_rows_in_float32(tmp_path, runs):
    settings = ONE | {"teacher_steps": 1, "teacher_dtype": "bfloat16"}
    student = runs.masked_model(0)
    trainer = runs.distiller(tmp_path, student, runs.masked_model(1), **settings)
    x = torch.stack([trainer.stream[place]["input_ids"] for place in range(4)])
    noise = noise_of(list(range(4)), length=8, batch=4, seed=0, smallest_time=0.0)
    z = torch.where(noise.u < noise.t[:, None], 19, x)
    rows = (z == 19).flatten().nonzero().squeeze(1)
    teacher = trainer.teacher
    with torch.no_grad():
        head = Head(teacher.head.weight.float(), teacher.head.bias.float())
        target = head.scores(teacher.hidden(z, rows).float())[:, :19].log_softmax(-1)
        law = student.logits(student.hidden(z, rows)).log_softmax(-1)
    due = (law.exp() * (law - target)).sum(-1).mean().item()
    trainer.train()
    assert losses(tmp_path) == pytest.approx([due], rel=1e-5)


def test_the_teacher_of_the_next_round_is_cast_alike(tmp_path, runs):
    trainer = runs.distiller(tmp_path, steps_per_round=1, teacher_dtype="bfloat16")
    trainer.train()
    student = MDLMForMaskedLM.from_pretrained(tmp_path / "students/2").bfloat16()
    assert runs.differences(runs.weights(trainer.teacher), runs.weights(student)) == []


def test_a_given_teacher_is_not_changed(tmp_path, runs):
    teacher = runs.masked_model(1).train()
    before = runs.weights(teacher)
    trainer = runs.distiller(
        tmp_path, teacher=teacher, teacher_dtype="bfloat16", attn_implementation="eager", **ONE
    )
    trainer.train()
    assert runs.differences(before, runs.weights(teacher)) == []
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert (teacher.training, teacher.config._attn_implementation) == (True, "sdpa")


def test_a_given_teacher_is_not_copied(runs):
    teacher, student = runs.masked_model(1), runs.masked_model(0)
    ours = frozen_teacher(teacher, student)
    assert {p.data_ptr() for p in ours.parameters()} == {p.data_ptr() for p in teacher.parameters()}


def test_weights_that_the_student_does_not_train_are_shared_with_its_teacher(runs):
    student = runs.masked_model()
    frozen = student.backbone.vocab_embed.embedding.requires_grad_(False)
    teacher = frozen_teacher(student, student)
    assert teacher.backbone.vocab_embed.embedding is frozen
    trained = {p.data_ptr() for p in student.parameters() if p.requires_grad}
    assert trained.isdisjoint(p.data_ptr() for p in teacher.parameters())
    assert "backbone.vocab_embed.embedding" not in own_tensors(teacher, student)


# Packing


CONDITIONED = {"conditioning": "constant", "cond_dim": 6}


def conditioned(runs, seed):
    model = runs.masked_model(seed, **CONDITIONED)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adaLN" in name or "linear" in name:
                parameter.normal_(0, 0.3, generator=generator)
    return model


def packing(runs, output, seed, on, *callbacks, **settings):
    models = conditioned(runs, seed), conditioned(runs, seed + 10)
    default = {"pack_teacher": on, "steps_per_round": 2, "save_steps": 1.0}
    return runs.distiller(output, *models, callbacks=callbacks, **default | settings)


def test_a_packed_teacher_gives_the_losses_of_the_plain_one(tmp_path, runs):
    packed, plain = (packing(runs, tmp_path / str(on), 0, on) for on in (True, False))
    packed.train()
    plain.train()
    assert packed.acting.config.conditioning == "none"
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=1e-4)


@pytest.mark.parametrize("saved", [1, 3])
def test_a_run_with_a_packed_teacher_is_taken_up_to_the_same_end(tmp_path, runs, saved):
    packing(runs, tmp_path / "whole", 0, True).train()
    with pytest.raises(runs.Crashed):
        packing(runs, tmp_path / "cut", 0, True, runs.CrashAfter(saved)).train()
    packing(runs, tmp_path / "cut", 1, True).train(resume_from_checkpoint=True)
    whole, cut = (runs.contents(tmp_path / name / "checkpoint-4") for name in ("whole", "cut"))
    assert runs.differences(whole, cut) == []


def test_a_checkpoint_keeps_the_teacher_as_it_was_before_packing(tmp_path, runs):
    trainer = packing(runs, tmp_path, 0, True, **ONE)
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-1" / "teacher.safetensors")
    assert runs.differences(saved, runs.weights(conditioned(runs, 10))) == []


def test_packing_under_autocast_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pack_teacher needs a teacher_dtype"):
        SDTTConfig(str(tmp_path), use_cpu=True, bf16=True, pack_teacher=True)


def test_a_teacher_that_has_no_packed_form_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match="a MarkovDenoiser cannot be packed"):
        runs.distiller(tmp_path, teacher=chain(), pack_teacher=True)


# Other families


def chain():
    generator = torch.Generator().manual_seed(3)
    rows = torch.rand(20, 19, generator=generator, dtype=torch.float64) ** 4 + 0.01
    rows = rows / rows.sum(1, keepdim=True)
    return MarkovDenoiser(rows[0], rows[1:], 8)


def bert(seed=5, **settings):
    shape = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "max_position_embeddings": 8, "initializer_range": 0.5}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedLMDenoiser(BertForMaskedLM(BertConfig(**shape | settings)), 19)


FAMILIES = {"an exact law": chain, "a BERT": bert}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_student_learns_from_a_teacher_of_another_family(tmp_path, runs, family):
    settings = {"rounds": 1, "steps_per_round": 30, "start_steps": 2, "learning_rate": 3e-2}
    runs.distiller(tmp_path, teacher=family(), **settings).train()
    values = losses(tmp_path)
    assert sum(values[-5:]) < 0.75 * sum(values[:5])


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_after_a_teacher_of_another_family_the_student_teaches(tmp_path, runs, family):
    trainer = runs.distiller(tmp_path, teacher=family(), steps_per_round=1)
    trainer.train()
    student = MDLMForMaskedLM.from_pretrained(tmp_path / "students/2")
    assert runs.differences(runs.weights(trainer.teacher), runs.weights(student)) == []


def test_the_loss_of_an_exact_teacher_is_the_divergence_from_its_law(tmp_path, runs):
    student, teacher = runs.masked_model().double(), chain()
    settings = ONE | {"teacher_steps": 1, "loss_dtype": "float64"}
    trainer = runs.distiller(tmp_path, student, teacher, **settings)
    x = torch.stack([trainer.stream[place]["input_ids"] for place in range(4)])
    noise = noise_of(list(range(4)), length=8, batch=4, seed=0, smallest_time=0.0)
    z = torch.where(noise.u < noise.t[:, None], 19, x)
    rows = (z == 19).flatten().nonzero().squeeze(1)
    with torch.no_grad():
        law = student.logits(student.hidden(z, rows)).log_softmax(-1)
    target = teacher.hidden(z, rows)
    due = math.fsum((law.exp() * (law - target)).sum(-1).tolist()) / len(rows)
    trainer.train()
    assert losses(tmp_path) == pytest.approx([due], rel=1e-5)


# Restarts


def of_kind(runs, output, seed, kind, *callbacks, **settings):
    """A run whose first teacher is of some kind; a fresh teacher and student with each seed."""
    teachers = {
        "bfloat16": lambda: runs.masked_model(seed + 10, n_blocks=2),
        "an exact law": chain,  # it has no weights: it is given again
        "a BERT": lambda: bert(seed),
    }
    dtype = {"teacher_dtype": "bfloat16"} if kind == "bfloat16" else {}
    return runs.distiller(
        output,
        runs.masked_model(seed),
        teachers[kind](),
        callbacks=callbacks,
        **dtype | {"steps_per_round": 2, "save_steps": 1.0, "save_total_limit": 9} | settings,
    )


@pytest.mark.parametrize("kind", ["bfloat16", *FAMILIES])
def test_a_run_is_taken_up_to_the_same_end_whatever_its_teacher(tmp_path, runs, kind):
    of_kind(runs, tmp_path / "whole", 0, kind).train()
    for saved in (1, 2, 3):
        output = tmp_path / f"cut-{saved}"
        with pytest.raises(runs.Crashed):
            of_kind(runs, output, 0, kind, runs.CrashAfter(saved)).train()
        of_kind(runs, output, 1, kind).train(resume_from_checkpoint=True)
        whole, cut = (
            runs.contents(folder / "checkpoint-4") for folder in (tmp_path / "whole", output)
        )
        assert runs.differences(whole, cut) == []


def test_a_checkpoint_keeps_the_teacher_in_its_own_dtype(tmp_path, runs):
    trainer = runs.distiller(tmp_path, teacher_dtype="bfloat16", save_steps=1.0, **ONE)
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-1" / "teacher.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert runs.differences(saved, runs.weights(trainer.teacher)) == []


def test_a_run_is_not_taken_up_with_another_teacher(tmp_path, runs):
    settings = {"steps_per_round": 2, "save_steps": 1.0}
    with pytest.raises(runs.Crashed):
        runs.distiller(tmp_path, callbacks=(runs.CrashAfter(1),), **settings).train()
    settings["override_on_resume"] = ["teacher"]
    other = runs.distiller(tmp_path, teacher=runs.masked_model(1, n_blocks=2), **settings)
    with pytest.raises(ValueError, match=r"holds another teacher: its backbone.blocks.1.* missing"):
        other.train(resume_from_checkpoint=True)


def test_a_run_is_not_taken_up_in_another_precision(tmp_path, runs):
    settings = {"steps_per_round": 2, "save_steps": 1.0}
    with pytest.raises(runs.Crashed):
        runs.distiller(tmp_path, callbacks=(runs.CrashAfter(1),), **settings).train()
    settings["override_on_resume"] = ["teacher_dtype"]
    other = runs.distiller(tmp_path, teacher_dtype="bfloat16", **settings)
    with pytest.raises(ValueError, match=r"is \(.*\) of float32, here \(.*\) of bfloat16"):
        other.train(resume_from_checkpoint=True)


# Who is refused


def test_a_teacher_that_reads_shorter_texts_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match="texts of at most 4 tokens, the data has 8"):
        runs.distiller(tmp_path, teacher=runs.masked_model(model_length=4))


def test_a_teacher_of_another_family_that_reads_shorter_texts_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match="texts of at most 6 tokens, the data has 8"):
        runs.distiller(tmp_path, teacher=bert(max_position_embeddings=6))


def test_a_teacher_with_another_mask_is_refused(tmp_path, runs):
    teacher = bert()
    teacher.mask_token_id = 3
    with pytest.raises(ValueError, match="MASK 19 and 3, excluded ids"):
        runs.distiller(tmp_path, teacher=teacher)


def test_a_teacher_that_excludes_other_ids_is_refused(tmp_path, runs):
    teacher = runs.masked_model(1)
    teacher.excluded_ids = (18, 19)
    with pytest.raises(ValueError, match=r"excluded ids \(19,\) and \(18, 19\)"):
        runs.distiller(tmp_path, teacher=teacher)


def test_a_dtype_for_a_teacher_without_weights_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match="a MarkovDenoiser has no weights to hold in"):
        runs.distiller(tmp_path, teacher=chain(), teacher_dtype="bfloat16")


def test_an_unknown_teacher_dtype_is_refused(tmp_path):
    config = SDTTConfig(str(tmp_path), use_cpu=True)
    config.teacher_dtype = "int8"  # in a call the check of types of the tests would see it first
    with pytest.raises(ValueError, match="must be one of same, float32, bfloat16, float16, got"):
        config.__post_init__()


# Gradient checkpointing is the student's alone


class Saved(TrainerCallback):
    """Counts the bytes that the passes of every update keep for the backward pass."""

    def __init__(self):
        self.bytes = 0
        self.hooks = None

    def keep(self, tensor):
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor

    def on_step_begin(self, *_, **__):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)
        self.hooks.__enter__()

    def on_pre_optimizer_step(self, *_, **__):
        self.hooks.__exit__(None, None, None)


def checkpointed(runs, output, on, **settings):
    saved = Saved()
    model = runs.masked_model(n_blocks=6)
    default = {"rounds": 1, "steps_per_round": 2, "activation_checkpointing": on}
    trainer = runs.distiller(output, model, callbacks=(saved,), **default | settings)
    if on:  # what a checkpoint holds itself: the input of each block
        for block in model.backbone.blocks:
            block.register_forward_pre_hook(lambda _, inputs: (saved.keep(inputs[0]), None)[1])
    passes = []
    for block in trainer.teacher.backbone.blocks:
        block.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    trainer.train()
    return model, saved.bytes, passes


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradient_checkpointing_changes_no_weight(tmp_path, runs, dropout):
    (one, *_), (other, *_) = (
        checkpointed(runs, tmp_path / str(on), on, student_dropout=dropout) for on in (True, False)
    )
    assert runs.differences(runs.weights(one), runs.weights(other)) == []


def test_gradient_checkpointing_keeps_a_fraction_of_the_bytes(tmp_path, runs):
    (_, ours, _), (_, plain, _) = (
        checkpointed(runs, tmp_path / str(on), on) for on in (True, False)
    )
    assert ours < 0.2 * plain


def test_the_passes_of_a_teacher_are_not_checkpointed_and_keep_nothing(tmp_path, runs):
    *_, passes = checkpointed(runs, tmp_path, True)
    assert passes
    assert not any(passes)


def test_gradient_checkpointing_changes_no_weight_in_pretraining(tmp_path, runs):
    from sdtt.training.pretrain import MDLMTrainer

    models = []
    for on in (True, False):
        model = runs.masked_model(n_blocks=3, dropout=0.1)
        runs.pretrainer(MDLMTrainer, tmp_path / str(on), model, activation_checkpointing=on).train()
        models.append(runs.weights(model))
    assert runs.differences(*models) == []
