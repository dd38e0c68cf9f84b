"""Training on many processes: DDP as transformers does it, FSDP2 by ``sharding.shard``."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from sdtt.training.ema import with_weights
from sdtt.training.sharding import (
    fill,
    fill_optimizer,
    gathered,
    is_sharded,
    ready,
    shard,
    shard_teacher,
    sharded_copy,
    whole_optimizer_state,
)

ASKED = "ACCELERATE_USE_FSDP"
"""What ``accelerate launch`` sets where its config asks for FSDP."""


@dataclass(frozen=True)
class Sharding:
    """How models are sharded in this run; what ``sharding.shard`` takes.

    Attributes:
        mesh: Of all processes.
        reshard_blocks: Free a block's whole weights after its forward pass.
        block_dtype: Blocks are gathered in it.
    """

    mesh: DeviceMesh
    reshard_blocks: bool
    block_dtype: torch.dtype | None

    @property
    def how(self) -> dict[str, Any]:
        """As keyword arguments."""
        return dict(vars(self))


def sharding_of(args: TrainingArguments) -> Sharding | None:
    """The sharding that accelerate's config (``distributed_type: FSDP``) or ``fsdp`` asks for.

    Args:
        args: The run's; ``gather_dtype`` among them, where blocks are to be gathered in another.

    Raises:
        ValueError: If it asks for what ``sharding.shard`` does not do.
    """
    if args.fsdp_plugin_args is not None:
        plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)
    elif os.environ.get(ASKED, "false").lower() == "true":
        plugin = FullyShardedDataParallelPlugin()
    else:
        return None
    check_plugin(plugin)
    if not torch.distributed.is_initialized():
        return None  # one process, without a launcher
    in_bfloat16 = getattr(args, "gather_dtype", "float32") == "bfloat16"
    return Sharding(
        mesh=init_device_mesh(args.device.type, (args.world_size,)),
        reshard_blocks=bool(plugin.reshard_after_forward),
        block_dtype=torch.bfloat16 if in_bfloat16 else None,
    )


def check_plugin(plugin: FullyShardedDataParallelPlugin) -> None:
    """Refuses settings of accelerate that ``sharding.shard`` would not follow.

    Raises:
        ValueError: Naming the setting.
    """
    refused = {
        "fsdp_version must be 2": plugin.fsdp_version != 2,
        "fsdp_offload_params must be false": _offloads(plugin),
        "fsdp_cpu_ram_efficient_loading must be false: every process reads the model": (
            plugin.cpu_ram_efficient_loading
        ),
        "fsdp_activation_checkpointing must be false; use activation_checkpointing": (
            plugin.activation_checkpointing
        ),
        "fsdp_state_dict_type must be FULL_STATE_DICT: checkpoints are whole": (
            "FULL" not in str(plugin.state_dict_type)
        ),
    }
    for words, wrong in refused.items():
        if wrong:
            raise ValueError(f"{words} (see configs/accelerate/fsdp2.yaml)")


def _offloads(plugin: FullyShardedDataParallelPlugin) -> bool:
    return "CPUOffload" in type(plugin.cpu_offload).__name__ or plugin.cpu_offload is True


@contextmanager
def _unseen_by_accelerate(args: TrainingArguments) -> Iterator[None]:
    """Accelerate learns of the processes, but not that they share the weights.

    It would put the head, which our losses read inside the model's forward, into a group that is
    whole only in the head's own; and on a CPU it would not shard at all.
    """
    plugin, asked = args.fsdp_plugin_args, os.environ.pop(ASKED, None)
    args.fsdp_plugin_args = None
    try:
        yield
    finally:
        args.fsdp_plugin_args = plugin
        if asked is not None:
            os.environ[ASKED] = asked


class ParallelTrainer(Trainer):
    """A Trainer whose models may be sharded, and whose checkpoints do not show it.

    A checkpoint holds whole tensors under the names and in the order of one process, so it is taken
    up by any number of processes, sharded or not.
    """

    sharding: Sharding | None
    model: PreTrainedModel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.sharding is not None:
            # transformers' own switch for a model that places and reduces for itself: no DDP
            if not hasattr(self, "is_distributed_loading_by_transformers"):
                raise ValueError(
                    f"FSDP2 needs a newer transformers than {transformers.__version__}; "
                    "it is tested with 5.23"
                )
            if hasattr(self.model, "peft_config"):
                raise ValueError(
                    "a LoRA student cannot be sharded: its adapters are small; use DDP "
                    "(configs/accelerate/ddp.yaml)"
                )
            shard(self.model, **self.sharding.how)
            self.is_distributed_loading_by_transformers = True

    def create_accelerator_and_postprocess(self) -> None:
        """As transformers does it, but for FSDP.

        Raises:
            ValueError: If tensors or contexts are to be split as well.
        """
        asked = os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() == "true"
        if asked or getattr(self.args, "parallelism_config", None) is not None:
            raise ValueError(
                "parallelism_config cannot be set: processes share texts, and under FSDP2 weights; "
                "no tensors, contexts or replicated groups"
            )
        with _unseen_by_accelerate(self.args):
            super().create_accelerator_and_postprocess()
        self.sharding = sharding_of(self.args)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if self.sharding is None:  # else it is moved in parts
            super()._move_model_to_device(model, device)

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        model: Any = self.model
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)

    # ---------------------------------------------------------------- models in one piece

    def whole_model(self, weights: Mapping[str, Tensor] | None = None) -> Any:
        """The trained model in one piece, in the processes that save; None in the others.

        All processes must ask.

        Args:
            weights: Parameters by name, to take in place of the model's; it is a copy then.
        """
        return self.whole(self.accelerator.unwrap_model(self.model), weights)

    def whole(self, model: Any, weights: Mapping[str, Tensor] | None = None) -> Any:
        """``whole_model`` of another model, such as the teacher."""
        if is_sharded(model):
            return gathered(model, weights, keep=self.args.should_save)
        if not self.args.should_save:
            return None
        return model if weights is None else with_weights(model, weights)

    def successor(
        self, weights: Mapping[str, Tensor] | None = None, *, sharded: bool = False
    ) -> Any:
        """A copy of the trained model as it is now, or with other weights: the next teacher.

        Args:
            weights: Parameters by name, to take in place of the model's.
            sharded: Whether it is to be in parts too.
        """
        model = self.accelerator.unwrap_model(self.model)
        if self.sharding is None:
            return with_weights(model, weights or {})
        if sharded:
            return sharded_copy(model, weights, **self.sharding.how)
        return gathered(model, weights, device=self.args.device)

    def placed_teacher(self, teacher: Any, *, sharded: bool) -> Any:
        """A frozen teacher on the devices of this run, whole or in parts."""
        teacher.eval().requires_grad_(False)
        if not sharded:
            nn.Module.to(teacher, self.args.device)
            return teacher
        assert self.sharding is not None  # the config was checked
        with self.accelerator.autocast():
            if is_sharded(teacher):
                return ready(teacher)
            return shard_teacher(teacher, **self.sharding.how)

    # ---------------------------------------------------------------- checkpoints

    def write(self, save: Callable[[], None]) -> None:
        """Writes files of a checkpoint; a subclass may put a failure off until all have met."""
        save()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.sharding is not None:
            whole = self.whole_model()
            if whole is None:
                return
            state_dict = whole.state_dict()
        save = super()._save
        self.write(lambda: save(output_dir, state_dict))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.sharding is None:
            save = super()._save_optimizer_and_scheduler
            self.write(lambda: save(output_dir))
            return
        state = whole_optimizer_state(self.optimizer, keep=self.args.should_save)
        assert self.lr_scheduler is not None  # training has begun
        schedule, folder = self.lr_scheduler.state_dict(), Path(output_dir)
        if self.args.should_save:
            self.write(lambda: torch.save(state, folder / OPTIMIZER_NAME))
            self.write(lambda: torch.save(schedule, folder / SCHEDULER_NAME))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        if self.sharding is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        fill(self.model, saved_weights(Path(resume_from_checkpoint)))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.sharding is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        state = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        fill_optimizer(self.optimizer, state)
        assert self.lr_scheduler is not None  # training has begun
        scheduler = torch.load(folder / SCHEDULER_NAME, map_location="cpu", weights_only=True)
        self.lr_scheduler.load_state_dict(scheduler)


def saved_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that ``save_pretrained`` wrote, in one file or several."""
    return {
        name: value
        for file in sorted(folder.glob("model*.safetensors"))
        for name, value in safetensors.torch.load_file(file).items()
    }
