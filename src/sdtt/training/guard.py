"""What stands between a run and its loss: bad numbers, signals, and saves that fail."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from sdtt.training.disk import SaveFailed, write_failure
from sdtt.training.finite import FAULTS, NonFinite, Watch
from sdtt.training.processes import Agreement
from sdtt.training.signals import StopSignals
from sdtt.training.state import (
    Progress,
    abandon_later,
    make_room,
    newest_marked,
    remove_checkpoint,
    write_manifest,
)

logger = logging.get_logger(__name__)

FAILED_SAVES = 3
"""So many saves in a row may fail; the last of them ends the run."""
LATEST = 2**62  # updates are told as LATEST - update: the largest word is the first bad update


class Guard(TrainerCallback):
    """Keeps a trainer from saving what is not finite, and lets it stop when it is asked to.

    The loss and the gradients of an update are read before its optimiser step on a CPU, with
    ``on_nonfinite="skip"``, and where the update is recorded or saved; of the others the device
    remembers the first bad one, and the next such reading, or save, finds it.

    Attributes:
        signals: Entered by the trainer while it trains.
        progress: Of the run; that of the checkpoint until training begins.
        stop: The signal that all processes stop for, 0 if none.
        left_out: Whether the update at hand is left out.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.agreement = Agreement()
        self.signals = StopSignals()
        self.reset()

    def reset(self) -> None:
        """Forgets an earlier run."""
        self.progress: Progress | None = None
        self.failed_saves = self.stop = self._recorded = 0
        self.left_out = self._saving = False
        self._failure: str | None = None
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        self.watch = Watch(model, self.trainer.args.device)

    @property
    def output(self) -> Path:
        """The folder of the run."""
        return Path(self.trainer.args.output_dir or ".")

    # What survives a restart

    def save_progress(self, checkpoint: Path) -> None:
        """Into a checkpoint; called by all processes."""
        progress = self.progress or Progress()
        losses = self.trainer.accelerator.gather(self.trainer._tr_loss.reshape(1))
        progress.loss_sums = [float(loss) for loss in losses]
        progress.recorded = int(self.trainer._globalstep_last_logged)
        if self.trainer.args.should_save:
            self.write(lambda: progress.save(checkpoint))

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Goes on where the checkpoint was; the state read from it holds the intervals of then."""
        state.compute_steps(args, state.max_steps)
        self.watch.clear()
        if self.progress is None:
            self.progress = Progress(recorded=state.global_step)
        share = self.progress.share(args.process_index, args.world_size)
        self.trainer._tr_loss += share
        if (
            self.progress.loss_sums
        ):  # they count for the next record, not for this call's train_loss
            self.trainer._total_loss_scalar -= mean(self.progress.loss_sums)
        self.trainer._globalstep_last_logged = self._recorded = self.progress.recorded
        if self.trainer.changes and state.is_world_process_zero:
            record = {"step": state.global_step, "overridden": self.trainer.changes}
            self.trainer.records.append(record)
        if args.should_save:
            for path in abandon_later(self.output, state.global_step):
                logger.warning(f"this run sets out before {path.name}, as it is called from now on")

    # Numbers that are not finite

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Notes what a left-out update must not change."""
        if self.trainer.args.on_nonfinite == "skip":
            self._loss_before = self.trainer._tr_loss.clone()

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Stops, or leaves the update out, if it is bad; agrees on signals."""
        update = state.global_step + 1
        self.watch.close(update)
        word = self._word() if self._reads(update, state) else 0
        word, self.stop = self.agreement.largest(word, self.signals.received)
        self.left_out = False
        if word and self.trainer.args.on_nonfinite == "skip":
            self._leave_out(update)
        elif word:
            raise self._nonfinite(LATEST - word, update)
        elif self.progress is not None:
            self.progress.skipped_in_a_row = 0

    def check_finite(self) -> None:
        """Before anything is saved; called by all processes.

        Raises:
            NonFinite: If an update up to now was bad.
        """
        [word] = self.agreement.largest(self._word())
        if word:
            raise self._nonfinite(LATEST - word, self.trainer.state.global_step)

    def _word(self) -> int:
        first = self.watch.first()
        return LATEST - first if first else 0

    def _reads(self, update: int, state: TrainerState) -> bool:
        args = self.trainer.args
        if args.device.type == "cpu" or args.on_nonfinite == "skip":
            return True
        every = (state.logging_steps, state.save_steps)
        return update >= state.max_steps or any(n and update % n == 0 for n in every)

    def _nonfinite(self, first: int, now: int) -> NonFinite:
        """The error, once the batch of the first bad update is saved."""
        file = self.output / FAULTS / f"update-{first}.safetensors"
        names, loss = self.watch.names, self.watch.loss()
        words = [self.watch.bad_gradients().int(), self.watch.bad_parameters().int()]
        bad = [
            [name for name, is_bad in zip(names, flags, strict=True) if is_bad]
            for flags in [self.agreement.largest(*word.tolist()) for word in words]
        ]
        about = {"update": first, "noticed": now, "gradients": bad[0], "parameters": bad[1]}
        where = f"its batch is in {file}"
        if self.trainer.args.should_save:
            try:
                self.trainer.batch_of(first).save(file, loss, about)
            except Exception as error:
                reason = write_failure(error)
                if reason is None:
                    raise
                where = f"its batch could not be saved ({reason})"
        such = f" (such as {bad[0][0]})" if bad[0] else ""
        late = f", noticed at update {now}" if now > first else ""
        return NonFinite(
            f"update {first} is not finite{late}: loss {loss:.6g}, {len(bad[0])} of {len(names)} "
            f"gradients{such}, {len(bad[1])} parameters; {where}\n"
            f"nothing of it was saved, the last checkpoint is {newest_marked(self.output, now)}; "
            "resume with a lower learning_rate or round_learning_rates (override_on_resume), "
            "or with on_nonfinite=skip",
            first,
            file,
        )

    def _leave_out(self, update: int) -> None:
        """An optimiser leaves alone what has no gradient: weights, moments and their counts."""
        progress = self.progress or Progress()
        error = self._nonfinite(update, update)
        limit = self.trainer.args.max_skipped
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row > limit:
            raise NonFinite(
                f"more than max_skipped={limit} updates in a row; the last: {error}",
                error.update,
                error.file,
            )
        progress.skipped += 1
        progress.skipped_since_record += 1
        for parameter in self.trainer.model.parameters():
            parameter.grad = None
        self.trainer._tr_loss.copy_(self._loss_before)
        self.watch.clear()
        self.left_out = True
        logger.warning(f"left out: {str(error).splitlines()[0]}")

    def count_out(self) -> None:
        """The update at hand had no loss: the mean of the next record is over the others."""
        if self.progress is not None and not self.left_out:
            self.progress.skipped_since_record += 1

    def correct(self, record: dict[str, Any]) -> None:
        """Makes the loss of a record the mean over the updates that count."""
        now = self.trainer.state.global_step
        updates, self._recorded = now - self._recorded, now
        if self.progress is None:
            return
        left_out, self.progress.skipped_since_record = self.progress.skipped_since_record, 0
        if self.trainer.args.on_nonfinite == "skip":
            record["left_out_updates"] = self.progress.skipped
        if left_out >= updates:
            del record["loss"]
        elif left_out:
            record["loss"] *= updates / (updates - left_out)
        if self.left_out:  # the norm of the update at hand
            record.pop("grad_norm", None)

    # Signals

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Saves and stops where all processes have heard of a signal."""
        if self.stop:
            control.should_save = control.should_training_stop = True

    def on_save(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """A signal that came while a checkpoint was saved needs no further update."""
        [self.stop] = self.agreement.largest(self.stop or self.signals.received)
        if self.stop:
            control.should_training_stop = True

    # Saves that fail

    def save(self, checkpoint: Path, write: Callable[[], None], limit: int | None) -> bool:
        """Saves a checkpoint; called by all processes.

        A failure costs a warning, if the last ones went well and training goes on: the run is worth
        more than one save. What the new checkpoint would drive out is deleted first if that helps.

        Args:
            checkpoint: Its folder; what it holds is deleted.
            write: Writes it, but for the manifest.
            limit: How many are kept.

        Returns:
            Whether it is there.

        Raises:
            SaveFailed: Where the run ends, and when three in a row have failed.
        """
        self.check_finite()
        first_process = self.trainer.args.should_save
        words = self._attempt(checkpoint, write)
        if words:
            best = self.trainer.state.best_model_checkpoint
            deleted = make_room(checkpoint, limit, best) if first_process else 0
            words = self._attempt(checkpoint, write) if self.agreement.any(deleted > 0) else words
        self.failed_saves = self.failed_saves + 1 if words else 0
        if not words:
            return True
        state, count = self.trainer.state, f"{self.failed_saves} of {FAILED_SAVES} in a row"
        message = f"{checkpoint} could not be saved: {words}; "
        message += f"the last whole checkpoint is {newest_marked(self.output, state.global_step)}"
        ends = state.global_step >= state.max_steps or self.trainer.control.should_training_stop
        if ends or self.failed_saves >= FAILED_SAVES:
            raise SaveFailed(f"{message}\nmake room and resume")
        logger.warning(f"{message}; training goes on to the next save ({count} have failed)")
        return False

    def write(self, save: Callable[[], None]) -> None:
        """Writes files that are followed by something which all processes do together.

        While a checkpoint is saved the first failure is kept for the end, and nothing more is
        written: a process that left at once would keep the others waiting for ever.
        """
        if self._failure is not None:
            return
        try:
            save()
        except Exception as error:
            words = write_failure(error)
            if words is None or not self._saving:
                raise
            self._failure = words

    def _write_all(self, write: Callable[[], None]) -> None:
        """A checkpoint, but for its manifest; a failure that was kept is raised at the end."""
        self._saving = True
        try:
            write()
        except Exception as error:
            if self._failure is None:
                raise
            raise SaveFailed(self._failure) from error  # the first says why
        else:
            if self._failure is not None:
                raise SaveFailed(self._failure)
        finally:
            self._saving, self._failure = False, None

    def _attempt(self, checkpoint: Path, write: Callable[[], None]) -> str | None:
        """Saves once; why it failed, in any process, after which nothing is left of it."""
        first_process = self.trainer.args.should_save
        steps: tuple[tuple[Callable[[], None], bool], ...] = (
            (lambda: remove_checkpoint(checkpoint), False),
            (lambda: self._write_all(write), True),
            (lambda: write_manifest(checkpoint), False),
        )
        for step, by_all in steps:
            words = None
            try:
                if by_all or first_process:
                    step()
            except Exception as error:
                words = write_failure(error)
                if words is None:
                    raise
            if self.agreement.any(words is not None):
                if first_process:
                    remove_checkpoint(checkpoint)
                return words or "another process could not write its part"
        return None
