"""What all our Trainers share: data order, noise by name, EMA, records, whole checkpoints."""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate.utils import broadcast_object_list
from jaxtyping import Int64
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy
from transformers.utils import logging

from sdtt.data.rows import as_texts
from sdtt.diffusion.noise import SCHEDULES
from sdtt.evaluation.judge import judge_perplexity
from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.models.adapters import network_of
from sdtt.models.causal import CausalLM
from sdtt.models.vocabulary import vocabulary_size
from sdtt.training.compiling import compile_for_training
from sdtt.training.config import StreamConfig, peak_of
from sdtt.training.data_state import load_data_state, save_data_state, serve_own_lanes
from sdtt.training.disk import (
    SaveFailed,
    bytes_of,
    check_room,
    check_writable,
    checkpoint_bytes,
    write_failure,
)
from sdtt.training.ema import Ema
from sdtt.training.finite import Batch
from sdtt.training.flops import Flops, shape_of, training_flops
from sdtt.training.guard import Guard
from sdtt.training.looks import Looks
from sdtt.training.monitor import Monitor, ema_distance
from sdtt.training.parallel import ParallelTrainer
from sdtt.training.records import Records
from sdtt.training.settings import (
    Changes,
    apply_changes,
    changes_since,
    save_settings,
    settings_of,
)
from sdtt.training.sharding import placed_like, whole_tensors
from sdtt.training.sharing import accumulation_steps, check_loader, name_dropout
from sdtt.training.signals import Interrupted, leave_signals
from sdtt.training.state import (
    EMA,
    SKIPPED,
    Progress,
    delete_old_checkpoints,
    fault,
    last_complete_checkpoint,
    newest_marked,
    save_into,
    update_of,
    write_aside,
)
from sdtt.training.stream import Noise, Stream, collate, lengths_of, noise_of

logger = logging.get_logger(__name__)


class StreamTrainer(ParallelTrainer, ABC):
    """A Trainer whose every random number is named, and whose checkpoints are whole or ignored.

    A subclass gives ``smallest_time``, ``items``, ``loss_sum`` and ``update_flops``. The loss of an
    update is sum(loss_sum) / sum(items) over all its micro-batches and processes.

    Args:
        model: The network to train.
        args: Its config; ``max_steps`` says how many updates there are.
        train_dataset: Texts of L ids, such as ``data.packing.Blocks``; rows with such
            ``input_ids``, as data sets of ``datasets`` have; or ``StreamedBlocks``.
        processing_class: The tokenizer, saved with every model.
        **kwargs: As transformers' Trainer takes them.

    Raises:
        ValueError: If the tokenizer's vocabulary is not the model's, or the texts of an update
            cannot be shared evenly by the processes.
        OSError: If ``output_dir`` cannot be written to.
    """

    smallest_time = 0.0
    args: StreamConfig
    _last_log: tuple[float, int]

    def __init__(
        self,
        model: Any,
        args: StreamConfig,
        train_dataset: Any,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        check_vocabulary(model, processing_class)
        if args.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {args.max_steps}")
        args.remove_unused_columns = False
        if args.n_gpu > 1:  # one device a process; more of them by torchrun or accelerate launch
            args._n_gpu = 1
        args.average_tokens_across_devices = True
        if args.ddp_find_unused_parameters is None:  # there are none: each has a gradient, maybe 0
            args.ddp_find_unused_parameters = False
        args.dataloader_pin_memory &= args.device.type != "cpu"  # pinning needs an accelerator
        if args.should_save:
            check_writable(Path(args.output_dir or "."))
        set_attention(model, args.attn_implementation)
        check_loader(args.accelerator_config)
        args.gradient_accumulation_steps = accumulation_steps(
            args.global_batch_size,
            processes=args.world_size,
            per_device=args.per_device_train_batch_size,
            given=args.gradient_accumulation_steps,
        )
        batch = args.texts_per_update
        stream = Stream(
            train_dataset,
            updates=args.max_steps,
            batch=batch,
            seed=args.seed,
            config=model.config,
        )
        if stream.is_streamed and args.dataloader_num_workers:
            raise ValueError(
                "a stream is read by the process that trains, whose state a checkpoint saves: "
                f"dataloader_num_workers must be 0, got {args.dataloader_num_workers}"
            )
        serve_own_lanes(
            stream,
            process=args.process_index,
            processes=args.world_size,
            micro_batch=args.per_device_train_batch_size,
        )
        super().__init__(
            model=model,
            args=args,
            train_dataset=stream,
            data_collator=collate,
            processing_class=processing_class,
            **kwargs,
        )
        self.compiled_by = compile_for_training(self.model, self.accelerator)
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = False
        self.schedule = SCHEDULES[args.schedule]
        self.loss_dtype: torch.dtype = getattr(torch, args.loss_dtype)
        self.loss_products = torch.bfloat16 if args.bf16 else self.loss_dtype
        if self.sharding is not None and args.ema_device == "cpu":
            raise ValueError(
                "ema_device='cpu' is for whole models; under FSDP2 the average lies in parts "
                "beside the weights: leave ema_device out"
            )
        self.ema = Ema(model, args.ema_decay, args.ema_device) if args.ema_decay else None
        self.network = shape_of(model)
        self.monitor = Monitor()
        self.peak = peak_of(args)
        self.skipped_updates = 0
        self._nothing_to_learn = False
        self._ahead: dict[tuple[int, ...], Noise] = {}
        self.changes: Changes = {}
        self.guard = Guard(self)
        self.records = Records(Path(args.output_dir or "."))
        looks = [Looks(self)] if args.sample_every else []
        for callback in (_AfterUpdate(self), *looks, self.records, self.guard):
            self.add_callback(callback)
        self.start_clock()

    @property
    def stream(self) -> Stream:
        """The data of the run, in order."""
        return self.train_dataset  # type: ignore[return-value]

    @abstractmethod
    def items(self, x: Tensor, places: list[int]) -> int:
        """How many things this micro-batch adds to the denominator of the loss."""

    @abstractmethod
    def loss_sum(self, model: nn.Module, x: Tensor, places: list[int]) -> Tensor:
        """The loss of a micro-batch, summed over its items."""

    def lessons(self, x: Tensor, places: list[int], items: int) -> int:  # noqa: ARG002
        """How many of the ``items`` it learns from; an update without any is skipped."""
        return items

    @abstractmethod
    def update_flops(self) -> Flops:
        """What the update that was done last, or is to be the first, asks of all processes."""

    def flops_with_rows(self, share: float) -> Flops:
        """A pass over the texts of an update and back, with a share of their rows projected."""
        texts, length = self.stream.batch, self.stream.length
        return training_flops(
            self.network,
            texts=texts,
            length=length,
            rows=share * texts * length,
        )

    def where(self) -> dict[str, float]:
        """What a record says of the place of the last update in the plan of the run."""
        return {}

    @property
    def student_steps(self) -> int | None:
        """The sampling steps that the model is trained for; None if for none in particular."""
        return None

    def ends_round(self, step: int) -> bool:  # noqa: ARG002
        """Whether a round ends with the update that makes ``step`` of them."""
        return False

    def is_recorded(self, step: int) -> bool:
        """Whether there will be a record when ``step`` updates are done."""
        if self.args.logging_strategy != IntervalStrategy.STEPS:
            return False
        regular = step % self.state.logging_steps == 0
        return regular or self.ends_round(step) or (step == 1 and self.args.logging_first_step)

    @property
    def compares(self) -> bool:
        """Whether this is the last micro-batch of an update that is recorded."""
        last: bool = self.accelerator.sync_gradients
        return last and self.is_recorded(self.state.global_step + 1)

    def noise(self, places: list[int], length: int) -> Noise:
        """The noise of the texts at these places."""
        return noise_of(
            places,
            length=length,
            batch=self.stream.batch,
            seed=self.args.seed,
            smallest_time=self.smallest_time,
            variable_length=self.args.variable_length,
        )

    def noise_ahead(self, places: list[int], length: int) -> Noise:
        """``noise``, kept for the loss: what is counted before a pass is not drawn again in it."""
        key = (*places, length)
        if key not in self._ahead:
            self._ahead[key] = self.noise(places, length)
        return self._ahead[key]

    def noise_of_loss(self, places: list[int], length: int) -> Noise:
        """``noise``, as it was counted."""
        kept = self._ahead.pop((*places, length), None)
        return self.noise(places, length) if kept is None else kept

    def lengths(self, places: Sequence[int], length: int) -> Int64[Tensor, " B"]:
        """How many tokens of the texts of ``length`` at these places are no padding."""
        batch, seed, share = self.stream.batch, self.args.seed, self.args.variable_length
        return lengths_of(places, length=length, batch=batch, seed=seed, share=share)

    def tokens_of(self, places: Sequence[int], length: int) -> int:
        """The tokens of the texts of ``length`` at these places, padding not counted."""
        return int(self.lengths(places, length).sum())

    @property
    def mean_tokens_per_update(self) -> float:
        """What ``tokens_of`` an update is on average: a cut text has (L + 1) / 2 tokens."""
        length = self.stream.length
        return float(self.stream.batch * (length - self.args.variable_length * (length - 1) / 2))

    def batch_of(self, update: int) -> Batch:
        """The texts of an update, from 1, and the noise that they are trained under.

        Of a stream those that this process has read, as far as it remembers.
        """
        places, x = self.stream.texts_of(update - 1)
        noise = self.noise(places, x.shape[1])
        masks = noise.masked(self.schedule)
        return Batch(x, torch.tensor(places), noise.t, masks, noise.revealed)

    def before_step(self) -> None:
        """Called before every optimiser step: one without gradients moves nothing.

        A gradient of zero would not do: moments and weight decay would move the weights.
        """
        if self._nothing_to_learn:
            for parameter in self.accelerator.unwrap_model(self.model).parameters():
                parameter.grad = None

    def after_update(self) -> None:
        """Called after every optimiser step."""
        if self._nothing_to_learn:
            self.skipped_updates += 1
            self.record({"skipped_updates": self.skipped_updates})
        elif self.ema is not None and not self.guard.left_out:
            self.ema.update(self.accelerator.unwrap_model(self.model))

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.stream if train_dataset is None else train_dataset)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As transformers makes it; its workers leave signals to this process."""
        loader: Any = super().get_train_dataloader()
        own = getattr(loader, "base_dataloader", loader)  # accelerate's forms hold it
        own.worker_init_fn = partial(leave_signals, own.worker_init_fn)
        return loader

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> Tensor:
        self._ahead.clear()
        counts = torch.zeros(1, 2, dtype=torch.int64)
        for each in batch_samples:
            items = self.items(each["input_ids"], each["place"])
            lessons = self.lessons(each["input_ids"], each["place"], items)
            counts += torch.tensor([items, lessons])
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts.to(device)).sum(0, keepdim=True).cpu()
        self._nothing_to_learn = counts[0, 1].item() == 0
        return counts[0, 0]  # on the CPU: reading it there waits for nothing

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002 - the Trainer's signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """``loss_sum`` over the items of the whole update; processes are averaged, hence times."""
        name_dropout(self.args.seed, inputs["place"][0])
        total = self.loss_sum(model, inputs["input_ids"], inputs["place"])
        if num_items_in_batch is None:
            num_items_in_batch = self.items(inputs["input_ids"], inputs["place"])
        loss: Tensor = total * self.accelerator.num_processes / max(int(num_items_in_batch), 1)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As transformers does it; the guard sees the loss."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.guard.watch.add_loss(loss)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        self._watch_gradients()
        return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # nothing was clipped
            self._watch_gradients()
        return super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]

    def _watch_gradients(self) -> None:
        if self.accelerator.scaler is None:  # a scaler of fp16 looks after its own overflows
            self.guard.watch.see_gradients()

    def complete(self, logs: dict[str, float]) -> None:
        """Adds to a record what a subclass knows; its loss is that of the updates that count."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a record what ``monitor`` describes."""
        if "loss" in logs:
            self.guard.correct(logs)
        self.complete(logs)
        updates = self.state.global_step - self._last_log[1]
        if "loss" in logs and updates > 0:
            now = time.perf_counter()
            seconds = now - self._last_log[0]
            step, batch = self.state.global_step, self.stream.batch
            places = range((step - updates) * batch, step * batch)
            tokens = self.tokens_of(places, self.stream.length)
            self._last_log = (now, step)
            self._seconds += seconds
            logs |= self.monitor.figures(
                seconds=seconds,
                tokens=tokens,
                processes=self.args.world_size,
                # of whole texts; padding is not needed
                flops=self.update_flops().total * tokens / (batch * self.stream.length),
                peak=self.peak,
            )
            if self.ema is not None:
                model = self.accelerator.unwrap_model(self.model)
                logs["ema_distance"] = ema_distance(self.ema.shadow, dict(model.named_parameters()))
            logs["seconds"] = self._seconds
        super().log(logs, start_time)

    def record(self, values: dict[str, float], seconds: float = 0.0) -> None:
        """A record beside those of the loss; the ``seconds`` that it took count for no speed."""
        self._last_log = (self._last_log[0] + seconds, self._last_log[1])
        due = self.control.should_log
        super().log(values)
        self.control.should_log = due  # a record of the loss is not done by this one

    def start_clock(self) -> None:
        """Speed is measured from here on; seconds go on from the last record of the run."""
        past = [each["seconds"] for each in self.state.log_history if "seconds" in each]
        self._seconds = past[-1] if past else 0.0
        self._last_log = (time.perf_counter(), self.state.global_step)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Trains; ``True`` resumes from the newest whole checkpoint of ``output_dir``.

        SIGTERM, and the first SIGINT, end it after the update at hand, with a checkpoint.

        Args:
            resume_from_checkpoint: A folder; True; or "auto": as True, or from the start where
                there is no whole checkpoint (for supervisors that start a run again and again).
            trial: As transformers' Trainer takes it.
            ignore_keys_for_eval: Likewise.

        Raises:
            ValueError: If there is nothing whole to resume from, or with other settings.
            OSError: If ``output_dir`` has no room for a checkpoint, or if saves failed again and
                again (`SaveFailed`).
            NonFinite: If a loss or a gradient is not finite.
            Interrupted: By a signal, after the checkpoint.
        """
        checkpoint = self._checkpoint_of(resume_from_checkpoint)
        self.guard.reset()
        self.settings = settings_of(self)
        self.changes = self.changes_since(checkpoint) if checkpoint else {}
        if self.args.should_save:
            teacher, ema = getattr(self, "teacher", None), self.ema is not None
            teacher = teacher if isinstance(teacher, nn.Module) else None
            model = self.accelerator.unwrap_model(self.model)
            one = checkpoint_bytes(model, teacher, str(self.args.optim), ema)
            models = getattr(self.args, "rounds", 1) * (1 + ema)
            check_room(self.guard.output, self.args, one, models * bytes_of(model))
        if checkpoint is None and self.stream.is_streamed:
            self.stream.go_on_from(None)
        with self.guard.signals as signals:
            given = str(checkpoint) if checkpoint else None
            result = super().train(given, trial, ignore_keys_for_eval)
            self.guard.check_finite()
            [stop] = self.guard.agreement.largest(self.guard.stop or signals.received)
        stop = stop or signals.received  # one that came while the context ended
        if stop:
            raise self.interrupted(stop)
        return result

    @property
    def is_done(self) -> bool:
        """Whether the last update of the run is done."""
        return self.state.global_step >= self.args.max_steps

    def interrupted(self, signum: int) -> Interrupted:
        """What a signal raises now."""
        update = self.state.global_step
        return Interrupted(signum, update, newest_marked(self.guard.output, update))

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,  # noqa: ARG002 - the Trainer's signature
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The bound of held-out texts, in nats a token: see ``validation_nelbo``.

        Of the first 512 texts; of a causal model -log p behind BOS. One process measures, and all
        learn it.

        Args:
            eval_dataset: Texts, as ``train_dataset``; those of the trainer by default.
            ignore_keys: Not used: no outputs are gathered.
            metric_key_prefix: Put before the names.

        Returns:
            ``eval_nelbo`` (``eval_nll`` of a causal model) and its standard error ``..._se``, where
            there are texts enough to tell it.

        Raises:
            ValueError: If there is no text, or ``as_texts`` refuses the data.
        """
        given = self.eval_dataset if eval_dataset is None else eval_dataset
        if given is None:
            raise ValueError("there is no text to evaluate on: give an eval_dataset")
        began = time.perf_counter()
        texts = as_texts(given)
        if len(texts) == 0:
            raise ValueError("there is no text to evaluate on: the eval_dataset is empty")
        whole = self.whole_model()
        found = {} if whole is None else _bound(network_of(whole), texts, self.args.seed)
        if self.args.world_size > 1:
            shared = [found]
            broadcast_object_list(shared)
            found = shared[0]
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.record(dict(metrics), time.perf_counter() - began)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A head that is tied is saved once, under the name of the embedding: it is not missing."""
        model: Any = network_of(self.accelerator.unwrap_model(self.model))
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        ends = tuple(f".{name}" for name in tied)
        missing = [n for n in load_result.missing_keys if n not in tied and not n.endswith(ends)]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def changes_since(self, checkpoint: Path) -> Changes:
        """What differs from the settings of a checkpoint, all of it in ``override_on_resume``.

        Raises:
            ValueError: If something else differs, or leaves no room for what is done.
        """
        changes = changes_since(checkpoint, settings_of(self), self.args.override_on_resume or ())
        self.check_room_for(checkpoint)
        return changes

    def check_room_for(self, checkpoint: Path) -> None:
        """Refuses a run that is shorter than what a checkpoint has done of it.

        Raises:
            ValueError: With the least number that works.
        """
        done = update_of(checkpoint)
        if self.args.max_steps < done:
            raise ValueError(
                f"max_steps={self.args.max_steps} is too few to resume {checkpoint}: {done} updates"
                f" are done; give max_steps={done} at least, or choose an earlier checkpoint"
            )

    def _checkpoint_of(self, resume: str | bool | None) -> Path | None:
        """The checkpoint to resume from, whole; None to start anew."""
        if not resume:
            return None
        if resume is not True and resume != "auto":
            problem = fault(Path(resume))
            if problem:
                raise ValueError(problem)
            return Path(resume)
        found, faults = last_complete_checkpoint(self.guard.output)
        if found is None and resume is True:
            output = self.guard.output
            raise ValueError("; ".join([f"no whole checkpoint to resume in {output}", *faults]))
        for problem in faults:
            logger.warning(f"{problem}; using the one before it")
        return found

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        checkpoint = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        write = super()._save_checkpoint
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            whole = self.guard.save(checkpoint, lambda: write(model, trial), limit)
        finally:
            self.args.save_total_limit = limit
        if whole and self.args.should_save:  # older ones go only after this one is known to be so
            delete_old_checkpoints(checkpoint, limit, self.state.best_model_checkpoint)

    def write(self, save: Callable[[], None]) -> None:
        """Writes files of a checkpoint; the guard puts a failure off until all have met."""
        self.guard.write(save)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        folder = Path(output_dir)
        if self.args.should_save:
            record = json.dumps({"updates": self.skipped_updates})
            self.write(lambda: save_settings(folder, self.settings))
            self.write(lambda: write_aside(folder / SKIPPED, record))
        self.guard.save_progress(folder)
        if self.ema is not None:
            shadow = whole_tensors(self.ema.shadow, keep=self.args.should_save)
            if self.args.should_save:
                self.write(lambda: safetensors.torch.save_file(shadow, folder / EMA))
        self.write(
            lambda: save_data_state(
                self.stream,
                folder,
                update=self.state.global_step,
                process=self.args.process_index,
                processes=self.args.world_size,
            )
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        optimizer: Any = self.optimizer
        fresh = [dict(group, params=None) for group in optimizer.param_groups]
        rates = list(getattr(self.lr_scheduler, "base_lrs", []))
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        load_data_state(self.stream, Path(checkpoint))
        self.guard.progress = Progress.load(Path(checkpoint))
        if self.changes:
            apply_changes(self, fresh, rates)
        if self.ema is not None and not (Path(checkpoint) / EMA).is_file():  # overridden from 0
            model = self.accelerator.unwrap_model(self.model)
            self.ema = Ema(model, self.args.ema_decay, self.args.ema_device)
        elif self.ema is not None:
            saved = safetensors.torch.load_file(Path(checkpoint) / EMA)
            self.ema.shadow = {
                name: placed_like(saved[name], shadow) for name, shadow in self.ema.shadow.items()
            }
        if checkpoint is not None and (Path(checkpoint) / SKIPPED).is_file():
            record = (Path(checkpoint) / SKIPPED).read_text(encoding="utf-8")
            self.skipped_updates = json.loads(record)["updates"]

    def save_model_to(self, model: Any, folder: Path) -> None:
        """Saves one model, as ``from_pretrained`` loads it."""
        model.save_pretrained(folder)

    def save_to(self, folder: Path) -> None:
        """Saves the model and its tokenizer, and their EMA under ``ema/``; other files stay.

        All processes must call it; one writes.

        Raises:
            NonFinite: If an update up to now was not finite.
            SaveFailed: If the disk does not take it; what was there before stays.
        """
        self.guard.check_finite()
        model = self.whole_model()
        averaged = None if self.ema is None else self.whole_model(self.ema.shadow)
        if model is None:
            return

        def save(path: Path) -> None:
            models = {path: model}
            if averaged is not None:
                models[path / "ema"] = averaged
            for place, each in models.items():
                self.save_model_to(each, place)
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(place)

        try:
            save_into(folder, save)
        except Exception as error:
            reason = write_failure(error)
            if reason is None:
                raise
            last = newest_marked(self.guard.output, self.state.global_step)
            raise SaveFailed(
                f"{folder} could not be saved: {reason}\nmake room and resume from {last}"
            ) from error


class _AfterUpdate(TrainerCallback):
    """Tells the trainer that an update is done, before anything is logged or saved."""

    def __init__(self, trainer: StreamTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.start_clock()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.before_step()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.after_update()
        if self.trainer.ends_round(state.global_step):  # no record lies in two rounds
            control.should_log = args.logging_strategy == IntervalStrategy.STEPS


def _bound(model: Any, texts: Any, seed: int) -> dict[str, float]:
    """What ``evaluate`` finds, without its prefix."""
    count = min(len(texts), 512)
    rows = torch.stack([torch.as_tensor(texts[place]) for place in range(count)]).long()
    if isinstance(model, CausalLM):
        judged = judge_perplexity(model, rows.tolist())
        found = {"nll": judged.nll, "nll_se": judged.nll_se}
    else:
        bound = validation_nelbo(model, rows, seed=seed)
        found = {"nelbo": bound.nats_per_token, "nelbo_se": bound.standard_error}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def set_attention(model: Any, name: str) -> None:
    """Sets the attention of a model.

    Raises:
        ValueError: If the model does not have it.
    """
    try:
        model.set_attn_implementation(name)
    except ValueError as error:
        raise ValueError(
            f"a {type(model).__name__} has no attn_implementation={name!r}; use sdpa, or eager"
        ) from error


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Refuses a tokenizer that is not the model's.

    Raises:
        ValueError: If sizes or MASK differ.
    """
    if tokenizer is None:
        return
    size, mask = model.config.vocab_size, model.config.mask_token_id
    own = vocabulary_size(tokenizer)
    if own != size or tokenizer.mask_token_id != mask:
        raise ValueError(
            f"the model's vocabulary has {size} ids with MASK {mask}, the tokenizer's "
            f"{own} with MASK {tokenizer.mask_token_id}; use the model's own tokenizer"
        )
