import errno
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from transformers import Trainer, TrainerCallback

from sdtt.training import disk
from sdtt.training.disk import SaveFailed, check_room, checkpoint_bytes, size, write_failure
from sdtt.training.lora import LoraSettings, with_adapters
from sdtt.training.state import checkpoints, fault

FULL = 4096  # bytes that a file may have: less than any tensors of a checkpoint


@contextmanager
def full_disk():
    """No file may grow beyond a few bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_at(monkeypatch):
    """Makes the disk full while the checkpoints of some updates are saved."""
    save = Trainer._save_checkpoint

    def arrange(*updates, unless=lambda: False):
        def full_or_not(self, model, trial):
            if self.state.global_step not in updates or unless():
                return save(self, model, trial)
            with full_disk():
                return save(self, model, trial)

        monkeypatch.setattr(Trainer, "_save_checkpoint", full_or_not)

    return arrange


def names(output):
    return sorted(path.name for path in output.iterdir() if path.name.startswith("checkpoint"))


# Checkpoints


def test_a_save_that_fails_costs_nothing_but_itself(tmp_path, runs, full_at):
    full_at(4)
    settings = {"save_steps": 2.0, "save_total_limit": 9, "student_dropout": 0.1}
    runs.distiller(tmp_path / "full", **settings).train()
    assert names(tmp_path / "full") == ["checkpoint-10"] + [f"checkpoint-{n}" for n in (2, 6, 8)]
    runs.distiller(tmp_path / "whole", **settings).train()
    whole, full = (runs.contents(tmp_path / name / "checkpoint-10") for name in ("whole", "full"))
    assert runs.differences(whole, full) == []


def test_a_save_that_fails_keeps_the_last_whole_checkpoint(tmp_path, runs, full_at):
    full_at(4)
    trainer = runs.distiller(
        tmp_path, callbacks=(runs.CrashAfter(5),), save_steps=2.0, save_total_limit=1
    )
    with pytest.raises(runs.Crashed):
        trainer.train()
    assert checkpoints(tmp_path) == [tmp_path / "checkpoint-2"]
    assert fault(tmp_path / "checkpoint-2") is None


def test_three_failed_saves_in_a_row_end_the_run(tmp_path, runs, full_at):
    full_at(4, 6, 8)
    with pytest.raises(SaveFailed, match=r"checkpoint-8 could not .*last whole .*checkpoint-2"):
        runs.distiller(tmp_path, save_steps=2.0).train()


def test_a_good_save_forgives_the_failed_ones_before_it(tmp_path, runs, full_at):
    full_at(2, 4, 8, 9)
    trainer = runs.distiller(tmp_path, save_steps=2.0)
    trainer.train()
    assert trainer.state.global_step == 10


def test_a_failed_save_of_the_last_update_ends_the_run_in_words(tmp_path, runs, full_at):
    full_at(10)
    with pytest.raises(SaveFailed, match=r"largest size that is allowed; .*checkpoint-8"):
        runs.distiller(tmp_path, save_steps=2.0).train()


@pytest.mark.parametrize("signum", [0, signal.SIGTERM])
def test_a_failed_save_where_a_run_stops_early_is_not_forgiven(tmp_path, runs, full_at, signum):
    class Stop(TrainerCallback):
        def on_step_begin(self, _args, state, *_, **__):
            if signum and state.global_step == 4:
                os.kill(os.getpid(), signum)

        def on_step_end(self, _args, state, control, **_):
            if not signum and state.global_step == 5:
                control.should_save = control.should_training_stop = True

    full_at(5)
    with pytest.raises(SaveFailed, match=r"checkpoint-5 could not .*last whole .*checkpoint-3"):
        runs.distiller(tmp_path, callbacks=(Stop(),), save_steps=3.0).train()


def test_what_a_checkpoint_would_drive_out_makes_room_for_it(tmp_path, runs, full_at):
    full_at(6, unless=lambda: not (tmp_path / "checkpoint-2").exists())
    trainer = runs.distiller(
        tmp_path, callbacks=(runs.CrashAfter(6),), save_steps=2.0, save_total_limit=2
    )
    with pytest.raises(runs.Crashed):
        trainer.train()
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]


def test_the_last_whole_checkpoint_makes_no_room_for_another(tmp_path, runs, full_at):
    full_at(4)
    trainer = runs.distiller(
        tmp_path, callbacks=(runs.CrashAfter(4),), save_steps=2.0, save_total_limit=1
    )
    with pytest.raises(runs.Crashed):
        trainer.train()
    assert names(tmp_path) == ["checkpoint-2"]


# Students and records


class Full(TrainerCallback):
    """The disk is full from the end of an update on, or while it is recorded."""

    def __init__(self, update):
        self.update, self.context = update, full_disk()

    def on_step_end(self, _args, state, *_, **__):
        if state.global_step == self.update:
            self.context.__enter__()

    def free(self):
        self.context.__exit__(None, None, None)


def test_a_student_that_cannot_be_saved_ends_the_run_and_leaves_nothing_half(tmp_path, runs):
    full = Full(10)
    trainer = runs.distiller(tmp_path, callbacks=(full,), save_steps=4.0)
    try:
        with pytest.raises(SaveFailed, match=r"students/1 could not be saved.*\n.*checkpoint-8"):
            trainer.train()
    finally:
        full.free()
    assert [path.name for path in (tmp_path / "students").iterdir()] == ["2"]


def test_a_run_whose_student_could_not_be_saved_is_continued_to_the_same_end(tmp_path, runs):
    full = Full(10)
    settings = {"save_steps": 4.0, "student_dropout": 0.1}
    try:
        with pytest.raises(SaveFailed):
            runs.distiller(tmp_path / "cut", callbacks=(full,), **settings).train()
    finally:
        full.free()
    runs.distiller(tmp_path / "cut", **settings).train(True)
    runs.distiller(tmp_path / "whole", **settings).train()
    for file in ("students/1/model.safetensors", "students/2/ema/model.safetensors"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_records_that_the_disk_does_not_take_are_written_later(tmp_path, runs):
    trainer = runs.distiller(tmp_path)
    trainer.records.path.parent.mkdir(exist_ok=True)
    trainer.records.append({"step": 1, "filler": "x" * FULL})
    with full_disk():
        trainer.records.append({"step": 2})
        trainer.records.append({"step": 3})
    trainer.records.append({"step": 4})
    lines = trainer.records.path.read_text().splitlines()
    assert [line[:10] for line in lines] == [f'{{"step": {n}' for n in (1, 2, 3, 4)]


def test_a_record_that_fits_in_part_is_not_written_in_part(tmp_path, runs):
    records = runs.distiller(tmp_path).records
    records.append({"step": 1, "filler": "x" * (FULL - 40)})
    before = records.path.read_bytes()
    with full_disk():
        records.append({"step": 2, "filler": "x" * 100})
    assert records.path.read_bytes() == before


# What is a failed write


def test_a_failed_write_is_known_whoever_wrote(tmp_path):
    tensor = torch.zeros(FULL)
    writers = {
        "python": lambda path: path.write_bytes(bytes(2 * FULL)),
        "torch": lambda path: torch.save(tensor, path),
        "safetensors": lambda path: safetensors.torch.save_file({"a": tensor}, path),
    }
    for name, write in writers.items():
        with full_disk(), pytest.raises(Exception) as caught:  # noqa: PT011 - each has its own
            write(tmp_path / name)
        assert write_failure(caught.value), name


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up"),
        (OSError(errno.EIO, "Input/output error"), "[Errno 5] Input/output error"),
        (RuntimeError("shapes do not match"), None),
        (ValueError("no"), None),
    ],
)
def test_a_failed_write_is_put_in_words(error, words):
    assert write_failure(error) == words


# Before the first step


def test_an_output_folder_that_cannot_be_written_is_found_before_the_first_step(tmp_path, runs):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to output_dir .*file/run: Not a directory"):
        runs.distiller(tmp_path / "file" / "run")


def test_the_estimate_of_a_checkpoint_is_about_its_size(tmp_path, runs):
    trainer = runs.distiller(tmp_path, runs.masked_model(hidden_dim=64))
    trainer.train()
    estimate = checkpoint_bytes(trainer.model, trainer.teacher, str(trainer.args.optim), True)
    saved = [path for path in (tmp_path / "checkpoint-10").rglob("*") if path.is_file()]
    assert 0.9 < estimate / sum(path.stat().st_size for path in saved) < 1


def test_the_estimate_of_a_checkpoint_of_adapters_is_about_its_size(tmp_path, runs):
    model = with_adapters(runs.masked_model(hidden_dim=64), LoraSettings(lora_rank=64))
    trainer = runs.distiller(tmp_path, model)
    trainer.train()
    estimate = checkpoint_bytes(trainer.model, trainer.teacher, str(trainer.args.optim), True)
    saved = [path for path in (tmp_path / "checkpoint-10").rglob("*") if path.is_file()]
    assert 0.9 < estimate / sum(path.stat().st_size for path in saved) < 1


@pytest.fixture
def room(tmp_path, monkeypatch):
    """What is said of 100 bytes a checkpoint, where ``free`` of them are left."""

    def said(free, limit=2, strategy="steps", results=0):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        warnings = []
        monkeypatch.setattr(disk.logger, "warning", warnings.append)
        args = SimpleNamespace(save_total_limit=limit, save_strategy=strategy)
        check_room(tmp_path, args, 100, results)
        return "".join(warnings)

    return said


def test_a_disk_that_takes_no_checkpoint_is_refused_before_the_first_step(room):
    with pytest.raises(OSError, match=r"a checkpoint takes about 100 bytes, .* room for 99 bytes"):
        room(99)


@pytest.mark.parametrize(
    ("free", "limit", "warned"), [(299, 2, True), (300, 2, False), (200, 1, False)]
)
def test_room_for_one_checkpoint_more_than_are_kept_is_enough(room, free, limit, warned):
    assert bool(room(free, limit)) == warned


def test_the_models_that_a_run_leaves_need_room_too(room):
    assert "need 350 bytes" in room(349, results=50)


def test_the_room_that_a_runs_own_checkpoints_take_counts(room, tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "weights").write_bytes(bytes(100))
    assert room(200) == ""


def test_a_run_that_saves_no_checkpoints_needs_no_room(room):
    assert room(0, strategy="no") == ""


@pytest.mark.parametrize(
    ("count", "words"),
    [(12, "12 bytes"), (1.5e3, "1.5 kB"), (2e6, "2 MB"), (1.25e13, "12,500.0 GB")],
)
def test_sizes_are_put_in_words(count, words):
    assert size(count) == words
