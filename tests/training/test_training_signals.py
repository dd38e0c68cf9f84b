import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
import typer
from transformers import TrainerCallback

from sdtt.cli import train as cli_train
from sdtt.cli.run_folder import RunFolder
from sdtt.cli.train import run_training, validate
from sdtt.training import signals
from sdtt.training.signals import Interrupted, StopSignals
from sdtt.training.state import checkpoints, fault


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C is heard, also where the tests run in the background, whose shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


WHOLE = {"student_dropout": 0.1, "gradient_accumulation_steps": 2, "logging_steps": 3.0}


class Signal(TrainerCallback):
    """Sends this process a signal within an update, or while its checkpoint is saved."""

    def __init__(self, signum, update, event="on_step_begin"):
        self.signum, self.update = signum, update
        setattr(self, event, self.send)

    def send(self, _args, state, control, **_):
        if state.global_step == self.update:
            os.kill(os.getpid(), self.signum)
        return control


def interrupted(runs, output, signum=signal.SIGTERM, update=3, **settings):
    callback = Signal(signum, update)
    with pytest.raises(Interrupted) as caught:
        runs.distiller(output, callbacks=(callback,), **WHOLE | settings).train()
    return caught.value


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_after_the_update_at_hand_with_a_whole_checkpoint(
    tmp_path, runs, signum, status
):
    stop = interrupted(runs, tmp_path, signum)
    assert (stop.update, stop.status, stop.checkpoint) == (4, status, tmp_path / "checkpoint-4")
    assert fault(stop.checkpoint) is None


@pytest.fixture(scope="module")
def ends(tmp_path_factory, runs):
    """A run that nobody stopped, and one continued from a stop between its records at 3 and 6."""
    folder = tmp_path_factory.mktemp("ends")
    interrupted(runs, folder / "cut")
    runs.distiller(folder / "cut", runs.masked_model(1), **WHOLE).train(True)
    runs.distiller(folder / "whole", **WHOLE).train()
    return folder


def test_a_run_ended_by_a_signal_is_continued_to_the_same_end(ends, runs):
    whole, cut = (runs.contents(ends / name / "checkpoint-10") for name in ("whole", "cut"))
    assert runs.differences(whole, cut) == []


def test_a_record_over_a_stop_holds_the_losses_before_it(ends):
    of = {}
    for name in ("whole", "cut"):
        lines = map(json.loads, (ends / name / "metrics.jsonl").read_text().splitlines())
        of[name] = [(each["step"], each["loss"]) for each in lines if "loss" in each]
    assert of["cut"] == of["whole"]


class SignalToAll(Signal):
    """Another process sends it to all of the group, as a terminal does; they have time to answer.

    (A SIGTERM from its parent ends a worker of torch in peace.)
    """

    def send(self, _args, state, control, **_):
        if state.global_step == self.update:
            subprocess.run(["/bin/sh", "-c", f"kill -{int(self.signum)} 0"], check=False)
            time.sleep(0.5)
        return control


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_leaves_the_workers_that_load_data(tmp_path, runs, signum):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            torch.set_num_threads(1)  # the parent's threads are not in the fork
            workers = {"dataloader_num_workers": 1, "steps_per_round": 50}  # at work till the end
            trainer = runs.distiller(tmp_path, callbacks=(SignalToAll(signum, 3),), **workers)
            with pytest.raises(Interrupted) as caught:
                trainer.train()
            status = 0 if caught.value.update == 4 and not active_children() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fault(tmp_path / "checkpoint-4") is None


FAILING = """
import sys, torch
from sdtt.models.mdlm import MDLMForMaskedLM, preset
from sdtt.training.pretrain import MDLMTrainer, PretrainConfig

class Failing(MDLMTrainer):
    def loss_sum(self, *arguments):
        if self.state.global_step == 2:
            raise RuntimeError("as a script meets it")
        return super().loss_sum(*arguments)

if __name__ == "__main__":
    model = MDLMForMaskedLM(preset("tiny", vocab_size=50, model_length=8))
    how = {"max_steps": 50, "warmup_steps": 1, "use_cpu": True, "dataloader_num_workers": 1}
    Failing(model, PretrainConfig(sys.argv[1], **how), torch.randint(0, 48, (999, 8))).train()
"""


def test_a_script_that_fails_does_not_wait_for_its_workers(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    command = [sys.executable, tmp_path / "failing.py", tmp_path / "run"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 1
    assert "as a script meets it" in ended.stderr


def test_a_signal_during_a_save_costs_no_further_update(tmp_path, runs):
    callback = Signal(signal.SIGTERM, 4, "on_save")
    with pytest.raises(Interrupted) as caught:
        runs.distiller(tmp_path, callbacks=(callback,), save_steps=2.0).train()
    assert caught.value.update == 4


def test_updates_that_no_checkpoint_holds_are_said_to_be_lost():
    lost = str(Interrupted(signal.SIGTERM, 9, Path("run/checkpoint-4")))
    assert lost.endswith("after update 9; the updates since run/checkpoint-4 are lost")


def test_a_signal_during_the_last_update_is_not_forgotten(tmp_path, runs):
    assert interrupted(runs, tmp_path, update=9).update == 10


def test_a_signal_saves_where_no_saves_were_asked_for(tmp_path, runs):
    stop = interrupted(runs, tmp_path, save_strategy="no")
    assert checkpoints(tmp_path) == [stop.checkpoint]


def test_handlers_are_restored_after_training(tmp_path, runs):
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    interrupted(runs, tmp_path)
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_thread_that_is_not_the_main_one_trains_too(tmp_path, runs):
    trainer = runs.distiller(tmp_path)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 10


def test_a_second_interrupt_ends_at_once(monkeypatch):
    monkeypatch.setattr(signals, "SAME_PRESS", -1.0)
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_that_a_launcher_hands_on_is_the_same_one():
    with StopSignals() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["validation_nelbo", "whole_model"])
def test_a_signal_after_the_last_update_says_what_is_left(
    tmp_path, runs, capsys, monkeypatch, name
):
    trainer = runs.distiller(tmp_path, steps_per_round=1)
    place = cli_train if name == "validation_nelbo" else trainer

    def stopped(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    def finish():
        monkeypatch.setattr(place, name, stopped)
        validate(trainer, runs.texts(2))

    with pytest.raises(typer.Exit) as caught:
        run_training(trainer, RunFolder(tmp_path), "distill", finish=finish)
    assert caught.value.exit_code == 143
    expected = f"after update 2; its state is in {tmp_path}/checkpoint-2; all updates are done, "
    expected += "the same command with --resume saves and validates the model"
    assert expected in capsys.readouterr().err


def test_a_signal_between_training_and_what_follows_is_heard(tmp_path, runs, monkeypatch):
    leave = StopSignals.__exit__

    def late(context, *error):
        os.kill(os.getpid(), signal.SIGTERM)
        leave(context, *error)

    monkeypatch.setattr(StopSignals, "__exit__", late)
    with pytest.raises(Interrupted):
        runs.distiller(tmp_path, steps_per_round=1).train()


def test_a_finished_run_that_is_resumed_has_one_summary_and_one_bound(tmp_path, runs):
    for resume in (False, True):
        trainer = runs.distiller(tmp_path, steps_per_round=1)
        folder = RunFolder(tmp_path, resume=resume)
        run_training(
            trainer, folder, "distill", finish=lambda own=trainer: validate(own, runs.texts(2))
        )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    for name in ("train_runtime", "validation_nelbo"):
        assert sum(f'"{name}"' in line for line in lines) == 1, name


def test_the_command_line_exits_with_143_and_says_how_to_go_on(tmp_path, runs, capsys):
    trainer = runs.distiller(tmp_path, callbacks=(Signal(signal.SIGTERM, 3),))
    with pytest.raises(typer.Exit) as caught:
        run_training(trainer, RunFolder(tmp_path), "distill")
    assert caught.value.exit_code == 143
    expected = f"stopped by SIGTERM after update 4; its state is in {tmp_path}/checkpoint-4; "
    assert expected + "the same command with --resume goes on" in capsys.readouterr().err
