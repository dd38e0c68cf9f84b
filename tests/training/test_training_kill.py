"""kill -9 at any moment: the end of a run is that of one which was never stopped.

A run is a child of this process, which holds all that is slow to import. `sys.audit` tells of every
file that is opened, renamed or deleted, so a child can be killed before any such event.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import pytest
import torch

ROUNDS, UPDATES = 3, 9
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def train(runs, output):
    """All that a restart could lose, saved every second update and recorded every third."""
    runs.distiller(
        output,
        runs.masked_model(0),
        runs.masked_model(10, n_blocks=2),
        rounds=ROUNDS,
        steps_per_round=UPDATES // ROUNDS,
        start_steps=8,
        student_dropout=0.1,
        gradient_accumulation_steps=2,
        logging_steps=3.0,
        save_steps=2.0,
        save_total_limit=1,
    ).train("auto")


def started(runs, output, prepare=lambda: None):
    """The id of a child that trains from where the run is, once it has called ``prepare``."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(output.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)  # the parent's threads are not in the fork
        prepare()
        train(runs, output)
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def ended(child, output):
    """Whether a child came to its end; False if it was killed."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), output.with_suffix(".log").read_text()[-3000:]
    return status == 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def writes(event, arguments):
    """Whether an event changes what is on the disk."""
    opened_to_read = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    return event in EVENTS and not opened_to_read


def kill_before(count, matches):
    """Prepares a child to die before the event number ``count``, from 1, that matches."""

    def prepare():
        seen = 0

        def hook(event, arguments):
            nonlocal seen
            if writes(event, arguments) and matches(event, str(arguments[0]), arguments):
                seen += 1
                if seen == count:
                    die()

        sys.addaudithook(hook)

    return prepare


def kill_in_file(count):
    """Prepares a child to die in the middle of torch's file number ``count``, from 1."""

    def prepare():
        save, seen = torch.save, 0

        def torn(content, file, *arguments, **settings):
            nonlocal seen
            save(content, file, *arguments, **settings)
            seen += 1
            if seen == count:
                os.truncate(file, Path(file).stat().st_size // 2)
                die()

        torch.save = torn

    return prepare


def end_of(runs, output):
    """All that a run leaves: its last checkpoint, its students' files, its losses."""
    students = sorted(path for path in (output / "students").rglob("*") if path.is_file())
    end = runs.contents(output / f"checkpoint-{UPDATES}")
    for path in students:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        end[str(path.relative_to(output))] = digest
    lines = (output / "metrics.jsonl").read_text().splitlines()
    records = [each for each in map(json.loads, lines) if "loss" in each]
    end["losses"] = [(each["step"], each["loss"], each["grad_norm"]) for each in records]
    end["left over"] = [str(path) for path in output.rglob("*.part")]
    return end


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """What a run leaves that was never stopped, and the seconds and events that it took."""
    output, begun = tmp_path_factory.mktemp("whole") / "run", time.monotonic()
    events = output.parent / "events"

    def count():
        handle, here = os.open(events, os.O_WRONLY | os.O_CREAT), str(output)

        def hook(event, arguments):
            if writes(event, arguments) and here in str(arguments[0]):
                os.write(handle, b".")

        sys.addaudithook(hook)

    assert ended(started(runs, output, count), output)
    seconds = time.monotonic() - begun
    return end_of(runs, output), seconds, events.stat().st_size


def test_a_run_leaves_a_student_of_every_round_and_every_loss(whole):
    end, _, events = whole
    names = [
        f"students/{steps}/{part}model.safetensors" for steps in (4, 2, 1) for part in ("", "ema/")
    ]
    assert [name for name in names if name not in end] == []
    assert [step for step, _, _ in end["losses"]] == [3, 6, 9]
    assert events > 100


MOMENTS = {
    "before_there_is_any_checkpoint": kill_before(1, lambda _, path, __: "checkpoint-2" in path),
    "while_the_student_of_a_round_is_written": kill_before(
        4, lambda _, path, __: "students" in path
    ),
    "behind_a_student_and_before_its_checkpoint": kill_before(
        1, lambda _, path, __: "checkpoint-6" in path
    ),
    "in_the_middle_of_a_file_of_a_checkpoint": kill_in_file(6),
    "before_the_manifest_is_renamed_in": kill_before(
        1, lambda event, path, _: event == "os.rename" and "checkpoint-4/manifest" in path
    ),
    "while_an_old_checkpoint_is_deleted": kill_before(
        2, lambda event, path, _: event == "os.remove" and "/" not in path
    ),
}
AT_ONCE = ("before_there", "behind_a", "in_the_middle", "while_the")


@pytest.mark.parametrize(
    "moment",
    [
        name if name.startswith(AT_ONCE) else pytest.param(name, marks=pytest.mark.slow)
        for name in MOMENTS
    ],
)
def test_a_run_killed_ends_as_one_that_was_never_stopped(runs, whole, tmp_path, moment):
    output = tmp_path / "run"
    assert not ended(started(runs, output, MOMENTS[moment]), output), "the moment never came"
    assert ended(started(runs, output), output)
    assert runs.differences(whole[0], end_of(runs, output)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_again_and_again_ends_as_one_that_was_never_stopped(
    runs, whole, tmp_path, seed
):
    expected, seconds, events = whole
    moments, kills = random.Random(seed), 0
    while kills < 40:
        output = tmp_path / f"run-{kills}"
        for _ in range(4):  # kills of one run; some come after its end
            here = str(output)
            way = moments.choice(["time", "event", "file"])
            if way == "time":
                child = started(runs, output)
                time.sleep(moments.uniform(0, seconds))
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            elif way == "event":
                count = moments.randrange(1, events // 2)
                matches = lambda _, path, __: here in path  # noqa: E731, B023
                child = started(runs, output, kill_before(count, matches))
            else:
                child = started(runs, output, kill_in_file(moments.randrange(1, 20)))
            if ended(child, output):
                break
            kills += 1
        else:
            assert ended(started(runs, output), output)
        assert runs.differences(expected, end_of(runs, output)) == []
