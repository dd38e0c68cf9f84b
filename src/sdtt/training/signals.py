"""Signals that ask a run to stop: it ends the update at hand, saves, and leaves."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_PRESS = 2.0
"""Seconds in which a second SIGINT counts as the first: launchers hand on what a terminal sends to
all."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal, after its checkpoint.

    Attributes:
        signum: The signal.
        update: The last update that was done; 0 if none was.
        checkpoint: The newest whole checkpoint up to there; None if there is none.
        is_saved: Whether that checkpoint holds all updates that were done.
        status: What a process should exit with: 128 + signum (143 for SIGTERM, 130 for SIGINT).
    """

    def __init__(self, signum: int, update: int, checkpoint: Path | None) -> None:
        self.signum, self.update, self.checkpoint = signum, update, checkpoint
        self.status = 128 + signum
        when = f"after update {update}" if update else "before the first update"
        self.is_saved = checkpoint is not None and checkpoint.name.endswith(f"-{update}")
        if checkpoint is None:
            where = "there is no checkpoint"
        elif self.is_saved:
            where = f"its state is in {checkpoint}"
        else:
            where = f"the updates since {checkpoint} are lost"
        super().__init__(f"stopped by {signal.Signals(signum).name} {when}; {where}")


def leave_signals(seed: Callable[[int], None] | None, worker: int) -> None:
    """Begins a worker that loads data: a signal to all is for the process that trains to answer.

    The worker ends when that process does, or is done with it: SIGTERM from there, which
    multiprocessing sends to its children at the end of a process and then waits for them, ends it.
    Where the sender of a signal cannot be told (macOS) any SIGTERM ends it.

    Args:
        seed: What else it begins with.
        worker: Its number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if seed is not None:
        seed(worker)


def _end_with(parent: int) -> None:
    """Ends this process on a SIGTERM of its parent's."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class StopSignals:
    """Within the context the first SIGTERM or SIGINT is noted, or raises, and ends no process.

    A second SIGINT interrupts at once. Outside the main thread, where Python takes no handlers, and
    for signals that the process ignores, nothing is changed. What was there before is restored.

    Args:
        error: Makes what the first signal raises; None: it is noted.

    Attributes:
        received: The first signal that came, 0 if none has.
    """

    def __init__(self, error: Callable[[int], BaseException] | None = None) -> None:
        self.received = 0
        self._error = error
        self._since = 0.0
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> "StopSignals":
        self.received, self._process = 0, os.getpid()
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _receive(self, signum: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork that is none of ours
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        elif not self.received:
            self.received, self._since = signum, time.monotonic()
            if self._error is not None:
                raise self._error(signum)
        elif signum == signal.SIGINT and time.monotonic() - self._since > SAME_PRESS:
            raise KeyboardInterrupt
