"""Self-Distillation Through Time (Deschenaux & Gulcehre, ICLR 2025, arXiv 2410.21035)."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import SchedulerType

from sdtt.diffusion.divergence import DIVERGENCES
from sdtt.diffusion.noise import mask, teacher_times
from sdtt.diffusion.rollout import rollout
from sdtt.diffusion.tiled import tiled_divergence
from sdtt.models.adapters import network_of
from sdtt.training.lora import save_model
from sdtt.training.rounds import Round, RoundPlan
from sdtt.training.state import TEACHER, TEACHER_ROUND
from sdtt.training.teacher import (
    DTYPES,
    check_teacher,
    frozen_teacher,
    load_teacher,
    packed,
    save_teacher,
)
from sdtt.training.trainer import StreamConfig, StreamTrainer


@dataclass
class SDTTConfig(StreamConfig):
    """How a student is distilled; the defaults are the paper's, but for dropout."""

    divergence: str = field(
        default="reverse_kl",
        metadata={"help": "of student and target: reverse_kl, forward_kl, jsd, tvd or mse"},
    )
    rounds: int = field(default=5, metadata={"help": "rounds; each makes the teacher step k-fold"})
    steps_per_round: int = field(default=10_000, metadata={"help": "updates in each round"})
    teacher_steps: int = field(
        default=2, metadata={"help": "k: teacher steps that one student step replaces"}
    )
    start_steps: int = field(
        default=1024, metadata={"help": "sampling steps of the first teacher: 1 / dt"}
    )
    teacher_from: Literal["raw", "ema"] = field(
        default="raw", metadata={"help": "the next teacher: the student's raw weights or their EMA"}
    )
    teacher_dtype: Literal["same", "float32", "bfloat16", "float16"] = field(
        default="same",
        metadata={"help": "the teacher's weights and passes; same: the weights' own, autocast"},
    )
    pack_teacher: bool = field(
        default=False,
        metadata={"help": "fold the teacher, lay its weights out for a CPU; holds them once more"},
    )
    merge_lora: bool = field(
        default=True, metadata={"help": "save a LoRA student as a full model beside its adapter"}
    )
    reset_optimizer: bool = field(
        default=False, metadata={"help": "forget the optimiser's moments at each round"}
    )
    student_dropout: float = field(
        default=0.0, metadata={"help": "dropout of the student; 0.1 in the published code"}
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="constant_with_warmup", metadata={"help": "law of the learning rate"}
    )
    ema_decay: float = field(
        default=0.9999, metadata={"help": "moving average of the weights, per update; 0: none"}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be; the number of updates follows from the rounds."""
        if self.divergence not in DIVERGENCES:
            raise ValueError(
                f"unknown divergence {self.divergence!r}; there are {', '.join(DIVERGENCES)}"
            )
        if self.teacher_from not in ("raw", "ema"):
            raise ValueError(f"teacher_from must be 'raw' or 'ema', got {self.teacher_from!r}")
        if self.teacher_from == "ema" and not self.ema_decay:
            raise ValueError("teacher_from='ema' needs an EMA; set ema_decay, such as 0.9999")
        if self.teacher_dtype not in DTYPES:
            raise ValueError(
                f"teacher_dtype must be one of {', '.join(DTYPES)}, got {self.teacher_dtype!r}"
            )
        if self.pack_teacher and self.teacher_dtype == "same" and (self.bf16 or self.fp16):
            raise ValueError(
                "pack_teacher needs a teacher_dtype, such as bfloat16: packed weights are not "
                "autocast"
            )
        if not 0 <= self.student_dropout < 1:
            raise ValueError(f"student_dropout must lie in [0, 1), got {self.student_dropout}")
        self.max_steps = self.plan.updates
        super().__post_init__()

    @property
    def plan(self) -> RoundPlan:
        """The rounds."""
        return RoundPlan(self.rounds, self.steps_per_round, self.start_steps, self.teacher_steps)


class SDTTTrainer(StreamTrainer):
    """Distills a student from its own earlier self, round after round [SDTT, Algorithms 1 and 2].

    The loss of an update is the mean, over all its masked positions, of the divergence between
    the student's law at ``z_t`` and the law that k teacher steps decided the position under.
    After each round the student is saved under ``students/<sampling steps>/`` and becomes the
    teacher. Optimiser and EMA run on.

    Args:
        model: The student; it starts from the weights it has. Weights that are not trained, such as
            the base of a ``peft`` model, are shared with the teacher.
        teacher_model: The first teacher, any ``Denoiser`` of the student's vocabulary; the student
            as it is now if None.
        args: The config.
        train_dataset: Texts of L ids.
        processing_class: The tokenizer.
        **kwargs: As transformers' Trainer takes them.

    Raises:
        ValueError: If student and teacher have different vocabularies, or are no denoisers, or the
            texts are too long for the teacher.
    """

    args: SDTTConfig

    def __init__(
        self,
        model: Any,
        teacher_model: Any = None,
        *,
        args: SDTTConfig,
        train_dataset: Any,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        set_dropout(model, args.student_dropout)
        super().__init__(model, args, train_dataset, processing_class, **kwargs)
        self.plan = args.plan
        self.teacher_round = 0
        self._set_teacher(model if teacher_model is None else teacher_model)
        length = self.stream[0]["input_ids"].shape[0]
        check_teacher(network_of(model), self.teacher, length)

    def _set_teacher(self, source: Any) -> None:
        """Makes the teacher of a round: what is trained is copied, the rest is shared."""
        self.teacher: Any = None  # the last one goes before there is the next
        self.acting: Any = None
        student = self.accelerator.unwrap_model(self.model)
        teacher = frozen_teacher(source, student, DTYPES[self.args.teacher_dtype])
        if isinstance(teacher, nn.Module):
            nn.Module.to(teacher, self.args.device)
        if hasattr(teacher, "set_attn_implementation"):
            teacher.set_attn_implementation(self.args.attn_implementation)
        self.teacher = teacher
        self._prepare_acting()

    def _prepare_acting(self) -> None:
        """The form of the teacher that makes the passes: itself, or packed; compiled if asked."""
        self.acting = packed(self.teacher) if self.args.pack_teacher else self.teacher
        if self.compiled_by and hasattr(self.acting, "compile_trunk"):
            self.acting.compile_trunk(self.compiled_by)

    def _precision(self) -> Any:
        """What the teacher's passes run in: the run's autocast, or its own dtype and no other."""
        if self.args.teacher_dtype == "same":
            return self.accelerator.autocast()
        return torch.autocast(self.args.device.type, enabled=False)

    @property
    def round(self) -> Round:
        """The round of the update at hand."""
        return self.plan.at(self.state.global_step)

    def items(self, x: Tensor, places: list[int]) -> int:
        """Masked positions."""
        return int(self.noise(places, x.shape[1]).masked(self.schedule).sum())

    def loss_sum(self, model: nn.Module, x: Tensor, places: list[int]) -> Tensor:
        """The divergence summed over the masked positions."""
        self._follow_rounds()
        teacher = self.acting
        noise = self.noise(places, x.shape[1])
        z = mask(x, noise.masked(self.schedule).to(x.device), teacher.mask_token_id)
        rows = (z == teacher.mask_token_id).flatten().nonzero().squeeze(-1)
        if len(rows):
            times = teacher_times(noise.t, self.round.dt, self.args.teacher_steps)
            with self._precision():
                target = rollout(teacher, z, noise.u, noise.v, times, self.schedule).hidden
        else:
            target = teacher.head.weight[:0]

        def objective(hidden: Tensor, head: Any) -> Tensor:
            return tiled_divergence(
                hidden,
                head,
                target,
                teacher.head,
                DIVERGENCES[self.args.divergence],
                excluded_ids=teacher.excluded_ids,
                dtype=self.loss_dtype,
                products=self.loss_products,
            )

        loss: Tensor = model(input_ids=z, rows=rows, objective=objective).loss
        return loss

    def _follow_rounds(self) -> None:
        """At the first update of a round the student becomes the teacher."""
        now = self.round.index
        if now == self.teacher_round:
            return
        student = self.accelerator.unwrap_model(self.model)
        if self.args.teacher_from == "ema" and self.ema is not None:
            self._set_teacher(self.ema.averaged(student))
        else:
            self._set_teacher(student)
        if self.args.reset_optimizer and self.optimizer is not None:
            self.optimizer.state.clear()
        self.teacher_round = now

    def after_update(self) -> None:
        """EMA; and the student of a round that is done."""
        super().after_update()
        update = self.state.global_step - 1
        if self.plan.ends_at(update):
            output = Path(self.args.output_dir or ".")
            self.save_to(output / "students" / self.plan.folder_of(update))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the round to every record."""
        now = self.plan.at(max(self.state.global_step - 1, 0))
        logs["round"] = now.index + 1
        logs["student_sampling_steps"] = now.student_sampling_steps
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            student = self.accelerator.unwrap_model(self.model)
            save_teacher(Path(output_dir) / TEACHER, self.teacher, student)
            record = json.dumps({"round": self.teacher_round})
            (Path(output_dir) / TEACHER_ROUND).write_text(record, encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        record = (Path(checkpoint) / TEACHER_ROUND).read_text(encoding="utf-8")
        self.teacher_round = json.loads(record)["round"]
        student = self.accelerator.unwrap_model(self.model)
        if self.teacher_round > 0:  # from then on the teacher has the student's shape
            self._set_teacher(student)
        load_teacher(Path(checkpoint) / TEACHER, self.teacher, student)
        self._prepare_acting()  # a packed form has weights of its own

    def save_model_to(self, model: Any, folder: Path) -> None:
        """Saves one model; of a LoRA student the adapter, and the merged model if wanted."""
        save_model(model, folder, merge=self.args.merge_lora)


def set_dropout(model: nn.Module, chance: float) -> None:
    """Sets the dropout of every layer but adapters', and of the config saved with the model."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = chance
    if hasattr(model, "config") and hasattr(model.config, "dropout"):
        model.config.dropout = chance
