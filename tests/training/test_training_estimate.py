"""Claims about what a run is said to ask for."""

import pytest
import torch

from sdtt.training.estimate import estimate_of_distillation, estimate_of_pretraining
from sdtt.training.flops import shape_of
from sdtt.training.lora import LoraSettings, with_adapters
from sdtt.training.memory import memory_of
from sdtt.training.peak import Peak
from sdtt.training.pretrain import CausalTrainer, MDLMTrainer, PretrainConfig
from sdtt.training.probe import FOR_PROBE, probe, random_texts
from sdtt.training.sdtt_config import SDTTConfig

PEAK = Peak(1e9, "1e-3 TFLOP/s of a test")


def distillation(runs, output, **settings):
    default = {"rounds": 3, "steps_per_round": 5, "start_steps": 32, "ema_decay": 0.9}
    return SDTTConfig(str(output), **runs.QUIET | default | settings)


@pytest.mark.parametrize(
    ("settings", "name", "numbers"),
    [
        ({}, "teacher", 4),
        ({"teacher_dtype": "bfloat16"}, "teacher", 2),
        ({"pack_teacher": True}, "teacher", 8),
        ({}, "moments", 8),
        ({"optim": "sgd"}, "moments", 0),
        ({"optim": "adafactor"}, "moments", 4),
        ({}, "ema", 4),
    ],
)
def test_what_the_settings_hold_of_each_weight_is_counted(tmp_path, runs, settings, name, numbers):
    model = runs.masked_model()
    memory = estimate_of_distillation(distillation(runs, tmp_path, **settings), model, PEAK).memory
    assert getattr(memory, name) == numbers * model.num_parameters()


@pytest.mark.parametrize(("teacher_sharding", "shards"), [("replicated", 1), ("sharded", 4)])
def test_a_teacher_is_whole_on_each_device_unless_it_is_sharded(
    tmp_path, runs, monkeypatch, teacher_sharding, shards
):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(SDTTConfig, "world_size", 4)
    args = distillation(runs, tmp_path, teacher_sharding=teacher_sharding)
    model = runs.masked_model()
    memory = estimate_of_distillation(args, model, PEAK).memory
    assert memory.teacher == 4 * model.num_parameters() // shards
    assert memory.weights == model.num_parameters()


def test_an_average_in_host_memory_takes_none_of_a_device(tmp_path, runs, monkeypatch):
    args = distillation(runs, tmp_path, ema_device="cpu")
    assert estimate_of_distillation(args, runs.masked_model(), PEAK).memory.ema > 0
    monkeypatch.setattr(SDTTConfig, "device", torch.device("cuda"))
    assert estimate_of_distillation(args, runs.masked_model(), PEAK).memory.ema == 0


def test_each_round_is_a_stage(tmp_path, runs):
    estimate = estimate_of_distillation(distillation(runs, tmp_path), runs.masked_model(), PEAK)
    stages = [(s.teacher_steps, s.student_steps, s.updates) for s in estimate.stages]
    assert stages == [(32, 16, 5), (16, 8, 5), (8, 4, 5)]
    assert (estimate.updates, estimate.tokens) == (15, 15 * 64 * 8)


def test_the_operations_of_a_stage_are_those_that_its_updates_count(tmp_path, runs):
    settings = {"steps_per_round": 2, "per_device_train_batch_size": 4, "start_steps": 8}
    args = distillation(runs, tmp_path, **settings)
    student, teacher = runs.masked_model(), runs.masked_model(1, n_blocks=3)
    estimate = estimate_of_distillation(args, student, PEAK, teacher)
    trainer = runs.distiller(tmp_path, student, teacher, **settings | {"rounds": 3})
    counted = [trainer.update_flops().total]
    log = trainer.log

    def at_record(logs, *rest):
        if "loss" in logs:
            counted.append(trainer.update_flops().total)
        log(logs, *rest)

    trainer.log = at_record
    trainer.train()
    expected = [counted[0], counted[4], counted[6]]
    assert [stage.flops for stage in estimate.stages] == pytest.approx([2 * n for n in expected])


@pytest.mark.parametrize(
    ("kind", "attention"),
    [(MDLMTrainer, "bidirectional"), (MDLMTrainer, "reveal_causal"), (CausalTrainer, None)],
)
def test_the_operations_of_a_pretraining_are_those_that_its_updates_count(
    tmp_path, runs, kind, attention
):
    masked = attention is not None
    model = runs.masked_model(attention=attention) if masked else runs.causal_model()
    trainer = runs.pretrainer(kind, tmp_path, model, gradient_accumulation_steps=3)
    estimate = estimate_of_pretraining(trainer.args, model, PEAK)
    assert (estimate.texts, estimate.updates) == (12, 6)
    assert estimate.flops == pytest.approx(6 * trainer.update_flops().total)


def test_whole_orders_keep_each_token_twice_for_the_backward_pass(tmp_path, runs):
    model = runs.masked_model(attention="reveal_causal")
    args = PretrainConfig(
        str(tmp_path), per_device_train_batch_size=4, attn_implementation="sdpa", **runs.QUIET
    )
    estimate = estimate_of_pretraining(args, model, PEAK)
    passes = {"texts": 4, "length": 2 * 8, "rows": 4 * 8}
    assert estimate.memory == memory_of(shape_of(model), **passes, hides_keys=True)


def test_the_texts_of_an_update_are_those_of_the_global_batch(tmp_path, runs):
    args = distillation(runs, tmp_path, global_batch_size=256)
    estimate = estimate_of_distillation(args, runs.masked_model(), PEAK)
    assert (estimate.texts, estimate.tokens) == (256, 15 * 256 * 8)


def test_a_global_batch_that_the_run_would_refuse_is_refused(tmp_path, runs):
    args = distillation(runs, tmp_path, global_batch_size=100)
    with pytest.raises(ValueError, match="no multiple of per_device_train_batch_size=64"):
        estimate_of_distillation(args, runs.masked_model(), PEAK)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_cut_texts_count_as_many_tokens_as_they_have_on_average(tmp_path, runs, share):
    model = runs.masked_model()
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, model, variable_length=share)
    cut = estimate_of_pretraining(trainer.args, model, PEAK)
    assert cut.tokens == 6 * trainer.mean_tokens_per_update < 6 * 4 * 8
    trainer.args.variable_length = 0.0
    whole = estimate_of_pretraining(trainer.args, model, PEAK)
    assert cut.flops / whole.flops == pytest.approx(cut.tokens / whole.tokens)


def test_cut_texts_of_a_distillation_ask_for_less(tmp_path, runs):
    whole, cut = (
        estimate_of_distillation(
            distillation(runs, tmp_path, variable_length=share), runs.masked_model(), PEAK
        )
        for share in (0.0, 1.0)
    )
    assert cut.tokens == 15 * 64 * 4.5
    assert cut.flops / whole.flops == pytest.approx(4.5 / 8)


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_recomputed_activations_are_not_held_under_either_name(tmp_path, runs, name):
    args = distillation(runs, tmp_path)
    model = runs.masked_model(n_blocks=8)
    plain = estimate_of_distillation(args, model, PEAK).memory.activations
    setattr(args, name, True)
    assert estimate_of_distillation(args, model, PEAK).memory.activations < plain


def test_a_config_of_an_older_transformers_is_estimated(tmp_path, runs, monkeypatch):
    args = distillation(runs, tmp_path)
    vars(args).pop("activation_checkpointing", None)
    for each in type(args).__mro__:
        if "activation_checkpointing" in vars(each):
            monkeypatch.delattr(each, "activation_checkpointing")
    assert estimate_of_distillation(args, runs.masked_model(), PEAK).memory.activations


def test_hours_at_an_assumed_share_are_the_operations_over_the_rate(tmp_path, runs):
    estimate = estimate_of_distillation(distillation(runs, tmp_path), runs.masked_model(), PEAK)
    assert estimate.hours is None
    assumed = estimate.assuming(0.4)
    assert assumed.hours == pytest.approx(estimate.flops / 0.4e9 / 3600)
    assert "assumed MFU of 0.4" in assumed.basis


def test_no_hours_can_be_assumed_of_an_unknown_device(tmp_path, runs):
    unknown = Peak(None, "the rate of X is not known here: give peak_tflops")
    estimate = estimate_of_distillation(distillation(runs, tmp_path), runs.masked_model(), unknown)
    with pytest.raises(ValueError, match="give peak_tflops"):
        estimate.assuming(0.4)


@pytest.mark.parametrize(
    ("saving", "checkpoints"),
    [
        ({"save_steps": 5.0, "save_total_limit": 2}, 3),  # the third is whole before one goes
        ({"save_steps": 5.0, "save_total_limit": None}, 3),
        ({"save_steps": 100.0}, 1),
        ({"save_steps": 0.5}, 2),
        ({"save_strategy": "no"}, 0),
    ],
)
def test_the_disk_holds_checkpoints_and_students(tmp_path, runs, saving, checkpoints):
    model = runs.masked_model()
    args = distillation(runs, tmp_path, **saving)
    estimate = estimate_of_distillation(args, model, PEAK)
    students = 3 * 2 * 4 * model.num_parameters()  # with their EMA
    assert estimate.disk_bytes == checkpoints * estimate.checkpoint_bytes + students


@pytest.mark.parametrize("merge", [True, False])
def test_the_disk_holds_adapters_and_the_whole_student_where_it_is_merged(tmp_path, runs, merge):
    args = distillation(runs, tmp_path, save_steps=100.0, merge_lora=merge)
    model = with_adapters(runs.masked_model(), LoraSettings(lora_rank=2))
    estimate = estimate_of_distillation(args, model, PEAK)
    adapters = sum(each.numel() for each in model.parameters() if each.requires_grad)
    student = model.num_parameters() if merge else adapters
    # itself, two moments, EMA, teacher
    assert estimate.checkpoint_bytes == 5 * 4 * adapters
    assert estimate.disk_bytes == estimate.checkpoint_bytes + 3 * 2 * 4 * student


def test_a_pretraining_holds_no_teacher(tmp_path, runs):
    args = PretrainConfig(str(tmp_path), **runs.QUIET)
    memory = estimate_of_pretraining(args, runs.masked_model(), PEAK).memory
    assert (memory.teacher, memory.ema) == (0, 0)


# ---------------------------------------------------------------- the probe


def probing(runs, output, **settings):
    model = runs.masked_model()
    made = []

    def trainer():
        made.append(
            runs.distiller(output, model, data=random_texts(model, 4), **settings | FOR_PROBE)
        )
        return made[-1]

    return trainer, made


def test_a_probe_makes_as_many_updates_as_it_is_told_and_no_more(tmp_path, runs):
    trainer, made = probing(runs, tmp_path)
    result = probe(trainer, updates=3, accumulation=1)
    assert made[0].state.global_step == 3
    assert result.updates == 2  # the first is not timed


def test_a_probe_stays_within_the_first_round(tmp_path, runs):
    trainer, made = probing(runs, tmp_path, steps_per_round=3)
    probe(trainer, updates=20, accumulation=1)
    assert made[0].state.global_step == 2
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_the_rate_of_a_probe_is_that_of_whole_updates(tmp_path, runs):
    trainer, made = probing(runs, tmp_path)
    result = probe(trainer, updates=3, accumulation=5)
    needed = 5 * made[0].update_flops().total
    assert result.flops_per_second * result.seconds_per_update == pytest.approx(needed)


def test_a_probe_takes_one_micro_batch_of_the_global_batch(tmp_path, runs):
    trainer, made = probing(runs, tmp_path, global_batch_size=12)
    probe(trainer, updates=1, accumulation=3)
    assert made[0].stream.batch == made[0].args.per_device_train_batch_size == 4


def test_the_rate_of_a_probe_leaves_padding_out(tmp_path, runs):
    trainer, made = probing(runs, tmp_path, variable_length=1.0)
    result = probe(trainer, updates=2, accumulation=1)
    needed = made[0].update_flops().total * 4.5 / 8
    assert result.flops_per_second * result.seconds_per_update == pytest.approx(needed)


def test_hours_from_a_probe_scale_with_the_operations_of_each_round(tmp_path, runs):
    estimate = estimate_of_distillation(distillation(runs, tmp_path), runs.masked_model(), PEAK)
    trainer, _ = probing(runs, tmp_path)
    result = probe(trainer, updates=2, accumulation=1)
    probed = estimate.probed(result)
    assert probed.hours == pytest.approx(estimate.flops / result.flops_per_second / 3600)
    assert "1 update on this machine" in probed.basis


def test_random_texts_hold_every_id_but_mask(runs):
    texts = random_texts(runs.masked_model(mask_token_id=7), 500)
    assert sorted(texts.unique().tolist()) == [i for i in range(20) if i != 7]
