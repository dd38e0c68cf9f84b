"""What a run will ask for: updates, tokens, operations, bytes, and the hours that they take."""

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.trainer_utils import SaveStrategy

from sdtt.diffusion.denoiser import follows_order
from sdtt.diffusion.noise import SCHEDULES
from sdtt.training.config import StreamConfig
from sdtt.training.disk import moments_of
from sdtt.training.flops import (
    Network,
    distillation_flops,
    masked_share,
    passes_of_round,
    shape_of,
    training_flops,
    whole_order_flops,
)
from sdtt.training.gpu_hours import HOUR, GpuHours
from sdtt.training.memory import Memory, checkpoint_bytes, memory_of
from sdtt.training.peak import Peak
from sdtt.training.pretrain import MDLMTrainer, PretrainConfig, has_whole_orders
from sdtt.training.probe import Probe
from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.sharing import accumulation_steps
from sdtt.training.teacher import DTYPES


@dataclass(frozen=True)
class Stage:
    """A round of a distillation, or all of a pretraining.

    Attributes:
        teacher_steps: Sampling steps of the teacher; None in pretraining.
        student_steps: Sampling steps of the student; None in pretraining.
        updates: How many.
        learning_rate: AdamW's, after the warm-up.
        teacher_passes: Expected passes of the teacher over a text; None in pretraining.
        tokens: That the network is trained on; of texts of variable length the mean.
        flops: Operations that the mathematics needs, over all devices.
        hours: None where nothing says how fast they go.
    """

    teacher_steps: int | None
    student_steps: int | None
    updates: int
    learning_rate: float
    teacher_passes: float | None
    tokens: int
    flops: float
    hours: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What a run will ask for.

    Attributes:
        parameters: Of the network that is trained.
        texts: Of an update, over all devices.
        length: L.
        devices: Processes, each with a device of its own.
        stages: Rounds, or the one of a pretraining.
        memory: On each device.
        checkpoint_bytes: One checkpoint.
        disk_bytes: All that the run holds at most: checkpoints and students with their EMA.
        peak: The rate of a device.
        basis: What the hours are estimated from, in words.
        probe: None where there was none.
        gpus: The hours of GPUs that were asked for.
    """

    parameters: int
    texts: int
    length: int
    devices: int
    stages: tuple[Stage, ...]
    memory: Memory
    checkpoint_bytes: int
    disk_bytes: int
    peak: Peak
    basis: str = "nothing: no probe, and no share of the peak rate assumed"
    probe: Probe | None = None
    gpus: tuple[GpuHours, ...] = ()

    @property
    def updates(self) -> int:
        """Of all stages."""
        return sum(stage.updates for stage in self.stages)

    @property
    def tokens(self) -> int:
        """Of all stages."""
        return sum(stage.tokens for stage in self.stages)

    @property
    def flops(self) -> float:
        """Of all stages."""
        return sum(stage.flops for stage in self.stages)

    @property
    def hours(self) -> float | None:
        """Of all stages; None where nothing says how fast they go."""
        hours = [stage.hours for stage in self.stages if stage.hours is not None]
        return sum(hours) if len(hours) == len(self.stages) else None

    def at_rate(self, flops_per_second: float, basis: str) -> "Estimate":
        """The same with the hours that this rate gives, over all devices."""
        stages = tuple(
            replace(stage, hours=stage.flops / flops_per_second / HOUR) for stage in self.stages
        )
        return replace(self, stages=stages, basis=basis)

    def probed(self, probe: Probe) -> "Estimate":
        """The same with the hours that a probe gives."""
        updates = f"{probe.updates} update" + ("s" if probe.updates > 1 else "")
        each = f"{probe.seconds_per_update:.3g} s an update"
        basis = f"a probe of {updates} on this machine, {each}"
        return replace(self.at_rate(probe.flops_per_second, basis), probe=probe)

    def assuming(self, mfu: float) -> "Estimate":
        """The same with the hours that a share of the peak rate gives.

        Raises:
            ValueError: If the peak rate is not known.
        """
        if self.peak.flops_per_second is None:
            raise ValueError(f"no hours from an assumed MFU: {self.peak.source}")
        rate = mfu * self.peak.flops_per_second * self.devices
        return self.at_rate(rate, f"an assumed MFU of {mfu:g} of {self.peak.source}")


def estimate_of_distillation(
    args: SDTTConfig, student: Any, peak: Peak, teacher: Any = None
) -> Estimate:
    """What a distillation will ask for.

    Args:
        args: Its config.
        student: The model; it may be on the meta device.
        peak: The rate of a device.
        teacher: The first teacher; a copy of the student if None.
    """
    network = shape_of(student)
    of_teacher = network if teacher is None else shape_of(teacher)
    length, texts = _length(student), _texts(args)
    real = _real_share(args, length)
    schedule = SCHEDULES[args.schedule]
    stages = []
    for index, end in enumerate(args.plan.ends):
        start = args.plan.start_of(index)
        now, updates = args.plan.at(start), end - start
        passes = passes_of_round(args.noise_order, schedule, now, length)
        flops = distillation_flops(
            network,
            of_teacher if index == 0 else network,
            passes,
            texts=texts,
            length=length,
        )
        stages.append(
            Stage(
                teacher_steps=now.teacher_sampling_steps,
                student_steps=now.student_sampling_steps,
                updates=updates,
                learning_rate=args.learning_rate * args.rates.factors[index],
                teacher_passes=passes.passes,
                tokens=round(updates * texts * length * real),
                flops=updates * flops.total * real,
            )
        )
    # a teacher that was made of the student shares what is not trained, unless it lies in parts
    own = network.parameters if _is_sharded(args) else network.trained
    numbers = own if teacher is None else max(of_teacher.parameters, own)
    held = (DTYPES[args.teacher_dtype] or torch.float32).itemsize * numbers
    whole = args.merge_lora or not hasattr(student, "peft_config")  # with the adapters beside it
    each_student = 4 * (network.parameters if whole else network.trained)
    students = each_student * (2 if args.ema_decay else 1) * len(stages)
    return _estimate(args, student, network, peak, tuple(stages), held, students)


def estimate_of_pretraining(args: PretrainConfig, model: Any, peak: Peak) -> Estimate:
    """What a pretraining will ask for; see ``estimate_of_distillation``."""
    network = shape_of(model)
    length, texts = _length(model), _texts(args)
    real = _real_share(args, length)
    twice = has_whole_orders(args, model)
    if twice:
        flops = whole_order_flops(network, texts=texts, length=length)
    else:
        smallest = MDLMTrainer.smallest_time
        share = 1.0 if network.causal else masked_share(SCHEDULES[args.schedule], smallest)
        flops = training_flops(network, texts=texts, length=length, rows=share * texts * length)
    stage = Stage(
        teacher_steps=None,
        student_steps=None,
        updates=args.max_steps,
        learning_rate=args.learning_rate,
        teacher_passes=None,
        tokens=round(args.max_steps * texts * length * real),
        flops=args.max_steps * flops.total * real,
    )
    result = 4 * (network.parameters + (network.trained if args.ema_decay else 0))
    return _estimate(args, model, network, peak, (stage,), 0, result, passes=2 if twice else 1)


def _estimate(
    args: StreamConfig,
    model: Any,
    network: Network,
    peak: Peak,
    stages: tuple[Stage, ...],
    teacher_bytes: int,
    results: int,
    passes: int = 1,
) -> Estimate:
    length, texts = _length(model), args.per_device_train_batch_size
    ema, moments = bool(args.ema_decay), moments_of(args.optim)
    checkpoint = checkpoint_bytes(
        network,
        teacher_bytes=teacher_bytes,
        ema=ema,
        moments=moments,
        adapters=hasattr(model, "peft_config"),
    )
    saves = _saves(args, sum(stage.updates for stage in stages))
    # a checkpoint is written before the oldest one goes
    kept = saves if args.save_total_limit is None else min(saves, args.save_total_limit + 1)
    eager = args.attn_implementation == "eager"
    shards = args.world_size if _is_sharded(args) else 1
    if getattr(args, "teacher_sharding", "") == "sharded":
        teacher_bytes //= shards
    away = args.ema_device == "cpu" and args.device.type != "cpu"
    return Estimate(
        parameters=network.parameters,
        texts=_texts(args),
        length=length,
        devices=args.world_size,
        stages=stages,
        memory=memory_of(
            network,
            texts=texts,
            length=passes * length,  # of whole orders each token passes visible and masked
            rows=texts * length,
            teacher_bytes=teacher_bytes * (2 if getattr(args, "pack_teacher", False) else 1),
            ema=ema and not away,
            moments=moments,
            half=args.bf16 or args.fp16,
            eager_heads=model.config.num_attention_heads if eager else 0,
            hides_keys=follows_order(model),
            checkpointing=bool(
                getattr(args, "activation_checkpointing", False) or args.gradient_checkpointing
            ),
            shards=shards,
            device=args.device,
        ),
        checkpoint_bytes=checkpoint,
        disk_bytes=kept * checkpoint + results,
        peak=peak,
    )


def _is_sharded(args: StreamConfig) -> bool:
    """Whether weights are sharded over processes, by the config or by ``accelerate launch``."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _saves(args: StreamConfig, updates: int) -> int:
    """How often a run saves: regularly, and at its end."""
    if args.save_strategy == SaveStrategy.NO:
        return 0
    every = args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * updates)
    return math.ceil(updates / every)


def _length(model: Any) -> int:
    length: int = model.config.max_position_embeddings
    return length


def _texts(args: StreamConfig) -> int:
    """Of an update over all devices.

    Raises:
        ValueError: If they cannot be shared evenly, as the run would.
    """
    accumulation_steps(
        args.global_batch_size,
        processes=args.world_size,
        per_device=args.per_device_train_batch_size,
        given=args.gradient_accumulation_steps,
    )
    return args.texts_per_update


def _real_share(args: StreamConfig, length: int) -> float:
    """The mean share of an update's tokens that are no padding: a cut text has (L + 1) / 2."""
    return 1 - args.variable_length * (length - 1) / (2 * length)
