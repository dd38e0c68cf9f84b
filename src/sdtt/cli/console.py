"""What the command line says beside its results, on stderr: errors in words, notes, progress."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import NoReturn

import typer

USER_ERROR, INTERNAL_ERROR, INTERRUPTED = 2, 1, 130
LINE_SECONDS = 30.0  # the longest silence of a progress that is no bar


def version_of(package: str) -> str:
    """The version of an installed package, without importing it.

    Args:
        package: its name on the index.

    Returns:
        The version, "unknown" where the package is not installed (a checkout on PYTHONPATH).
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def is_first_process() -> bool:
    """Whether this process speaks for the run: rank 0 under torchrun and accelerate, or alone."""
    return os.environ.get("RANK", "0") == "0"


def note(message: str) -> None:
    """Says one line on stderr, once a run.

    Args:
        message: the line; it is neither wrapped nor coloured.
    """
    if is_first_process():
        typer.echo(message, err=True)


# ---------------------------------------------------------------- errors


def describe(error: BaseException) -> tuple[str, int]:
    """An exception in one or two lines.

    Args:
        error: what was raised.

    Returns:
        The message and the exit code: 2 where the user can mend it, 1 for a fault of ours.
    """
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        hint = f"\nsee '{context.command_path} --help'" if context else ""
        return error.format_message() + hint, error.exit_code
    if "No space left on device" in str(error):  # also the text of safetensors' own exception
        path = getattr(error, "filename", None)
        return f"no space left on the disk{f' that holds {path}' if path else ''}", USER_ERROR
    if isinstance(error, RuntimeError) and "inline_container" in str(error):  # torch.save failed
        words = "writing a checkpoint failed: the disk is probably full\nearlier ones stay good"
        return words, USER_ERROR
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"out of memory: {_two_lines(error)}\na smaller batch needs less", USER_ERROR
    # what a setting asks for and nobody has installed; transformers says which package it is
    if isinstance(error, ImportError | RuntimeError) and "install" in str(error):
        return _two_lines(error), USER_ERROR
    if isinstance(error, OSError) and error.errno is not None:
        return _describe_system_error(error), USER_ERROR
    if isinstance(error, ValueError | OSError):
        return _two_lines(error), USER_ERROR
    message = f"{type(error).__name__}: {_two_lines(error)}".replace("\n", " ")
    return f"internal error: {message} (rerun with --debug for the traceback)", INTERNAL_ERROR


def _two_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:2]) or type(error).__name__


def _describe_system_error(error: OSError) -> str:
    path = error.filename if error.filename is not None else "(unnamed)"
    sentences = {
        errno.ENOENT: f"there is no file or folder {path}",
        errno.EACCES: f"no permission to use {path}",
        errno.EPERM: f"no permission to use {path}",
        errno.EROFS: f"cannot write {path}: the file system is read-only",
        errno.EISDIR: f"{path} is a folder, not a file",
        errno.ENOTDIR: f"{path}: a part of this path is a file, not a folder",
        errno.EDQUOT: f"the disk quota is used up: cannot write {path}",
    }
    words = str(error.strerror or error)
    return sentences.get(
        error.errno or 0, f"{words}: {path}" if error.filename is not None else words
    )


def run_and_exit(call: Callable[[], object], *, debug: bool) -> NoReturn:
    """Runs a command line and leaves: the one place where exceptions become words and exit codes.

    Args:
        call: what to run; a whole number that it returns is the exit code.
        debug: print tracebacks.

    Raises:
        SystemExit: always.
    """
    _print_anything()
    try:
        result = call()
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
    except BrokenPipeError:
        _drop_stdout()
        code = INTERNAL_ERROR
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        message, code = describe(error)
        if debug and not isinstance(error, typer.TyperException):
            traceback.print_exception(error)
        else:
            _say_error(message)
    if code == INTERRUPTED:
        typer.echo("interrupted", err=True)
    sys.exit(code)


def _print_anything() -> None:
    """Has stdout escape what its encoding lacks: no text of minutes is lost by a quote."""
    stdout = sys.stdout
    if isinstance(stdout, io.TextIOWrapper) and stdout.errors == "strict":
        stdout.reconfigure(errors="backslashreplace")


def _say_error(message: str) -> None:
    internal = message.startswith("internal error:")
    prefix, text = (
        ("internal error:", message.partition(": ")[2]) if internal else ("error:", message)
    )
    typer.echo(f"{typer.style(prefix, fg='red', bold=True)} {text}", err=True)


def _drop_stdout() -> None:
    """Sends the rest of stdout nowhere, so that the interpreter can close it in silence."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---------------------------------------------------------------- progress


@contextlib.contextmanager
def progress(
    total: int | None,
    description: str,
    unit: str = "tokens",
    *,
    status: Callable[[], str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int], None]]:
    """Shows how far some work is, its rate and the time left: a bar on a terminal, else lines.

    Args:
        total: units of the whole work, None if unknown.
        description: what is being done.
        unit: what is counted.
        status: what else is to be said at the moment, asked for whenever a line is shown.
        clock: seconds since some moment.

    Yields:
        `advance(n)`: n more units are done.
    """
    meter = _Meter(total, description, unit, clock, status or str)
    if not is_first_process():
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar(meter) as advance:
            yield advance
    else:
        yield lambda count: _say_due(meter.advance(count))
        _say_due(meter.finished())


def _say_due(line: str | None) -> None:
    if line is not None:
        typer.echo(line, err=True)


class _Meter:
    """Counts, and says when a line is due: at each tenth of the total, and after 30 seconds."""

    def __init__(
        self,
        total: int | None,
        description: str,
        unit: str,
        clock: Callable[[], float],
        status: Callable[[], str] = str,
    ) -> None:
        self.total, self.description, self.unit, self.clock = total, description, unit, clock
        self.status = status
        self.done = 0
        self.start = self.said = clock()
        self.tenth = 0

    def advance(self, count: int) -> str | None:
        """Counts more units; the line that is due, if any."""
        self.done += count
        tenth = 10 * self.done // self.total if self.total else 0
        if tenth >= 10 or (tenth == self.tenth and self.clock() - self.said < LINE_SECONDS):
            return None  # the last line is `finished`
        self.tenth, self.said = tenth, self.clock()
        return ", ".join([f"{self.description}: {self.share()}", self.pace(), *self.said_beside()])

    def finished(self) -> str:
        """The last line."""
        time_taken = duration(self.clock() - self.start)
        return f"{self.description}: {self.done:,} {self.unit} in {time_taken}, {self.speed()}"

    def said_beside(self) -> list[str]:
        """The status, if there is one."""
        return [status] if (status := self.status()) else []

    def words(self) -> str:
        """What stands beside a bar: the bar shows the share, where there is a status to be said."""
        beside = self.said_beside()
        return ", ".join([*(beside or [self.share()]), self.pace()])

    def rate(self) -> float:
        """Units a second since the start."""
        return self.done / max(self.clock() - self.start, 1e-9)

    def speed(self) -> str:
        """The rate in words: whole units, or two digits where there are few a second."""
        rate = self.rate()
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"

    def share(self) -> str:
        """How much is done."""
        if not self.total:
            return f"{self.done:,} {self.unit}"
        return f"{100 * self.done // self.total} % ({self.done:,} of {self.total:,} {self.unit})"

    def pace(self) -> str:
        """The rate, and the time left where the total is known."""
        if not self.total or not self.done:
            return self.speed()
        return f"{self.speed()}, {duration((self.total - self.done) / self.rate())} left"


@contextlib.contextmanager
def _bar(meter: _Meter) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    one_line = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    words = TextColumn("{task.fields[words]}", table_column=one_line, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), words)
    # stdout holds results: it is left alone
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=False, expand=True) as bar:
        task = bar.add_task(meter.description, total=meter.total, words="")

        def advance(count: int) -> None:
            meter.advance(count)
            bar.update(task, advance=count, words=meter.words())

        yield advance


def duration(seconds: float) -> str:
    """A time in words.

    Args:
        seconds: its length.

    Returns:
        Such as "5 s", "3 min 20 s", "2 h 05 min".
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
