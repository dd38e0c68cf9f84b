"""The records of a run: every metric as a line of ``metrics.jsonl``."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging

from sdtt.training.disk import (
    write_failure,
)
from sdtt.training.state import (
    keep_records,
)

logger = logging.get_logger(__name__)

METRICS = "metrics.jsonl"


class Records(TrainerCallback):
    """Appends every record to ``metrics.jsonl``; a resumed run first drops what it will redo.

    What the disk does not take is kept and tried again with the next record.
    """

    def __init__(self, output: Path) -> None:
        self.path = output / METRICS
        self.waiting: list[str] = []
        self._began = 0

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Keeps the records of updates that stand."""
        if not state.is_world_process_zero:
            return
        self.waiting.clear()
        self._began = state.global_step
        keep_records(self.path, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Appends one record; of a run that had ended before there is no second summary."""
        ended_before = "train_runtime" in (logs or {}) and state.global_step == self._began
        if ended_before or not state.is_world_process_zero:
            return
        self.append({"step": state.global_step, **(logs or {})})

    def append(self, record: dict[str, Any]) -> None:
        """Writes a record, and those that wait, or nothing."""
        self.waiting.append(json.dumps(record) + "\n")
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(self.waiting))
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, size)
            logger.warning(
                f"{self.path} takes no record now: {write_failure(error)}; kept for later"
            )
        else:
            self.waiting.clear()
