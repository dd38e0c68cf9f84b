"""Two processes that speak by gloo: what one of them meets, both act upon."""

import errno
import math
import os
import signal
import socket
import time
import traceback

import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import TrainerCallback

from sdtt.training.finite import NonFinite
from sdtt.training.processes import Agreement
from sdtt.training.signals import Interrupted
from sdtt.training.state import checkpoints, fault

HANGS = 30  # seconds: by then one waits for the other for ever


def test_a_process_alone_agrees_with_itself():
    assert Agreement().largest(3, -1) == [3, -1]


def together(folder, work):
    """What ``work(rank)`` gives, as text, in each of two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            say = folder / f"{rank}"
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
                os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
                torch.set_num_threads(1)
                AcceleratorState._reset_state(reset_partial_state=True)
                GradientState._reset_state()
                say.write_text(work(rank))
            except BaseException:
                say.write_text(traceback.format_exc())
            finally:
                os._exit(0)
        children.append(child)
    deadline = time.monotonic() + HANGS
    for child in children:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
    files = [folder / f"{rank}" for rank in range(2)]
    return [file.read_text() if file.exists() else "hung" for file in files]


def pair(runs, output, *callbacks, **settings):
    return runs.distiller(
        output, callbacks=callbacks, per_device_train_batch_size=2, student_dropout=0.1, **settings
    )


class Stop(TrainerCallback):
    def on_step_begin(self, _args, state, *_, **__):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_to_one_process_stops_both_after_the_same_update(tmp_path, runs):
    def work(rank):
        try:
            pair(runs, tmp_path / "run", *([Stop()] if rank else [])).train()
        except Interrupted as stop:
            return str(stop.update)
        return "not stopped"

    first, second = together(tmp_path, work)
    assert (first, second) in (("4", "4"), ("5", "5"))
    assert [fault(path) for path in checkpoints(tmp_path / "run")] == [None]


def test_two_processes_stopped_by_a_signal_are_continued_to_the_same_end(tmp_path, runs):
    def stopped(_):
        try:
            pair(runs, tmp_path / "cut", Stop(), logging_steps=3.0).train()
        except Interrupted as stop:
            return str(stop.update)
        return "not stopped"

    def train(name, resume):
        def work(_):
            pair(runs, tmp_path / name, logging_steps=3.0).train(resume)
            return "done"

        return work

    assert together(tmp_path, stopped) == ["4", "4"]
    assert together(tmp_path, train("cut", True)) == ["done", "done"]
    assert together(tmp_path, train("whole", None)) == ["done", "done"]
    whole, cut = (runs.contents(tmp_path / name / "checkpoint-10") for name in ("whole", "cut"))
    assert runs.differences(whole, cut) == []


def test_a_loss_that_is_not_finite_in_one_process_stops_both(tmp_path, runs):
    def work(rank):
        trainer = pair(runs, tmp_path / "run")
        finite = trainer.loss_sum

        def loss_sum(*arguments):
            bad = rank == 1 and trainer.state.global_step == 2
            return finite(*arguments) + (math.inf if bad else 0)

        trainer.loss_sum = loss_sum
        try:
            trainer.train()
        except NonFinite as error:
            return str(error.update)
        return "not stopped"

    assert together(tmp_path, work) == ["3", "3"]


def test_a_save_that_fails_in_one_process_fails_in_both(tmp_path, runs):
    def work(rank):
        trainer = pair(runs, tmp_path / "run", save_steps=4.0, save_total_limit=9)
        save = trainer._save_rng_state

        def fail(folder):
            if rank == 1 and trainer.state.global_step == 4:
                raise OSError("this node's disk is full")
            save(folder)

        trainer._save_rng_state = fail
        trainer.train()
        return str(trainer.guard.failed_saves)

    assert together(tmp_path, work) == ["0", "0"]
    names = [path.name for path in checkpoints(tmp_path / "run")]
    assert names == ["checkpoint-10", "checkpoint-8"]


def test_a_model_that_one_process_cannot_write_keeps_the_others_from_no_meeting(tmp_path, runs):
    def work(rank):
        trainer = pair(runs, tmp_path / "run", save_steps=4.0, save_total_limit=9, ema_decay=0.9)
        model = trainer.accelerator.unwrap_model(trainer.model)
        save = model.save_pretrained

        def fail(folder, **settings):
            if rank == 0 and "checkpoint-4" in str(folder):
                raise OSError(errno.ENOSPC, "full")
            save(folder, **settings)

        model.save_pretrained = fail
        trainer.train()
        return str(trainer.guard.failed_saves)

    assert together(tmp_path, work) == ["0", "0"]
    names = [path.name for path in checkpoints(tmp_path / "run")]
    assert names == ["checkpoint-10", "checkpoint-8"]
