"""Self-Distillation Through Time (Deschenaux & Gulcehre, ICLR 2025, arXiv 2410.21035)."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from sdtt.data.rows import as_texts
from sdtt.diffusion.divergence import Divergence, divergence_named
from sdtt.diffusion.noise import SCHEDULES, TIME_GRIDS, mask
from sdtt.diffusion.rollout import rollout
from sdtt.diffusion.tiled import tiled_divergence
from sdtt.models.adapters import network_of
from sdtt.training.early_stop import Plateau, shares
from sdtt.training.ema import with_weights
from sdtt.training.flops import Flops, distillation_flops, passes_of_round, shape_of
from sdtt.training.lora import save_model
from sdtt.training.monitor import mean_since
from sdtt.training.rates import (
    follow_rounds,
    set_rates,
)
from sdtt.training.rounds import SAMPLING_STEPS, Round
from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.sharding import Asked, fill, is_sharded
from sdtt.training.state import (
    TEACHER,
    TEACHER_ROUND,
    update_of,
    write_aside,
)
from sdtt.training.stream import Noise, in_dilated_order, noise_of
from sdtt.training.teacher import (
    DTYPES,
    check_teacher,
    frozen_teacher,
    load_teacher,
    packed,
    save_teacher,
)
from sdtt.training.trainer import StreamTrainer, set_attention

logger = logging.get_logger(__name__)


class SDTTTrainer(StreamTrainer):
    """Distills a student from its own earlier self, round after round [SDTT, Algorithms 1 and 2].

    The loss of an update is the mean, over all its masked positions, of the divergence between
    the student's law at ``z_t`` and the law that k teacher steps decided the position under.
    After each round the student is saved under ``students/<sampling steps>/``, its config says
    these steps (``sdtt_sampling_steps``), and it becomes the teacher. Optimiser and EMA run on,
    unless told otherwise. With ``early_stop_interval`` a round ends when the divergence on
    held-out texts has stopped falling, and the run when its last round ends.

    Args:
        model: The student; it starts from the weights it has. Weights that are not trained, such as
            the base of a ``peft`` model, are shared with the teacher.
        teacher_model: The first teacher, any ``Denoiser`` of the student's vocabulary; the student
            as it is now if None.
        args: The config.
        train_dataset: Texts of L ids.
        processing_class: The tokenizer.
        eval_dataset: Held-out texts of L ids, for the early stop.
        **kwargs: As transformers' Trainer takes them.

    Raises:
        ValueError: If student and teacher have different vocabularies, or are no denoisers, or the
            texts are too long for the teacher; if a round may end early and there is no held-out
            text; if the rate shall follow the rounds and a schedule is given.
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
        eval_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        eval_dataset = None if eval_dataset is None else as_texts(eval_dataset)
        if args.early_stop_interval and (eval_dataset is None or len(eval_dataset) == 0):
            raise ValueError(
                f"early_stop_interval={args.early_stop_interval} measures held-out texts, and "
                "there are none: give an eval_dataset (a --validation-fraction above 0)"
            )
        self.rates = args.rates
        if not self.rates.change_nothing and kwargs.get("optimizers", (None, None))[1] is not None:
            raise ValueError(
                "the learning rate of rounds is a factor over the schedule of the config: give no "
                "scheduler in optimizers, or no rates of rounds"
            )
        set_dropout(model, args.student_dropout)
        super().__init__(
            model, args, train_dataset, processing_class, eval_dataset=eval_dataset, **kwargs
        )
        if args.teacher_sharding == "sharded" and self.sharding is None:
            raise ValueError(
                "teacher_sharding='sharded' needs FSDP2 on several processes "
                "(configs/accelerate/fsdp2.yaml); otherwise the teacher is 'replicated'"
            )
        warmup = args.get_warmup_steps(args.max_steps)
        if warmup >= args.max_steps and args.should_save:
            logger.warning(
                f"the warm-up of {warmup} updates is no shorter than the run of {args.max_steps}: "
                f"the learning rate never reaches {args.learning_rate}; lower warmup_steps"
            )
        if args.noise_order == "dilated":
            # n of N steps hide n / N of a text, whatever the process, and that share is told
            self.schedule = SCHEDULES["log_linear"]
        self.plan = args.plan
        self.plateau = Plateau()
        self.time_grid = TIME_GRIDS[args.time_grid]
        self.teacher_round = 0
        self._set_teacher(model if teacher_model is None else teacher_model)
        length = self.stream.length
        check_teacher(network_of(model), self.teacher, length)

    def _set_teacher(self, source: Any, weights: Mapping[str, Tensor] | None = None) -> None:
        """Makes the teacher of a round: what is trained is copied, the rest is shared.

        Args:
            source: The student, or another denoiser.
            weights: Parameters of the student by name, to take in place of its own.
        """
        self.teacher: Any = None  # the last one goes before there is the next
        self.acting: Any = None
        sharded, dtype = self.args.teacher_sharding == "sharded", DTYPES[self.args.teacher_dtype]
        if is_sharded(source):  # the student: in parts at once, or whole to be cast first
            source = self.successor(weights, sharded=sharded and dtype is None)
        elif weights is not None:
            source = with_weights(source, weights)
        teacher = source if is_sharded(source) else frozen_teacher(source, self._sharer(), dtype)
        if hasattr(teacher, "set_attn_implementation"):
            set_attention(teacher, self.args.attn_implementation)
        if isinstance(teacher, nn.Module):
            teacher = self.placed_teacher(teacher, sharded=sharded)
        self.teacher = teacher
        self._prepare_acting()

    def _sharer(self) -> nn.Module:
        """Whose weights the teacher may share: the student's, unless they lie in parts."""
        student = self.accelerator.unwrap_model(self.model)
        return student if self.sharding is None else nn.Module()

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
    def is_done(self) -> bool:
        """Whether the last round has ended."""
        return self.plan.is_over or super().is_done

    @property
    def round(self) -> Round:
        """The round of the update at hand."""
        return self.plan.at(self.state.global_step)

    @property
    def last_round(self) -> Round:
        """The round of the update that was done last; the first before any."""
        return self.plan.at(max(self.state.global_step - 1, 0))

    def where(self) -> dict[str, float]:
        """The round of the update that was done last, from 1, and its student's steps."""
        now = self.last_round
        return {"round": now.index + 1, "student_sampling_steps": now.student_sampling_steps}

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
        return distillation_flops(
            self.network,
            shape_of(self.teacher),
            passes_of_round(self.args.noise_order, self.schedule, now, self.stream.length),
            texts=self.stream.batch,
            length=self.stream.length,
        )

    def items(self, x: Tensor, places: list[int]) -> int:
        """Masked positions."""
        return int(self.noise_ahead(places, x.shape[1]).masked(self.schedule).sum())

    def noise(self, places: list[int], length: int) -> Noise:
        """The noise of the texts at these places of one update, in the order of its round."""
        update = min(places, default=0) // self.stream.batch
        return self._in_order(super().noise(places, length), self.plan.at(update))

    def _in_order(self, noise: Noise, now: Round) -> Noise:
        """The noise as the student of a round shall meet it."""
        if self.args.noise_order == "random":
            return noise
        steps, parts = now.student_sampling_steps, now.teacher_steps
        return in_dilated_order(noise, steps, parts, self.schedule)

    def loss_sum(self, model: nn.Module, x: Tensor, places: list[int]) -> Tensor:
        """The divergence summed over the masked positions."""
        self._follow_rounds()
        noise = self.noise_of_loss(places, x.shape[1])
        return self._divergence_sum(model, x, noise, self.round)

    def _divergence(self) -> Divergence:
        """The divergence that the config names."""
        return divergence_named(self.args.divergence, beta=self.args.jsd_beta)

    def _divergence_sum(self, model: nn.Module, x: Tensor, noise: Noise, now: Round) -> Tensor:
        """The divergence from the targets of a round, summed over the masked positions."""
        teacher = Asked(self.acting)
        real = noise.attention_mask(x.device)
        z = mask(x, noise.masked(self.schedule).to(x.device), teacher.mask_token_id)
        rows = (z == teacher.mask_token_id).flatten().nonzero().squeeze(-1)
        if torch.is_grad_enabled():  # held-out texts are not trained on
            self.monitor.count(len(rows))
        if len(rows):
            times = self.time_grid(noise.t, now.dt, now.teacher_steps, self.schedule)
            with self._precision():
                seen = noise.order_for(self.acting, z.device).get("revealed")
                target = rollout(
                    teacher, z, noise.u, noise.v, times, self.schedule, real, seen
                ).hidden
        else:
            target = teacher.head.weight[:0]
        with self._precision():
            teacher.make_up(now.teacher_steps)

        def objective(hidden: Tensor, head: Any) -> Tensor:
            if torch.is_grad_enabled() and self.compares:
                self.monitor.compare(hidden, head, target, teacher.head, teacher.excluded_ids)
            return tiled_divergence(
                hidden,
                head,
                target,
                teacher.head,
                self._divergence(),
                excluded_ids=teacher.excluded_ids,
                dtype=self.loss_dtype,
                products=self.loss_products,
                temperature=self.args.divergence_temperature,
            )

        told = noise.told(self.schedule).to(x.device)
        order = noise.order_for(self.accelerator.unwrap_model(self.model), x.device)
        loss: Tensor = model(
            input_ids=z, attention_mask=real, t=told, rows=rows, objective=objective, **order
        ).loss
        return loss

    def _follow_rounds(self) -> None:
        """At the first update of a round the student becomes the teacher."""
        now = self.round.index
        if now == self.teacher_round:
            return
        student = self.accelerator.unwrap_model(self.model)
        average = self.ema if self.args.teacher_from == "ema" else None
        self._set_teacher(student, None if average is None else average.shadow)
        if self.args.reset_optimizer and self.optimizer is not None:
            self.optimizer.state.clear()
        if self.args.reset_ema and self.ema is not None:
            self.ema.restart(student)
        self.teacher_round = now

    def after_update(self) -> None:
        """EMA; whether the round still gains; and the student of a round that is done."""
        super().after_update()
        if self._nothing_to_learn:  # a mean over masked positions; of the NELBO 0 is an estimate
            self.guard.count_out()
        update = self.state.global_step - 1
        if not (self._is_at_a_plateau(update) or self.plan.ends_at(update)):
            return
        self.plan = self.plan.ended(update + 1)
        self.plateau = Plateau()
        student = self.accelerator.unwrap_model(self.model)
        setattr(student.config, SAMPLING_STEPS, self.plan.at(update).student_sampling_steps)
        output = Path(self.args.output_dir or ".")
        self.save_to(output / "students" / self.plan.folder_of(update))
        if isinstance(self.lr_scheduler, LambdaLR) and not self.rates.change_nothing:
            set_rates(self.lr_scheduler)
        if self.plan.is_over:
            self.control.should_training_stop = True
            self.control.should_save |= self.args.save_strategy == SaveStrategy.STEPS

    def _is_at_a_plateau(self, update: int) -> bool:
        """Measures the held-out texts when it is time, and says whether the round shall end."""
        now = self.plan.at(update)
        done, interval = update + 1 - self.plan.start_of(now.index), self.args.early_stop_interval
        if interval == 0 or done % interval:
            return False
        begun = time.perf_counter()
        divergence = self.held_out_divergence(now)
        self.plateau = self.plateau.after(divergence, self.args.early_stop_min_delta)
        record = {
            "held_out_divergence": divergence,
            "measurements_without_fall": self.plateau.stale,
            "round": now.index + 1,
            "student_sampling_steps": now.student_sampling_steps,
        }
        self.record(record, time.perf_counter() - begun)
        return self.plateau.stale >= self.args.early_stop_patience

    @torch.no_grad()
    def held_out_divergence(self, now: Round) -> float:
        """The divergence from a round's targets on held-out texts, in nats a masked position.

        Of the first ``early_stop_texts`` texts of ``eval_dataset``, under noise that is a function
        of the seed and the text: only the student and its teacher make a difference. Several
        processes share the texts, and all get the sum.
        """
        texts: Any = self.eval_dataset
        count = min(len(texts), self.args.early_stop_texts)
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        size, index = self.args.per_device_train_batch_size, self.args.process_index
        for names, counts in shares(count, size, index, self.args.world_size):
            x = torch.stack([texts[name] for name in names]).to(self.args.device)
            noise = noise_of(
                list(names),
                length=x.shape[1],
                batch=count,
                seed=self.args.seed,
                smallest_time=self.smallest_time,
                purpose="held-out/",
            )
            noise = self._in_order(noise, now)
            loss = self._divergence_sum(model, x, noise, now).cpu().double()
            if counts:
                total += torch.stack([loss, noise.masked(self.schedule).sum().double()])
        model.train(was_training)
        if self.args.world_size > 1:
            gathered = self.accelerator.gather(total[None].to(self.args.device))
            total = gathered.sum(0).cpu()
        return float(total[0] / total[1].clamp_min(1))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of the config, times the factors of the rounds."""
        is_new = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if is_new and not self.rates.change_nothing:
            if not isinstance(scheduler, LambdaLR):
                raise ValueError(
                    f"rounds cannot change the rates of a {type(scheduler).__name__}; choose "
                    "another optimiser (optim), or no rates of rounds"
                )
            follow_rounds(scheduler, lambda step: self.rates.at(self.plan, step))
        return scheduler

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """As ``StreamTrainer.train``; where the last round has ended early nothing is left to do.

        Raises:
            ValueError: If there is nothing whole to resume from, or to start anew with: student and
                teacher have gone on.
        """
        checkpoint = self._checkpoint_of(resume_from_checkpoint)
        if checkpoint is None and self.state.global_step > 0:
            raise ValueError(
                f"this trainer has done {self.state.global_step} updates, and neither its student "
                "nor its teacher is the first any more; make a new one, or resume "
                "(resume_from_checkpoint=True)"
            )
        if checkpoint is not None and self.args.early_stop_interval:
            record = _record_of(checkpoint)
            if len(record.get("ended_at", ())) == self.plan.rounds:
                self.args.max_steps = self.stream.updates = record["ended_at"][-1]
        return super().train(str(checkpoint) if checkpoint else None, trial, ignore_keys_for_eval)

    def check_room_for(self, checkpoint: Path) -> None:
        """Refuses rounds that are shorter, or fewer, than what a checkpoint has done of them.

        Raises:
            ValueError: With the least number that works.
        """
        plan, ended_at = self.args.plan, _record_of(checkpoint).get("ended_at")
        if ended_at is None:  # of a version before rounds could end early
            return
        done = update_of(checkpoint) - (ended_at[-1] if ended_at else 0)  # of the round at hand
        begun = len(ended_at) + (done > 0)
        if plan.rounds < begun:
            raise ValueError(
                f"rounds={plan.rounds} is too few to resume {checkpoint}: its round {begun} has "
                f"begun; plan {begun} rounds at least"
            )
        if done and plan.lengths[begun - 1] <= done:
            raise ValueError(
                f"steps_per_round={self.args.steps_per_round} is too few to resume {checkpoint}: "
                f"{done} updates of its round {begun} are done, and its student comes with one "
                f"more; give that round {done + 1} at least"
            )

    def complete(self, logs: dict[str, float]) -> None:
        """Adds the round to every record, and the mean loss of the round so far."""
        logs |= self.where()
        if "loss" in logs:
            record = logs | {"step": self.state.global_step}
            logs["round_loss"] = mean_since(self.state.log_history, record)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        teacher = self.whole(self.teacher)
        if teacher is not None:
            folder = Path(output_dir)
            record: dict[str, Any] = {"round": self.teacher_round, "ended_at": self.plan.ended_at}
            record |= dataclasses.asdict(self.plateau)
            self.write(lambda: save_teacher(folder / TEACHER, teacher, self._sharer()))
            self.write(lambda: write_aside(folder / TEACHER_ROUND, json.dumps(record)))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        record = _record_of(Path(checkpoint))
        self.teacher_round = record["round"]
        self.plan = dataclasses.replace(self.args.plan, ended_at=tuple(record.get("ended_at", ())))
        self.plateau = Plateau(record.get("lowest"), record.get("stale", 0))
        super()._load_optimizer_and_scheduler(checkpoint)  # rates follow from the plan
        student = self.accelerator.unwrap_model(self.model)
        if self.teacher_round > 0:  # from then on the teacher has the student's shape
            self._set_teacher(student)
        file = Path(checkpoint) / TEACHER
        if self.sharding is None:
            load_teacher(file, self.teacher, student)
        elif isinstance(self.teacher, nn.Module):
            fill(self.teacher, safetensors.torch.load_file(file))
        self._prepare_acting()  # a packed form has weights of its own

    def save_model_to(self, model: Any, folder: Path) -> None:
        """Saves one model; of a LoRA student the adapter, and the merged model if wanted."""
        save_model(model, folder, merge=self.args.merge_lora)


def _record_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its round."""
    record: dict[str, Any] = json.loads((checkpoint / TEACHER_ROUND).read_text(encoding="utf-8"))
    return record


def set_dropout(model: nn.Module, chance: float) -> None:
    """Sets the dropout of every layer but adapters', and of the config saved with the model."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = chance
    if hasattr(model, "config") and hasattr(model.config, "dropout"):
        model.config.dropout = chance
