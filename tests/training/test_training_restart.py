import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import Trainer, TrainerCallback

from sdtt.training import trainer as trainer_module
from sdtt.training.pretrain import MDLMTrainer
from sdtt.training.state import (
    checkpoints,
    delete_old_checkpoints,
    fault,
    last_complete_checkpoint,
    newest_marked,
    remove_checkpoint,
    save_into,
    write_aside,
    write_manifest,
)

HERE = Path(__file__).parent


def records(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output):
    return [(each["step"], each["loss"]) for each in records(output) if "loss" in each]


# Train all = train some, stop, train the rest: to the last bit


def everything(runs, output, seed, *callbacks, **settings):
    """All that a restart could lose: dropout, EMA, accumulation, a deeper first teacher."""
    default = {"student_dropout": 0.1, "gradient_accumulation_steps": 2, "steps_per_round": 3}
    return runs.distiller(
        output,
        runs.masked_model(seed),
        runs.masked_model(seed + 10, n_blocks=2),
        callbacks=callbacks,
        **default | settings,
    )


AT_ROUNDS = {"teacher_from": "ema", "reset_optimizer": True}


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """Where each kind of run lies that was never stopped."""
    plain, at_rounds = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("at_rounds")
    everything(runs, plain, 0).train()
    everything(runs, at_rounds, 0, **AT_ROUNDS).train()
    return {False: plain, True: at_rounds}


@pytest.mark.parametrize(
    ("saved", "at_rounds"),
    [(2, False), (3, False), (4, False), (3, True)],  # the first round ends at 3
)
def test_a_distillation_taken_up_again_ends_as_one_that_was_never_stopped(
    tmp_path, runs, whole, saved, at_rounds
):
    settings = {"save_steps": float(saved)} | (AT_ROUNDS if at_rounds else {})
    crashing = everything(runs, tmp_path, 0, runs.CrashAfter(saved + 1), **settings)
    with pytest.raises(runs.Crashed):
        crashing.train()
    # fresh objects with other weights: all that counts must come from the checkpoint
    everything(runs, tmp_path, 1, **settings).train(resume_from_checkpoint=True)
    expected = runs.contents(whole[at_rounds] / "checkpoint-6")
    assert len(expected) > 30
    assert runs.differences(expected, runs.contents(tmp_path / "checkpoint-6")) == []
    assert losses(tmp_path) == losses(whole[at_rounds])


CHILD = """
import runpy, sys
from pathlib import Path
runs = runpy.run_path(sys.argv[1])
runs["distiller"](
    Path(sys.argv[2]),
    callbacks=(runs["KillAfter"](7),),
    student_dropout=0.1,
    save_steps=3.0,
).train()
"""


@pytest.mark.slow
def test_a_process_killed_in_an_update_is_continued_to_the_same_end_by_another(tmp_path, runs):
    arguments = [str(HERE / "conftest.py"), str(tmp_path / "cut")]
    child = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    settings = {"student_dropout": 0.1, "save_steps": 3.0}
    runs.distiller(tmp_path / "cut", runs.masked_model(1), **settings).train(True)
    runs.distiller(tmp_path / "whole", **settings).train()
    whole, cut = (runs.contents(tmp_path / name / "checkpoint-10") for name in ("whole", "cut"))
    assert runs.differences(whole, cut) == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


# Which checkpoint is taken up. One run of checkpoints 2, 4 and 6, damaged in many ways.


@pytest.fixture(scope="module")
def finished(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("finished")
    settings = {"steps_per_round": 3, "save_steps": 2.0, "save_total_limit": 3}
    runs.distiller(output, **settings).train()
    return output


@pytest.fixture
def begun(runs, finished, tmp_path):
    """The finished run, copied, and a trainer that would take it up."""
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    start = runs.BeganAt()

    def take_up(resume=True, **settings):
        default = {"steps_per_round": 3, "save_steps": 2.0, "save_total_limit": 3}
        trainer = runs.distiller(output, callbacks=(start,), **default | settings)
        trainer.train(resume_from_checkpoint=resume)
        return start.step

    return SimpleNamespace(output=output, take_up=take_up, newest=output / "checkpoint-6")


def unmark(checkpoint):
    (checkpoint / "manifest.json").unlink()


def cut_manifest(checkpoint):
    manifest = checkpoint / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])


def truncate(checkpoint, name="model.safetensors"):
    path = checkpoint / name
    path.write_bytes(path.read_bytes()[:-1])


def alter(checkpoint, name="optimizer.pt"):
    path = checkpoint / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose(checkpoint, name="teacher.safetensors"):
    (checkpoint / name).unlink()


def add(checkpoint):
    (checkpoint / "adapter_model.safetensors").write_text("")


def change_manifest(checkpoint, change):
    manifest = checkpoint / "manifest.json"
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(change(record)))


def empty_manifest(checkpoint):
    change_manifest(checkpoint, lambda _: {})


def replace_manifest(checkpoint):
    change_manifest(checkpoint, lambda _: ["trainer_state.json"])


def alter_manifest(checkpoint):
    change_manifest(checkpoint, lambda record: record | {"optimizer.pt": record["ema.safetensors"]})


def shorten_manifest(checkpoint):
    change_manifest(
        checkpoint, lambda record: {k: v for k, v in record.items() if k != "rng_state.pth"}
    )


DAMAGE = {
    unmark: "incomplete: its saving did not finish",
    cut_manifest: "damaged: not JSON",
    empty_manifest: "damaged: it does not list the files of a checkpoint",
    replace_manifest: "damaged: it does not list the files of a checkpoint",
    alter_manifest: "optimizer.pt is not the file that was saved",
    shorten_manifest: "rng_state.pth was not saved with it",
    add: "adapter_model.safetensors was not saved with it",
    truncate: "model.safetensors is not the file that was saved",
    alter: "optimizer.pt is not the file that was saved",
    lose: "teacher.safetensors is missing",
}


def test_every_checkpoint_of_a_finished_run_is_whole(finished):
    assert [path.name for path in checkpoints(finished)] == [f"checkpoint-{n}" for n in (6, 4, 2)]
    assert [fault(path) for path in checkpoints(finished)] == [None] * 3


def test_the_newest_checkpoint_is_taken_up(begun):
    assert begun.take_up() == 6


@pytest.mark.parametrize(("damage", "message"), DAMAGE.items())
def test_a_damaged_checkpoint_is_refused_by_name(begun, damage, message):
    damage(begun.newest)
    with pytest.raises(ValueError, match=rf"checkpoint-6.* {message}"):
        begun.take_up(resume=str(begun.newest))


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_whole_checkpoint_is_the_one_before_a_damaged_one(begun, damage):
    damage(begun.newest)
    assert last_complete_checkpoint(begun.output)[0] == begun.output / "checkpoint-4"


def test_the_checkpoint_before_a_damaged_one_is_taken_up(begun):
    truncate(begun.newest)
    assert begun.take_up() == 4


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_each_is_named(begun):
    truncate(begun.newest)
    unmark(begun.output / "checkpoint-4")
    lose(begun.output / "checkpoint-2")
    with pytest.raises(ValueError, match=r"no whole checkpoint .*-6 .*-4 .*-2 "):
        begun.take_up()


def test_a_run_without_a_checkpoint_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match="no whole checkpoint to resume in"):
        runs.distiller(tmp_path).train(resume_from_checkpoint=True)


def test_every_file_of_a_checkpoint_is_in_its_manifest(finished):
    checkpoint = finished / "checkpoint-6"
    listed = json.loads((checkpoint / "manifest.json").read_text())
    assert listed.keys() | {"manifest.json"} == {path.name for path in checkpoint.iterdir()}


def test_a_hidden_file_of_the_file_system_does_no_harm(begun):
    (begun.newest / ".nfs0001").write_text("")
    assert fault(begun.newest) is None


def test_a_hidden_file_that_was_saved_counts(tmp_path):
    for name in (".metadata", "trainer_state.json"):  # as sharded states have one
        (tmp_path / name).write_text("saved")
    write_manifest(tmp_path)
    (tmp_path / ".metadata").write_text("other")
    assert ".metadata is not the file that was saved" in fault(tmp_path)


def test_a_checkpoint_is_marked_as_deleted_before_it_is(begun, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda _: None)
    remove_checkpoint(begun.newest)
    assert "did not finish" in fault(begun.newest)


def test_an_incomplete_checkpoint_is_not_counted_among_those_that_are_kept(begun):
    unmark(begun.output / "checkpoint-4")
    delete_old_checkpoints(begun.newest, 2)
    assert [path.name for path in checkpoints(begun.output)] == ["checkpoint-6", "checkpoint-2"]


def test_a_damaged_checkpoint_that_was_passed_over_is_not_named_as_the_last(begun):
    truncate(begun.newest)
    assert newest_marked(begun.output, 5) == begun.output / "checkpoint-4"


def test_a_run_that_starts_anew_is_not_continued_from_the_old_ones_checkpoints(begun, runs):
    settings = {"steps_per_round": 3, "save_steps": 2.0}
    with pytest.raises(runs.Crashed):
        runs.distiller(begun.output, callbacks=(runs.CrashAfter(3),), **settings).train()
    assert last_complete_checkpoint(begun.output)[0] == begun.output / "checkpoint-2"
    assert fault(begun.output / "checkpoint-6.abandoned") is None


def test_the_mean_loss_of_a_resumed_call_is_over_its_own_updates(tmp_path, runs):
    runs.pretrainer(MDLMTrainer, tmp_path / "whole").train()
    lines = (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if '"loss"' in line]

    def cut(*callbacks):
        settings = {"save_steps": 4.0, "logging_steps": 50.0}
        return runs.pretrainer(MDLMTrainer, tmp_path / "cut", callbacks=callbacks, **settings)

    with pytest.raises(runs.Crashed):
        cut(runs.CrashAfter(5)).train()
    assert cut().train("auto").training_loss == pytest.approx(sum(losses[4:]) / 2)
    assert cut().train("auto").training_loss == 0  # of no update


def test_a_supervisor_starts_a_run_that_has_no_checkpoint_yet(tmp_path, runs):
    start = runs.BeganAt()
    runs.distiller(tmp_path, callbacks=(start,)).train("auto")
    assert start.step == 0


def test_a_supervisor_goes_on_with_a_run_that_has_one(begun):
    truncate(begun.newest)
    assert begun.take_up(resume="auto") == 4


def test_checkpoints_are_counted_and_not_spelled(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-9" / "trainer_state.json").write_text("")
    write_manifest(tmp_path / "checkpoint-9")
    found, faults = last_complete_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint-9"
    assert ["checkpoint-10 is incomplete" in each for each in faults] == [True]


class Killed(Exception):
    """The process is no more."""


def fail_at(monkeypatch, update):
    """The process ends while the optimiser is saved."""
    save = Trainer._save_optimizer_and_scheduler

    def fail(self, output_dir):
        if self.state.global_step == update:
            raise Killed
        save(self, output_dir)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", fail)


def test_a_crash_in_mid_save_leaves_the_checkpoint_before_it_to_be_taken_up(
    tmp_path, runs, monkeypatch
):
    settings = {"save_steps": 2.0, "save_total_limit": 1}
    with monkeypatch.context() as patch:
        fail_at(patch, 4)
        with pytest.raises(Killed):
            runs.distiller(tmp_path, **settings).train()
    start = runs.BeganAt()
    runs.distiller(tmp_path, callbacks=(start,), **settings).train(resume_from_checkpoint=True)
    assert start.step == 2


def test_a_checkpoint_saved_over_a_broken_one_is_not_whole_before_it_is_done(begun, monkeypatch):
    truncate(begun.newest)
    fail_at(monkeypatch, 6)
    with pytest.raises(Killed):
        begun.take_up()
    assert "did not finish" in fault(begun.newest)


def test_only_the_newest_checkpoints_are_kept(tmp_path, runs):
    runs.distiller(tmp_path, save_steps=2.0, save_total_limit=2).train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-8"]


def test_the_best_checkpoint_is_kept_besides(tmp_path, runs):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_nelbo"}
    best |= {"eval_strategy": "steps", "eval_steps": 2.0, "greater_is_better": False}
    trainer = runs.distiller(tmp_path, eval_dataset=runs.texts(4), save_steps=2.0, **best)
    trainer.evaluate = lambda *_, **__: {"eval_nelbo": float(trainer.state.global_step)}  # rises
    trainer.train()
    assert [path.name.split("-")[1] for path in checkpoints(tmp_path)] == ["10", "8", "2"]


def test_a_broken_checkpoint_of_a_later_update_does_not_drive_out_a_whole_one(begun, runs):
    truncate(begun.newest)
    truncate(begun.output / "checkpoint-4")

    class Stop(TrainerCallback):
        def on_step_begin(self, _args, state, *_, **__):
            if state.global_step == 5:
                raise runs.Crashed

    settings = {"steps_per_round": 3, "save_steps": 2.0, "save_total_limit": 1}
    with pytest.raises(runs.Crashed):
        runs.distiller(begun.output, callbacks=(Stop(),), **settings).train(True)
    found, _ = last_complete_checkpoint(begun.output)
    assert found == begun.output / "checkpoint-4"


# Files


def test_a_save_that_fails_leaves_the_old_files(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old")

    def save(path):
        (path / "weights").write_text("half of the n")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        save_into(folder, save)
    assert (folder / "weights").read_text() == "old"


def test_a_save_that_fails_leaves_no_part_of_itself(tmp_path):
    def save(path):
        (path / "weights").write_text("half of the n")
        raise OSError("no space left on device")

    (tmp_path / "old").mkdir()
    for name in ("old", "new"):
        with pytest.raises(OSError, match="no space"):
            save_into(tmp_path / name, save)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_a_new_folder_appears_whole(tmp_path):
    def save(path):
        (path / "weights").write_text("new")
        assert not (tmp_path / "model").exists()

    save_into(tmp_path / "model", save)
    assert (tmp_path / "model" / "weights").read_text() == "new"


def test_a_save_replaces_files_and_folders_and_leaves_the_others(tmp_path):
    folder = tmp_path / "model"
    (folder / "ema").mkdir(parents=True)
    for name in ("weights", "notes", "ema/stale"):
        (folder / name).write_text("old")

    def save(path):
        (path / "weights").write_text("new")
        (path / "ema").mkdir()
        (path / "ema" / "weights").write_text("new")

    save_into(folder, save)
    found = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
    assert found == {"weights": "new", "notes": "old", "ema/weights": "new"}


def test_a_save_after_one_that_failed_holds_nothing_of_it(tmp_path):
    def fail(path):
        (path / "stray").write_text("half")
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - whichever
        save_into(tmp_path / "model", fail)
    save_into(tmp_path / "model", lambda path: (path / "weights").write_text("new"))
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights"]


def test_a_file_written_aside_replaces_the_old_one_and_leaves_no_other(tmp_path):
    (tmp_path / "file").write_text("old")
    write_aside(tmp_path / "file", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


# Records


def test_a_resumed_run_has_one_record_of_each_update(begun):
    shutil.rmtree(begun.newest)
    begun.take_up()
    assert [step for step, _ in losses(begun.output)] == [1, 2, 3, 4, 5, 6]


def test_records_of_updates_before_the_checkpoint_stay_as_they_were(begun):
    before = records(begun.output)[:4]
    shutil.rmtree(begun.newest)
    begun.take_up()
    assert records(begun.output)[:4] == before


def test_a_record_that_was_cut_short_does_not_stop_a_restart(begun):
    metrics = begun.output / "metrics.jsonl"
    shutil.rmtree(begun.newest)
    metrics.write_text(metrics.read_text() + '{"step": 7, "lo')
    begun.take_up()
    assert [step for step, _ in losses(begun.output)] == [1, 2, 3, 4, 5, 6]


def test_a_run_begun_anew_drops_the_records_of_the_old_one(begun):
    begun.take_up(resume=None)
    assert [step for step, _ in losses(begun.output)] == [1, 2, 3, 4, 5, 6]


def test_the_speed_of_a_resumed_run_counts_its_own_updates_only(begun, runs, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(
        trainer_module, "time", SimpleNamespace(perf_counter=lambda: now[0], time=lambda: now[0])
    )

    class Tick(TrainerCallback):
        def on_step_end(self, *_, **__):
            now[0] += 1

    shutil.rmtree(begun.newest)
    settings = {"steps_per_round": 3, "save_steps": 2.0}
    runs.distiller(begun.output, callbacks=(Tick(),), **settings).train(True)
    speeds = [each["tokens_per_second"] for each in records(begun.output)[-3:-1]]
    assert speeds == [32, 32]  # four texts of eight tokens in a second
