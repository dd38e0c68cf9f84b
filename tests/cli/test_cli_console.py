"""Claims about what the command line says on stderr."""

import errno
import io
import sys
from pathlib import Path

import pytest

from sdtt.cli import console
from sdtt.cli.console import describe, duration, progress, run_and_exit


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk"),
        (
            OSError(errno.ENOSPC, "No space left on device", "run/a"),
            "no space left on the disk that holds run/a",
        ),
        (PermissionError(errno.EACCES, "denied", "run"), "no permission to use run"),
        (IsADirectoryError(errno.EISDIR, "dir", "run"), "run is a folder, not a file"),
        (
            NotADirectoryError(errno.ENOTDIR, "not", "a/b"),
            "a/b: a part of this path is a file, not a folder",
        ),
        (OSError(errno.EIO, "Input/output error", "run"), "Input/output error: run"),
        (OSError("x is no model\n\nlog in\nor not"), "x is no model\nlog in"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_that_the_user_can_mend_is_told_in_two_lines_at_most(error, message):
    assert describe(error) == (message, 2)


def test_a_really_full_disk_is_told_in_words():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        full.write_text("x")
    assert describe(caught.value)[0].startswith("no space left on the disk")


def test_a_full_disk_is_known_by_the_text_of_another_library():
    error = RuntimeError("I/O error: No space left on device (os error 28)")
    assert describe(error) == ("no space left on the disk", 2)


def test_out_of_memory_comes_with_the_way_out():
    assert describe(MemoryError("40 GB")) == ("out of memory: 40 GB\na smaller batch needs less", 2)


# ---------------------------------------------------------------- progress


def test_off_a_terminal_a_line_is_said_at_each_tenth_and_at_the_end(capsys):
    clock = Clock()
    with progress(1000, "generate", clock=clock) as advance:
        for _ in range(100):
            clock.now += 0.1
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "generate: 10 % (100 of 1,000 tokens), 100 tokens/s, 9 s left"
    assert lines[-1] == "generate: 1,000 tokens in 10 s, 100 tokens/s"


def test_off_a_terminal_silence_is_never_longer_than_the_limit(capsys):
    clock = Clock()
    with progress(10**9, "train", clock=clock) as advance:
        for _ in range(12):
            clock.now += 10
            advance(1)
    assert len(capsys.readouterr().err.splitlines()) == 12 * 10 / console.LINE_SECONDS + 1


def test_work_of_unknown_length_shows_a_rate_and_no_end(capsys):
    clock = Clock()
    with progress(None, "read", "bytes", clock=clock) as advance:
        clock.now = 40.0
        advance(80)
    assert capsys.readouterr().err.splitlines()[0] == "read: 80 bytes, 2 bytes/s"


def test_on_a_terminal_there_is_a_bar_and_no_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress(10, "generate") as advance:
        advance(10)
    assert "100 % (10 of 10 tokens)" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_progress_leaves_stdout_to_the_results(capsys):
    with progress(10, "generate") as advance:
        advance(10)
        print("a result")
    assert capsys.readouterr().out == "a result\n"


def test_of_many_processes_only_the_first_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    with progress(10, "generate") as advance:
        advance(10)
    console.note("hello")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.2, "5 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 05 min")]
)
def test_a_duration_is_told_in_its_two_largest_units(seconds, words):
    assert duration(seconds) == words


def test_a_letter_that_the_terminal_has_not_is_escaped_and_the_rest_is_printed(monkeypatch):
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="latin-1", errors="strict")
    monkeypatch.setattr("sys.stdout", stdout)
    with pytest.raises(SystemExit) as ended:
        run_and_exit(lambda: print("caf\u00e9 \u201cquoted\u201d"), debug=False)
    assert ended.value.code == 0
    assert written.getvalue() == b"caf\xe9 \\u201cquoted\\u201d\n"
