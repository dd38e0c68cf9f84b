"""What all our Trainers share: data order, noise by name, EMA, records, whole checkpoints."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from sdtt.diffusion.noise import SCHEDULES
from sdtt.training.compiling import compile_for_training
from sdtt.training.data_state import load_data_state, save_data_state, serve_own_lanes
from sdtt.training.ema import Ema
from sdtt.training.flops import Flops, shape_of, training_flops
from sdtt.training.looks import Looks
from sdtt.training.monitor import Monitor, ema_distance
from sdtt.training.peak import Peak, peak_rate, precision_of
from sdtt.training.state import (
    EMA,
    MANIFEST,
    SKIPPED,
    delete_old_checkpoints,
    fault,
    keep_records,
    last_complete_checkpoint,
    save_into,
    write_manifest,
)
from sdtt.training.stream import Noise, Stream, collate, lengths_of, noise_of

METRICS = "metrics.jsonl"

SamplerWithSteps = Literal["dilated", "ancestral", "confidence", "analytic"]


@dataclass
class StreamConfig(TrainingArguments):
    """What pretraining and distillation share, over transformers' ``TrainingArguments``."""

    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "texts a process takes through the network at once"}
    )
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "micro-batches summed into one update; changes no result"}
    )
    learning_rate: float = field(default=6e-5, metadata={"help": "AdamW's, after the warm-up"})
    warmup_steps: float = field(
        default=500, metadata={"help": "updates of linear warm-up (below 1: a share of all)"}
    )
    schedule: str = field(
        default="log_linear", metadata={"help": "alpha(t) of the noise: log_linear or cosine"}
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "moving average of the weights, per update; 0: none"}
    )
    loss_dtype: str = field(
        default="float32",
        metadata={"help": "scores and loss are computed in it: float32, float64 or bfloat16"},
    )
    variable_length: float = field(
        default=0.0,
        metadata={"help": "share of the texts cut to a random length in 1..L; 0.01 in LLaDA"},
    )
    attn_implementation: str = field(
        default="sdpa",
        metadata={"help": "sdpa, or eager: written out, faster on a CPU at L <= 128"},
    )
    bf16: bool = field(
        default=False,
        metadata={"help": "autocast the networks, and the operands of the head, to bfloat16"},
    )
    seed: int = field(default=0, metadata={"help": "of data order, noise and dropout"})
    logging_steps: float = field(default=50, metadata={"help": "updates between two records"})
    save_steps: float = field(default=500, metadata={"help": "updates between two checkpoints"})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "checkpoints kept; older ones are deleted"}
    )
    sample_every: int = field(
        default=0, metadata={"help": "updates between two looks at samples; 0: none"}
    )
    sample_count: int = field(
        default=8, metadata={"help": "samples of a look, at each number of steps"}
    )
    sample_steps: tuple[int, ...] = field(
        default=(),
        metadata={
            "help": "sampling steps of a look; by default the student's own, a quarter and 4 times"
        },
    )
    sample_sampler: SamplerWithSteps = field(
        default="dilated", metadata={"help": "sampler of a look"}
    )
    judge: str | None = field(
        default=None,
        metadata={"help": "causal language model that scores the looks: folder or hub name"},
    )
    peak_tflops: float | None = field(
        default=None,
        metadata={"help": "peak rate of a device in TFLOP/s, for MFU; looked up or measured"},
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        for name in ("save_only_model", "ignore_data_skip", "auto_find_batch_size"):
            if getattr(self, name):
                raise ValueError(f"{name} cannot be set: a resumed run would not go on as it was")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"unknown schedule {self.schedule!r}; there are {', '.join(SCHEDULES)}"
            )
        if self.loss_dtype not in ("float32", "float64", "bfloat16"):
            raise ValueError(
                f"loss_dtype must be float32, float64 or bfloat16, got {self.loss_dtype!r}"
            )
        if self.ema_decay and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if not 0 <= self.variable_length <= 1:
            raise ValueError(f"variable_length must lie in [0, 1], got {self.variable_length}")
        self._check_looks()

    def _check_looks(self) -> None:
        if self.sample_every < 0:
            raise ValueError(f"sample_every must be at least 0, got {self.sample_every}")
        for name, value in (("judge", self.judge), ("sample_steps", self.sample_steps)):
            if value and not self.sample_every:
                raise ValueError(f"{name} says how samples are looked at: set sample_every too")
        if self.sample_sampler not in get_args(SamplerWithSteps):
            raise ValueError(
                f"sample_sampler must be one of {', '.join(get_args(SamplerWithSteps))}, "
                f"got {self.sample_sampler!r}"
            )
        if self.sample_count < 1:
            raise ValueError(f"sample_count must be at least 1, got {self.sample_count}")
        wrong = [steps for steps in self.sample_steps if steps < 1]
        if wrong:
            raise ValueError(f"sample_steps must be at least 1, got {wrong[0]}")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise ValueError(f"peak_tflops must be above 0, got {self.peak_tflops:g}")

    @property
    def texts_per_update(self) -> int:
        """Texts in the whole of an update, over all its micro-batches and processes."""
        micro_batch: int = self.per_device_train_batch_size
        return micro_batch * self.world_size * self.gradient_accumulation_steps


def peak_of(args: StreamConfig) -> Peak:
    """How fast the device of a process could multiply, in the precision of the networks."""
    precision = precision_of(bf16=args.bf16, fp16=args.fp16, device=args.device)
    return peak_rate(args.device, precision, args.peak_tflops)


class StreamTrainer(Trainer, ABC):
    """A Trainer whose every random number is named, and whose checkpoints are whole or ignored.

    A subclass gives ``smallest_time``, ``items``, ``loss_sum`` and ``update_flops``. The loss of an
    update is sum(loss_sum) / sum(items) over all its micro-batches and processes.

    Args:
        model: The network to train.
        args: Its config; ``max_steps`` says how many updates there are.
        train_dataset: Texts of L ids, such as ``data.packing.Blocks``, or ``StreamedBlocks``.
        processing_class: The tokenizer, saved with every model.
        **kwargs: As transformers' Trainer takes them.

    Raises:
        ValueError: If the tokenizer's vocabulary is not the model's.
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
        args.dataloader_pin_memory &= args.device.type != "cpu"  # pinning needs an accelerator
        model.set_attn_implementation(args.attn_implementation)
        batch = args.texts_per_update
        stream = Stream(train_dataset, updates=args.max_steps, batch=batch, seed=args.seed)
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
        self.ema = Ema(model, args.ema_decay) if args.ema_decay else None
        self.network = shape_of(model)
        self.monitor = Monitor()
        self.peak = peak_of(args)
        self.skipped_updates = 0
        self._nothing_to_learn = False
        self.add_callback(_AfterUpdate(self))
        if args.sample_every:
            self.add_callback(Looks(self))
        self.add_callback(Records(Path(args.output_dir or ".")))
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
        elif self.ema is not None:
            self.ema.update(self.accelerator.unwrap_model(self.model))

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.stream if train_dataset is None else train_dataset)

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> Tensor:
        counts = torch.zeros(1, 2, dtype=torch.int64)
        for each in batch_samples:
            items = self.items(each["input_ids"], each["place"])
            lessons = self.lessons(each["input_ids"], each["place"], items)
            counts += torch.tensor([items, lessons])
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts.to(device)).sum(0, keepdim=True).cpu()
        self._nothing_to_learn = counts[0, 1].item() == 0
        return counts[0, 0].to(device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: ARG002 - the Trainer's signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """``loss_sum`` over the items of the whole update; processes are averaged, hence times."""
        total = self.loss_sum(model, inputs["input_ids"], inputs["place"])
        if num_items_in_batch is None:
            num_items_in_batch = self.items(inputs["input_ids"], inputs["place"])
        loss: Tensor = total * self.accelerator.num_processes / max(int(num_items_in_batch), 1)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a record what ``monitor`` describes."""
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

        Raises:
            ValueError: If there is nothing whole to resume from.
        """
        if resume_from_checkpoint is True:
            output = Path(self.args.output_dir or ".")
            found, faults = last_complete_checkpoint(output)
            if found is None:
                raise ValueError("; ".join([f"no whole checkpoint to resume in {output}", *faults]))
            resume_from_checkpoint = str(found)
        elif resume_from_checkpoint:
            problem = fault(Path(resume_from_checkpoint))
            if problem:
                raise ValueError(problem)
        elif self.stream.is_streamed:
            self.stream.go_on_from(None)
        return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        checkpoint = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            if self.args.should_save:
                (checkpoint / MANIFEST).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:  # older ones go only after this one is known to be whole
            write_manifest(checkpoint)
            delete_old_checkpoints(checkpoint, limit)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.ema is not None and self.args.should_save:
            safetensors.torch.save_file(self.ema.shadow, Path(output_dir) / EMA)
        if self.args.should_save:
            record = json.dumps({"updates": self.skipped_updates})
            (Path(output_dir) / SKIPPED).write_text(record, encoding="utf-8")
        save_data_state(
            self.stream,
            Path(output_dir),
            update=self.state.global_step,
            process=self.args.process_index,
            processes=self.args.world_size,
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_data_state(self.stream, Path(checkpoint))
        if checkpoint is not None and self.ema is not None:
            saved = safetensors.torch.load_file(Path(checkpoint) / EMA)
            self.ema.shadow = {
                name: saved[name].to(shadow.device) for name, shadow in self.ema.shadow.items()
            }
        if checkpoint is not None and (Path(checkpoint) / SKIPPED).is_file():
            record = (Path(checkpoint) / SKIPPED).read_text(encoding="utf-8")
            self.skipped_updates = json.loads(record)["updates"]

    def save_model_to(self, model: Any, folder: Path) -> None:
        """Saves one model, as ``from_pretrained`` loads it."""
        model.save_pretrained(folder)

    def save_to(self, folder: Path) -> None:
        """Saves the model and its tokenizer, and their EMA under ``ema/``; other files stay."""
        if not self.args.should_save:
            return
        model = self.accelerator.unwrap_model(self.model)

        def save(path: Path) -> None:
            models = {path: model}
            if self.ema is not None:
                models[path / "ema"] = self.ema.averaged(model)
            for place, each in models.items():
                self.save_model_to(each, place)
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(place)

        save_into(folder, save)


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


class Records(TrainerCallback):
    """Appends every record to ``metrics.jsonl``; a resumed run first drops what it will redo."""

    def __init__(self, output: Path) -> None:
        self.path = output / METRICS

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
        keep_records(self.path, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Appends one record."""
        if not state.is_world_process_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Refuses a tokenizer that is not the model's.

    Raises:
        ValueError: If sizes or MASK differ.
    """
    if tokenizer is None:
        return
    size, mask = model.config.vocab_size, model.config.mask_token_id
    if len(tokenizer) != size or tokenizer.mask_token_id != mask:
        raise ValueError(
            f"the model's vocabulary has {size} ids with MASK {mask}, the tokenizer's "
            f"{len(tokenizer)} with MASK {tokenizer.mask_token_id}; use the model's own tokenizer"
        )
