import json
import math

import pytest
from transformers import TrainerCallback

from sdtt.training.pretrain import MDLMTrainer
from sdtt.training.settings import check_faults
from sdtt.training.state import checkpoints

SHORT = {"save_steps": 2.0, "steps_per_round": 3}


@pytest.fixture(scope="module")
def begun(runs, tmp_path_factory):
    """A run that broke off after its checkpoint of update 4."""
    output = tmp_path_factory.mktemp("begun")
    with pytest.raises(runs.Crashed):
        runs.distiller(output, callbacks=(runs.CrashAfter(4),), **SHORT).train()
    return output / "checkpoint-4"


def resume(runs, begun, output, *callbacks, **settings):
    model, data = settings.pop("model", None), settings.pop("data", None)
    trainer = runs.distiller(
        output, model, data=data, callbacks=callbacks, **SHORT | {"rounds": 2} | settings
    )
    trainer.train(str(begun))
    return trainer


CHANGES = {
    "learning_rate: 0.01 in the checkpoint, 0.02 now": {"learning_rate": 0.02},
    "seed: 0 in the checkpoint, 1 now": {"seed": 1},
    "divergence: 'reverse_kl' in the checkpoint, 'tvd' now": {"divergence": "tvd"},
    "weight_decay: 0.0 in the checkpoint, 0.1 now": {"weight_decay": 0.1},
    "batch: 4 in the checkpoint, 8 now": {"gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize(("words", "settings"), CHANGES.items())
def test_a_checkpoint_of_other_settings_is_refused_and_both_values_are_named(
    runs, begun, tmp_path, words, settings
):
    name = words.partition(":")[0]
    with pytest.raises(ValueError, match=rf"checkpoint-4 .*{words}") as caught:
        resume(runs, begun, tmp_path, **settings)
    assert f"override_on_resume={name}" in str(caught.value)


def test_a_checkpoint_of_other_text_is_refused(runs, begun, tmp_path):
    with pytest.raises(ValueError, match=r"data: '11 texts of 8 ids .* now"):
        resume(runs, begun, tmp_path, data=runs.texts().flip(0))


def test_a_checkpoint_of_another_shape_is_refused_though_it_be_named(runs, begun, tmp_path):
    with pytest.raises(ValueError, match=r"student: 'MDLM.* of .* parameters") as caught:
        resume(
            runs,
            begun,
            tmp_path,
            model=runs.masked_model(n_blocks=2),
            override_on_resume=["student", "teacher"],
        )
    assert "override_on_resume=" not in str(caught.value)


def test_what_is_named_may_differ_and_is_recorded_with_both_values(runs, begun, tmp_path):
    resume(runs, begun, tmp_path, learning_rate=0.02, override_on_resume=["learning_rate"])
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first == {"step": 4, "overridden": {"learning_rate": [0.01, 0.02]}}


class Rates(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, _args, _state, _control, optimizer, **_):
        groups = optimizer.param_groups
        self.seen.append((groups[0]["lr"], groups[0]["weight_decay"], groups[0]["betas"][1]))


def test_what_is_overridden_takes_effect_from_the_first_update_on(runs, begun, tmp_path):
    rates = Rates()
    now = {"learning_rate": 0.02, "weight_decay": 0.1, "adam_beta2": 0.9}
    resume(runs, begun, tmp_path, rates, **now, override_on_resume=list(now))
    assert rates.seen == [(0.02, 0.1, 0.9)] * 2


def test_an_overridden_rate_keeps_its_warm_up(runs, tmp_path):
    settings = SHORT | {"warmup_steps": 10}
    with pytest.raises(runs.Crashed):
        runs.distiller(tmp_path, callbacks=(runs.CrashAfter(4),), **settings).train()
    rates = Rates()
    settings |= {"learning_rate": 0.02, "override_on_resume": ["learning_rate"]}
    runs.distiller(tmp_path, callbacks=(rates,), **settings).train(True)
    assert [rate for rate, _, _ in rates.seen] == pytest.approx([0.02 * 0.4, 0.02 * 0.5])


def test_a_checkpoint_after_an_override_holds_the_settings_of_now(runs, begun, tmp_path):
    now = {"learning_rate": 0.02, "override_on_resume": ["learning_rate"]}
    resume(runs, begun, tmp_path, **now)
    resume(runs, tmp_path / "checkpoint-6", tmp_path, learning_rate=0.02)


def test_a_round_may_get_longer(runs, begun, tmp_path):
    changed = {"steps_per_round": [3, 5], "override_on_resume": ["steps_per_round"]}
    assert resume(runs, begun, tmp_path, **changed).state.global_step == 8


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("rounds=1 is too few to resume .*: its round 2 has begun; plan 2", {"rounds": 1}),
        (
            "steps_per_round=1 is too few .*: 1 .* give that round 2 at least",
            {"steps_per_round": 1},
        ),
    ],
)
def test_rounds_shorter_than_what_is_done_are_refused(runs, begun, tmp_path, words, settings):
    with pytest.raises(ValueError, match=words):
        resume(runs, begun, tmp_path, **settings, override_on_resume=list(settings))


def test_a_round_that_is_cut_as_short_as_can_be_leaves_its_student(runs, begun, tmp_path):
    changed = {"steps_per_round": [3, 2], "override_on_resume": ["steps_per_round"]}
    resume(runs, begun, tmp_path, **changed)
    assert (tmp_path / "students/1/model.safetensors").is_file()


def test_a_pretraining_shorter_than_what_is_done_is_refused(runs, tmp_path):
    runs.pretrainer(MDLMTrainer, tmp_path).train()
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, max_steps=5, override_on_resume=["max_steps"])
    with pytest.raises(ValueError, match=r"max_steps=5 is too few .* give max_steps=6 at least"):
        trainer.train(resume_from_checkpoint=True)


def test_an_average_may_begin_at_a_checkpoint_that_has_none(runs, tmp_path):
    settings = SHORT | {"ema_decay": 0.0}
    with pytest.raises(runs.Crashed):
        runs.distiller(tmp_path, callbacks=(runs.CrashAfter(4),), **settings).train()
    settings |= {"ema_decay": 0.5, "override_on_resume": ["ema_decay"]}
    trainer = runs.distiller(tmp_path, **settings)
    trainer.train(True)
    assert (tmp_path / "checkpoint-6" / "ema.safetensors").is_file()


def test_a_batch_may_be_divided_otherwise(runs, begun, tmp_path):
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert resume(runs, begun, tmp_path, **settings).state.global_step == 6


def test_other_intervals_of_saves_and_records_hold_from_the_restart_on(runs, begun, tmp_path):
    resume(runs, begun, tmp_path, save_steps=1.0, logging_steps=2.0, save_total_limit=9)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-5"]
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [each["step"] for each in lines if "loss" in each] == [6]


REFUSED = {
    "per_device_train_batch_size must be at least 1, got 0; every process needs a text": {
        "per_device_train_batch_size": 0
    },
    "max_skipped must be at least 1, got 0": {"max_skipped": 0},
    "save_total_limit must be at least 1, got 0; none keeps all": {"save_total_limit": 0},
    r"learning_rate must lie in \[0, inf\), got -1": {"learning_rate": -1.0},
    r"learning_rate must lie in \[0, inf\), got inf": {"learning_rate": math.inf},
    r"weight_decay must lie in \[0, inf\), got -1.0": {"weight_decay": -1.0},
    "max_grad_norm must be at least 0, got -1.0; 0 clips nothing": {"max_grad_norm": -1.0},
    "seed must lie in 0 .. 4294967295, got -1": {"seed": -1},
    "seed must lie in 0 .. 4294967295, got 1000": {"seed": 10**23},
    "unknown attn_implementation 'flsh'; use sdpa, or eager": {"attn_implementation": "flsh"},
    "a MDLMForMaskedLM has no attn_implementation='flex_attention'; use sdpa": {
        "attn_implementation": "flex_attention"
    },
    "enable_jit_checkpoint cannot be set: it saves in mid-update": {"enable_jit_checkpoint": True},
    "logging_nan_inf_filter cannot be set: it would hide": {"logging_nan_inf_filter": True},
    "split_batches cannot be set: a batch could be smaller than the number of processes": {
        "accelerator_config": {"split_batches": True}
    },
}


@pytest.mark.parametrize(("words", "settings"), REFUSED.items())
def test_a_setting_that_would_lose_something_is_refused_in_words(runs, tmp_path, words, settings):
    with pytest.raises(ValueError, match=words):
        runs.distiller(tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on_nonfinite", "ignore", "on_nonfinite must be 'stop' or 'skip', got 'ignore'"),
        ("ema_device", "gpu", "ema_device must be 'same' or 'cpu', got 'gpu'"),
    ],
)
def test_a_name_that_means_nothing_is_refused_in_words(runs, tmp_path, name, value, words):
    config = runs.distiller(tmp_path).args
    setattr(config, name, value)
    with pytest.raises(ValueError, match=words):
        check_faults(config)
