"""Self-Distillation Through Time (Deschenaux & Gulcehre, ICLR 2025, arXiv 2410.21035)."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import SchedulerType

from sdtt.diffusion.denoiser import as_denoiser
from sdtt.diffusion.divergence import DIVERGENCES
from sdtt.diffusion.noise import mask, teacher_times
from sdtt.diffusion.rollout import rollout
from sdtt.diffusion.tiled import tiled_divergence
from sdtt.training.flops import Flops, distillation_flops, expected_passes, network_of
from sdtt.training.monitor import mean_since
from sdtt.training.rounds import Round, RoundPlan
from sdtt.training.state import TEACHER, TEACHER_ROUND
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
        model: The student; it starts from the weights it has.
        teacher_model: The first teacher; a copy of the student if None, or the student itself.
        args: The config.
        train_dataset: Texts of L ids.
        processing_class: The tokenizer.
        **kwargs: As transformers' Trainer takes them.

    Raises:
        ValueError: If student and teacher have different vocabularies, or are no denoisers.
    """

    args: SDTTConfig

    def __init__(
        self,
        model: PreTrainedModel,
        teacher_model: PreTrainedModel | None = None,
        *,
        args: SDTTConfig,
        train_dataset: Any,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        given = None if teacher_model is model else teacher_model
        teacher = copy.deepcopy(model) if given is None else given
        student_side, teacher_side = as_denoiser(model), as_denoiser(teacher)
        mine = (model.config.vocab_size, student_side.excluded_ids)
        its = (teacher.config.vocab_size, teacher_side.excluded_ids)
        if mine != its:
            raise ValueError(
                f"student and teacher need one vocabulary, got sizes {mine[0]} and {its[0]}, "
                f"excluded ids {mine[1]} and {its[1]}"
            )
        set_dropout(model, args.student_dropout)
        super().__init__(model, args, train_dataset, processing_class, **kwargs)
        self.plan = args.plan
        self.teacher_round = 0
        self._set_teacher(teacher)

    def _set_teacher(self, teacher: PreTrainedModel) -> None:
        teacher.set_attn_implementation(self.args.attn_implementation)
        nn.Module.to(teacher, self.args.device)
        self.teacher: Any = teacher.eval().requires_grad_(False)

    @property
    def round(self) -> Round:
        """The round of the update at hand."""
        return self.plan.at(self.state.global_step)

    @property
    def last_round(self) -> Round:
        """The round of the update that was done last; the first before any."""
        return self.plan.at(max(self.state.global_step - 1, 0))

    @property
    def student_steps(self) -> int:
        """Those of the round of the update that was done last."""
        return self.last_round.student_sampling_steps

    def ends_round(self, step: int) -> bool:
        """Whether the update that makes ``step`` of them is the last of its round."""
        return self.plan.ends_at(step - 1)

    def update_flops(self) -> Flops:
        """The student's pass and backward pass, the teacher's passes, the rows projected."""
        now = self.last_round
        k = now.teacher_sampling_steps // now.student_sampling_steps
        return distillation_flops(
            self.network,
            network_of(self.teacher),
            expected_passes(self.schedule, now.dt, k, self.length),
            texts=self.stream.batch,
            length=self.length,
        )

    def items(self, x: Tensor, places: list[int]) -> int:
        """Masked positions."""
        return int(self.noise(places, x.shape[1]).masked(self.schedule).sum())

    def loss_sum(self, model: nn.Module, x: Tensor, places: list[int]) -> Tensor:
        """The divergence summed over the masked positions."""
        self._follow_rounds()
        teacher = self.teacher
        noise = self.noise(places, x.shape[1])
        z = mask(x, noise.masked(self.schedule).to(x.device), teacher.mask_token_id)
        rows = (z == teacher.mask_token_id).flatten().nonzero().squeeze(-1)
        self.monitor.count(len(rows))
        if len(rows):
            times = teacher_times(noise.t, self.round.dt, self.args.teacher_steps)
            with self.accelerator.autocast():
                target = rollout(teacher, z, noise.u, noise.v, times, self.schedule).hidden
        else:
            target = teacher.head.weight[:0]

        def objective(hidden: Tensor, head: Any) -> Tensor:
            if self.compares:
                self.monitor.compare(hidden, head, target, teacher.head, teacher.excluded_ids)
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
            self._set_teacher(copy.deepcopy(student))
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
        """Adds the round to every record, and the mean loss of the round so far."""
        now = self.last_round
        logs["round"] = now.index + 1
        logs["student_sampling_steps"] = now.student_sampling_steps
        if "loss" in logs:
            record = logs | {"step": self.state.global_step}
            logs["round_loss"] = mean_since(self.state.log_history, record)
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            safetensors.torch.save_model(self.teacher, str(Path(output_dir) / TEACHER))
            record = json.dumps({"round": self.teacher_round})
            (Path(output_dir) / TEACHER_ROUND).write_text(record, encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        record = (Path(checkpoint) / TEACHER_ROUND).read_text(encoding="utf-8")
        self.teacher_round = json.loads(record)["round"]
        if self.teacher_round > 0:  # from then on the teacher has the student's shape
            self._set_teacher(copy.deepcopy(self.accelerator.unwrap_model(self.model)))
        safetensors.torch.load_model(self.teacher, str(Path(checkpoint) / TEACHER))


def set_dropout(model: nn.Module, chance: float) -> None:
    """Sets the dropout of every layer, and of the config that is saved with the model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = chance
    if hasattr(model, "config") and hasattr(model.config, "dropout"):
        model.config.dropout = chance
