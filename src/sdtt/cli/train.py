"""What the training verbs share: progress, resuming, and the validation at the end."""

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging

from sdtt.cli.console import note, progress
from sdtt.cli.run_folder import RunFolder, saved_config
from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.models.adapters import network_of
from sdtt.models.causal import CausalLM
from sdtt.models.shipped import resolve
from sdtt.training.config import StreamConfig
from sdtt.training.data_state import load_data_state
from sdtt.training.records import METRICS
from sdtt.training.rounds import RoundPlan
from sdtt.training.signals import Interrupted, StopSignals
from sdtt.training.state import last_complete_checkpoint, put_record
from sdtt.training.trainer import StreamTrainer

QUIET: dict[str, Any] = {"disable_tqdm": True}
"""The progress is ours."""

WITHHELD = frozenset(
    {"output_dir", "disable_tqdm", "resume_from_checkpoint", "remove_unused_columns"}
    | {"num_train_epochs", "label_names", "label_smoothing_factor", "data_seed"}
    | {"save_only_model", "ignore_data_skip", "auto_find_batch_size", "dataloader_drop_last"}
    | {"train_sampling_strategy", "average_tokens_across_devices", "length_column_name"}
    | {"do_train", "do_eval", "do_predict", "eval_delay", "eval_accumulation_steps"}
    | {"eval_do_concat_batches", "eval_use_gather_object", "batch_eval_metrics"}
    | {"include_for_metrics", "prediction_loss_only", "bf16_full_eval", "fp16_full_eval"}
    | {"per_device_eval_batch_size", "eval_strategy", "eval_steps", "eval_on_start"}
    | {"load_best_model_at_end", "metric_for_best_model", "greater_is_better"}
    | {"enable_jit_checkpoint", "logging_nan_inf_filter"}
)
"""Fields of TrainingArguments that the verbs decide, or that nothing of ours reads."""

MAY_DIFFER = frozenset(
    {"logging_steps", "save_steps", "save_total_limit", "report_to"}
    | {"per_device_train_batch_size", "gradient_accumulation_steps", "global_batch_size"}
    | {"fsdp", "fsdp_config", "teacher_sharding", "gather_dtype"}
    | {"merge_lora", "activation_checkpointing", "gradient_checkpointing"}
    | {"dataloader_num_workers", "logging_first_step", "run_name", "use_cpu"}
    | {"on_nonfinite", "max_skipped", "ema_device", "override_on_resume"}
    | {"sample_every", "sample_count", "sample_steps", "sample_sampler", "judge", "peak_tflops"}
)
"""Keys that a resumed run may change: they change no weight by more than rounding.

Of a batch the trainer compares the texts of the whole update.
"""


OF_CHECKPOINTS = ("batch", "data", "student", "teacher")
"""What a checkpoint compares besides settings."""


def may_differ(args: StreamConfig, config: Collection[str], output: Path) -> frozenset[str]:
    """Keys that a resumed run may change, those of --override-on-resume among them.

    Args:
        args: What trains.
        config: Keys of the resolved config of the run.
        output: Its folder; a run of another version may have keys of its own.

    Raises:
        ValueError: If --override-on-resume names what is no setting.
    """
    named = args.override_on_resume or ()
    if not named:
        return MAY_DIFFER
    known = {*config, *saved_config(output), *(f.name for f in fields(args)), *OF_CHECKPOINTS}
    for name in named:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise ValueError(
                f"--override-on-resume names no setting: {name!r}; "
                + (f"did you mean {near[0]}?" if near else "name keys of run.yaml")
            )
    return MAY_DIFFER | frozenset(named)


class _Advance(TrainerCallback):
    """Hands every update to a progress bar."""

    def __init__(self, advance: Any, tokens_per_update: int) -> None:
        self.advance, self.tokens_per_update = advance, tokens_per_update

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.advance(self.tokens_per_update)


class Dashboard(TrainerCallback):
    """The one line that says how a run is: round, update, loss, MFU, and the last samples.

    Args:
        updates: Of the run.
        plan: Gives its rounds as they are now, where it has some: one may end early.
    """

    def __init__(self, updates: int, plan: Callable[[], RoundPlan | None] = lambda: None) -> None:
        self.updates, self.plan = updates, plan
        self.step = 0
        self.latest: dict[str, Any] = {}
        self.samples: dict[str, dict[int, float]] = {}

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Takes the update."""
        self.step = state.global_step

    def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        """Takes the figures of a record."""
        self.latest |= logs or {}
        looks = {name: value for name, value in (logs or {}).items() if name.startswith("sample_")}
        if looks:  # other steps than those of the last look are no longer true
            self.samples = {}
        for name, value in looks.items():
            figure, steps = name.removeprefix("sample_").split("_")
            self.samples.setdefault(figure, {})[int(steps)] = value

    def line(self) -> str:
        """Such as "round 2/5, update 1,200/5,000, loss 0.0123, entropy 3.80 in 8 steps"."""
        parts = [f"update {self.step:,}/{self.updates:,}"]
        plan = self.plan()
        if plan is not None:
            now = plan.at(max(self.step - 1, 0))
            parts.insert(0, f"round {now.index + 1}/{plan.rounds}")
        if "loss" in self.latest:
            parts.append(f"loss {self.latest['loss']:.4g}")
        if "mfu" in self.latest:
            parts.append(f"MFU {self.latest['mfu']:.2f}")
        entropies, perplexities = (self.samples.get(n, {}) for n in ("entropy", "perplexity"))
        if entropies:
            steps = sorted(entropies)[len(entropies) // 2]
            judged = f"perplexity {perplexities[steps]:.4g}, " if steps in perplexities else ""
            parts.append(f"{judged}entropy {entropies[steps]:.2f} in {steps} steps")
        return ", ".join(parts)


def spare(run: RunFolder, source: Path | None) -> None:
    """Refuses an --overwrite that would delete the model that the run reads.

    Raises:
        ValueError: If the source lies in the output folder.
    """
    if run.overwrite and source is not None:
        inside = Path(resolve(source)).resolve().is_relative_to(run.output.resolve())
        if inside:
            raise ValueError(
                f"--overwrite would delete {source}, which this run reads; choose another --output"
            )


def check_resume(trainer: StreamTrainer, run: RunFolder) -> None:
    """Refuses settings and text that a run cannot go on with, before its record says that it did.

    Raises:
        ValueError: If the newest whole checkpoint was made under others.
    """
    if run.resume:
        checkpoint, _ = last_complete_checkpoint(run.output)
        if checkpoint is not None:
            trainer.changes_since(checkpoint)
            load_data_state(trainer.stream, checkpoint)


def check_output(run: RunFolder, sources: Sequence[str]) -> None:
    """Refuses an output folder within the data, whose files the next run would read as text.

    Raises:
        ValueError: If it lies in one of the sources.
    """
    for source in () if run.resume else sources:
        if _reads_from(Path(source).expanduser(), run.output.expanduser().resolve()):
            raise ValueError(
                f"--output {run.output} lies in --data {source}: the next run would read its files "
                "as text; choose another --output"
            )


def _reads_from(source: Path, output: Path) -> bool:
    """Whether a folder, or what a pattern finds, will hold files of an output folder."""
    if source.is_dir():
        return output.is_relative_to(source.resolve())
    if not any(sign in str(source) for sign in "*?["):
        return False
    parts = [r"(?:.*/)?" if part == "**" else _of_name(part) for part in source.absolute().parts]
    pattern = re.compile("".join(parts).removesuffix("/") + "/?")
    ours = (output, *output.parents, output / METRICS, output / "checkpoint-1" / METRICS)
    return any(pattern.fullmatch(str(path)) for path in ours)


def _of_name(part: str) -> str:
    """A part of a pattern as a regular expression, with the slash behind it."""
    signs = {"*": "[^/]*", "?": "[^/]", "[": "[", "]": "]", "!": "^", "-": "-"}
    signs = signs if "]" in part.partition("[")[2] else signs | {"[": r"\["}
    known = "".join(signs.get(sign, re.escape(sign)) for sign in part)
    return known if part == "/" else known + "/"


def run_training(
    trainer: StreamTrainer,
    run: RunFolder,
    description: str,
    *,
    finish: Callable[[], None] = lambda: None,
    resumable: bool = True,
) -> None:
    """Trains with a progress bar; with --resume from the newest whole checkpoint.

    Args:
        trainer: What trains.
        run: Where, and whether it goes on.
        description: Of the progress bar.
        finish: What is left when all updates are done; a signal ends it in words too.
        resumable: Whether the command can go on with a stopped run.

    Raises:
        typer.Exit: With 143 after SIGTERM and 130 after SIGINT, once a checkpoint is saved.
    """
    logging.disable_progress_bar()  # transformers' own bars for reading and writing weights
    trainer.remove_callback(PrinterCallback)
    checkpoint: Path | None = None
    if run.resume:
        checkpoint, faults = last_complete_checkpoint(run.output)
        for problem in faults:
            note(f"{problem}; using the one before it")
        note(f"resuming from {checkpoint}" if checkpoint else "no whole checkpoint: starting anew")
    done = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else 0
    tokens_per_update = round(trainer.mean_tokens_per_update)
    total = (trainer.args.max_steps - done) * tokens_per_update
    board = Dashboard(trainer.args.max_steps, lambda: getattr(trainer, "plan", None))
    trainer.add_callback(board)
    if trainer.peak.flops_per_second is None:
        note(f"MFU is left out: {trainer.peak.source}")
    shown = (
        progress(total, description, status=board.line)
        if total > 0
        else nullcontext(lambda _: None)
    )

    def interrupted(signum: int) -> Interrupted:
        if trainer.state.global_step < done:  # the checkpoint is not read yet
            return Interrupted(signum, done, checkpoint)
        return trainer.interrupted(signum)

    with StopSignals(interrupted):  # before and after the trainer's own
        try:
            with shown as advance:
                trainer.add_callback(_Advance(advance, tokens_per_update))
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            finish()
        except Exception:
            if trainer.state.global_step == done == 0:
                run.withdraw()
            raise
        except Interrupted as stop:
            note(f"{stop}; {_way_on(stop, trainer.is_done)}" if resumable else str(stop))
            raise typer.Exit(stop.status) from None


def _way_on(stop: Interrupted, is_done: bool) -> str:
    """What --resume would do."""
    again = "the same command with --resume"
    if stop.checkpoint is None:
        return f"{again} starts anew"
    if is_done and stop.is_saved:
        return f"all updates are done, {again} saves and validates the model"
    return f"{again} goes on"


def validate(trainer: StreamTrainer, blocks: Any) -> None:
    """Records the bound of the trained model on the held-out text, where there is some."""
    whole = trainer.whole_model() if len(blocks) else None  # all processes take part
    model = None if whole is None else network_of(whole)
    if model is None or isinstance(model, CausalLM):
        return
    model.to(trainer.args.device)
    bound = validation_nelbo(model, blocks, device=model.device)
    record = {
        "step": trainer.state.global_step,
        "validation_nelbo": bound.nats_per_token,
        "validation_nelbo_se": bound.standard_error,
        "bits_per_byte": bound.bits_per_byte,
        "tokens": bound.tokens,
    }
    put_record(Path(trainer.args.output_dir or ".") / METRICS, record)
    bits = "" if bound.bits_per_byte is None else f", {bound.bits_per_byte:.3f} bits per byte"
    note(f"validation NELBO {bound.nats_per_token:.3f} nats per token{bits}")
