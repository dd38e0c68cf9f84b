import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import TrainerCallback

from sdtt.training.finite import NonFinite
from sdtt.training.guard import Guard
from sdtt.training.state import checkpoints, fault
from sdtt.training.stream import noise_of

NAME = "backbone.blocks.0.attn_qkv.weight"


def poisoned(runs, output, updates, value=math.nan, **settings):
    """A trainer in whose updates (from 1) one gradient gets a bad number."""
    model = runs.masked_model()
    trainer = runs.distiller(output, model, **settings)
    parameter = dict(model.named_parameters())[NAME]

    def poison(gradient):
        if trainer.state.global_step + 1 not in updates:
            return gradient
        return gradient.index_fill(0, torch.tensor([0]), value)

    parameter.register_hook(poison)
    return trainer


def stopped(trainer):
    with pytest.raises(NonFinite) as caught:
        trainer.train()
    return caught.value


def records(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


# Stop


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_the_run_and_is_named(tmp_path, runs, value, clip):
    error = stopped(poisoned(runs, tmp_path, {3}, value, max_grad_norm=clip))
    assert "update 3 is not finite: loss 0.0" in str(error)
    assert f"1 of 12 gradients (such as {NAME}), 0 parameters" in str(error)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, runs):
    trainer = runs.distiller(tmp_path)
    finite = trainer.loss_sum

    def loss_sum(*arguments):
        loss = finite(*arguments)
        return loss + (math.inf if trainer.state.global_step == 2 else 0)

    trainer.loss_sum = loss_sum
    assert "update 3 is not finite: loss inf, 0 of" in str(stopped(trainer))


def test_the_weights_are_those_before_the_bad_update(tmp_path, runs):
    trainer = poisoned(runs, tmp_path, {3})
    before = {}

    class Note(TrainerCallback):
        def on_step_begin(self, _args, state, *_, **__):
            before[state.global_step] = runs.weights(trainer.model)

    trainer.add_callback(Note())
    stopped(trainer)
    assert runs.differences(before[2], runs.weights(trainer.model)) == []


def test_the_batch_of_a_bad_update_is_saved_for_inspection(tmp_path, runs):
    trainer = poisoned(runs, tmp_path, {3}, gradient_accumulation_steps=2)
    file = stopped(trainer).file
    assert file == tmp_path / "faults" / "update-3.safetensors"
    places = list(range(16, 24))  # of two micro-batches of four texts
    noise = noise_of(places, length=8, batch=8, seed=0, smallest_time=0.0)
    expected = {
        "input_ids": torch.stack([trainer.stream[place]["input_ids"] for place in places]),
        "places": torch.tensor(places),
        "t": noise.t,
        "masks": noise.u < noise.t[:, None],
        "revealed": noise.revealed,
    }
    saved = load_file(file)
    assert saved.pop("loss").isfinite()
    assert runs.differences(expected, saved) == []


def test_the_file_of_a_bad_update_names_what_is_not_finite(tmp_path, runs):
    file = stopped(poisoned(runs, tmp_path, {3})).file
    with safe_open(file, "pt") as content:
        about = {key: json.loads(value) for key, value in content.metadata().items()}
    assert about == {"update": 3, "noticed": 3, "gradients": [NAME], "parameters": []}


def test_the_last_good_checkpoint_stays_the_newest(tmp_path, runs):
    error = stopped(poisoned(runs, tmp_path, {4}, save_steps=2.0))
    assert checkpoints(tmp_path) == [tmp_path / "checkpoint-2"]
    assert fault(tmp_path / "checkpoint-2") is None
    assert f"the last checkpoint is {tmp_path}/checkpoint-2" in str(error)


@pytest.fixture
def device_is_far(monkeypatch):
    """As on an accelerator between two records: nothing is read unless something is saved."""
    monkeypatch.setattr(Guard, "_reads", lambda *_: False)


@pytest.mark.usefixtures("device_is_far")
def test_what_is_read_late_names_the_first_bad_update_and_its_gradients(tmp_path, runs):
    error = stopped(poisoned(runs, tmp_path, {2, 3}, save_steps=4.0))
    assert "update 2 is not finite, noticed at update 4: loss 0.66" in str(error)
    assert f"1 of 12 gradients (such as {NAME}), 12 parameters" in str(error)


@pytest.mark.usefixtures("device_is_far")
def test_what_is_read_late_is_never_saved(tmp_path, runs):
    stopped(poisoned(runs, tmp_path, {3}, save_steps=2.0))
    assert checkpoints(tmp_path) == [tmp_path / "checkpoint-2"]


@pytest.mark.usefixtures("device_is_far")
def test_a_student_that_is_not_finite_is_never_saved(tmp_path, runs):
    stopped(poisoned(runs, tmp_path, {3}))  # the round ends at 5
    assert not (tmp_path / "students").exists()


@pytest.mark.usefixtures("device_is_far")
def test_a_run_that_ends_before_anything_is_read_is_refused_at_its_end(tmp_path, runs):
    trainer = poisoned(runs, tmp_path, {10}, save_strategy="no", rounds=1, steps_per_round=12)

    class Stop(TrainerCallback):
        def on_step_end(self, _args, state, control, **_):
            control.should_training_stop = state.global_step == 11

    trainer.add_callback(Stop())
    assert stopped(trainer).update == 10


# Skip


class History(TrainerCallback):
    """Weights, averages and the optimiser's count after every update."""

    def __init__(self, runs, trainer):
        self.runs, self.trainer, self.after = runs, trainer, []

    def on_step_end(self, *_, **__):
        everything = self.runs.weights(self.trainer.model)
        everything |= {f"ema.{n}": s.clone() for n, s in self.trainer.ema.shadow.items()}
        moments = self.trainer.optimizer.state_dict()["state"][0]
        everything |= {key: value.clone() for key, value in moments.items()}
        self.after.append(everything)


def skipping(runs, output, updates, **settings):
    trainer = poisoned(runs, output, updates, on_nonfinite="skip", **settings)
    history = History(runs, trainer)
    trainer.add_callback(history)
    return trainer, history


def test_a_skipped_update_changes_neither_weights_nor_average_nor_moments(tmp_path, runs):
    trainer, history = skipping(runs, tmp_path, {3}, weight_decay=0.1)
    trainer.train()
    assert runs.differences(history.after[1], history.after[2]) == []
    assert NAME in runs.differences(history.after[2], history.after[3])


def test_skipped_updates_are_counted_and_their_batches_saved(tmp_path, runs):
    trainer, _ = skipping(runs, tmp_path, {3, 6})
    trainer.train()
    counts = [each["left_out_updates"] for each in records(tmp_path) if "left_out_updates" in each]
    assert counts[1:7] == [0, 1, 1, 1, 2, 2][: len(counts[1:7])]
    saved = sorted(path.name for path in (tmp_path / "faults").iterdir())
    assert saved == ["update-3.safetensors", "update-6.safetensors"]


def test_the_loss_of_a_record_is_the_mean_over_the_updates_that_count(tmp_path, runs):
    settings = {"learning_rate": 0.0, "steps_per_round": 6, "rounds": 1}
    runs.distiller(tmp_path / "each", **settings).train()
    each = {record["step"]: record.get("loss") for record in records(tmp_path / "each")}
    trainer, _ = skipping(runs, tmp_path / "some", {2}, logging_steps=3.0, **settings)
    trainer.train()
    first = records(tmp_path / "some")[0]
    assert first["loss"] == pytest.approx((each[1] + each[3]) / 2, rel=1e-5)


def test_a_record_of_skipped_updates_alone_has_no_loss(tmp_path, runs):
    trainer, _ = skipping(runs, tmp_path, {3})
    trainer.train()
    third = records(tmp_path)[2]
    assert (third["step"], "loss" in third, "grad_norm" in third) == (3, False, False)


def test_too_many_skipped_updates_in_a_row_stop_the_run(tmp_path, runs):
    trainer, _ = skipping(runs, tmp_path, {2, 4, 5, 6}, max_skipped=2)
    error = stopped(trainer)
    assert (error.update, "more than max_skipped=2 updates in a row" in str(error)) == (6, True)


def test_a_run_that_skips_is_continued_to_the_same_end(tmp_path, runs):
    settings = {"student_dropout": 0.1, "save_steps": 4.0, "logging_steps": 3.0}
    trainer, _ = skipping(runs, tmp_path / "cut", {3, 4, 5}, **settings)
    trainer.add_callback(runs.CrashAfter(6))
    with pytest.raises(runs.Crashed):
        trainer.train()
    for name, resume in (("cut", True), ("whole", None)):
        skipping(runs, tmp_path / name, {3, 4, 5}, **settings)[0].train(resume)
    whole, cut = (runs.contents(tmp_path / name / "checkpoint-10") for name in ("whole", "cut"))
    assert runs.differences(whole, cut) == []
    of = [[each.get("loss") for each in records(tmp_path / name)] for name in ("whole", "cut")]
    assert of[0][:3] == of[1][:3]


def test_updates_skipped_in_a_row_count_across_a_restart(tmp_path, runs):
    settings = {"save_steps": 4.0, "max_skipped": 3}
    trainer, _ = skipping(runs, tmp_path, {3, 4, 5, 6}, **settings)
    trainer.add_callback(runs.CrashAfter(4))
    with pytest.raises(runs.Crashed):
        trainer.train()
    trainer, _ = skipping(runs, tmp_path, {3, 4, 5, 6}, **settings)
    with pytest.raises(NonFinite) as caught:
        trainer.train(True)
    assert caught.value.update == 6
