"""FSDP2: a model in parts on many processes, and whole again where that is wanted.

Each block is a group, whose weights are whole only while the block runs. All else (embedding,
final norm, head, conditioning) is the group of the root, which is whole while the model's
``forward`` runs: our losses are computed in there and read the head's weight, not its output. In a
group of its own the head would be whole only while its own ``forward`` runs, which nobody calls.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

Model = TypeVar("Model", bound=nn.Module)

SKELETON = "_skeleton"
"""Where a sharded model keeps what it was before, without weights."""


def is_sharded(model: object) -> bool:
    """Whether ``shard`` has been here."""
    return isinstance(model, FSDPModule)


def shard(
    model: Model,
    mesh: DeviceMesh | None = None,
    *,
    reshard_blocks: bool = True,
    block_dtype: torch.dtype | None = None,
) -> Model:
    """Shards a model in place: its parameters become DTensors, split along their first dimension.

    Args:
        model: Its blocks are the modules that ``_no_split_modules`` names. Parameters may lie on
            the meta device and be given later, before the first pass.
        mesh: Of the processes; all of them if None.
        reshard_blocks: Whether a block's whole weights are freed after its forward pass and
            gathered again for the backward pass. The root's stay from the one to the other.
        block_dtype: Blocks are gathered in it and their gradients reduced in float32; as they are
            if None. It is meant to go with autocast: inputs are not cast, the residual stream
            stays in float32, and so does the root, with the head.

    Returns:
        The same model.

    Raises:
        ValueError: If it has no blocks, or is sharded already.
    """
    if is_sharded(model):
        raise ValueError(f"this {type(model).__name__} is sharded already")
    names = set(getattr(model, "_no_split_modules", None) or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} cannot be sharded: its _no_split_modules, "
            f"{sorted(names)}, name none of its modules"
        )
    skeleton = hollow(model)
    policy = MixedPrecisionPolicy()
    if block_dtype is not None:
        policy = MixedPrecisionPolicy(block_dtype, torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_blocks, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    model.__dict__[SKELETON] = skeleton  # past nn.Module: it is no part of the model
    return model


def hollow(model: Model) -> Model:
    """A copy of a model whose parameters lie on the meta device; buffers are copied."""
    memo: dict[int, Any] = {
        id(each): nn.Parameter(torch.empty_like(each, device="meta"), each.requires_grad)
        for each in model.parameters()
    }
    return copy.deepcopy(model, memo)


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor in one piece; all processes must ask for it."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    # parts that are not all alike are padded to be gathered: safetensors takes no view of that
    return whole.clone() if whole.untyped_storage().nbytes() > whole.nbytes else whole


def whole_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Tensors in one piece, on the CPU; all processes must ask for them, few keep them."""
    result = {}
    for name, tensor in tensors.items():
        whole = whole_tensor(tensor.detach())
        if keep:
            result[name] = whole.cpu()
    return result


def placed_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of another, and split as that one is; nobody is asked."""
    moved = whole.to(like.device, like.dtype)
    if not isinstance(like, DTensor):
        return moved
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gathered(
    model: Model,
    weights: Mapping[str, Tensor] | None = None,
    *,
    device: torch.device | str = "cpu",
    keep: bool = True,
) -> Model | None:
    """A plain copy of a sharded model. All processes must call it.

    Args:
        model: A sharded model.
        weights: Parameters by name, to take in place of the model's, such as their average.
        device: Where the copy lies.
        keep: Whether this process wants it; else it only takes part.

    Returns:
        The copy, None if it was not wanted.
    """
    wanted, own = weights or {}, {}
    with _in_parts(model):
        for name, part in model.named_parameters():
            whole = whole_tensor(wanted.get(name, part).detach())
            if keep:
                own[name] = whole.to(device, part.dtype)
    return _given(_skeleton_of(model), own).to(device) if keep else None


@torch.no_grad()
def sharded_copy(model: Model, weights: Mapping[str, Tensor] | None = None, **how: Any) -> Model:
    """A copy of a sharded model, sharded alike; every process copies its own parts.

    ``copy.deepcopy`` refuses sharded models.

    Args:
        model: A sharded model.
        weights: Parameters by name, to take in place of the model's.
        **how: As ``shard`` takes it.
    """
    wanted = weights or {}
    with _in_parts(model):
        own = {
            name: wanted.get(name, part).detach().to(part.device, part.dtype, copy=True)
            for name, part in model.named_parameters()
        }
    return _given(shard(_skeleton_of(model), **how), own)


def _skeleton_of(model: Any) -> Any:
    """What a sharded model was, without weights; its config is that of now."""
    skeleton = copy.deepcopy(model.__dict__[SKELETON])
    if hasattr(model, "config"):
        skeleton.config = copy.deepcopy(model.config)
    return skeleton


def _given(model: Model, parameters: Mapping[str, Tensor]) -> Model:
    """A hollow model that is given its parameters; those that are one tensor stay one."""
    new = {
        id(each): nn.Parameter(parameters[name], each.requires_grad)
        for name, each in model.named_parameters()
    }
    for module in model.modules():
        for name, each in module._parameters.items():
            if each is not None:
                module._parameters[name] = new[id(each)]
    return model


@torch.no_grad()
def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies whole tensors into a model, sharded or not; each process takes its own parts.

    Args:
        model: Where they go; of tied weights one name is enough.
        tensors: Whole, the same on all processes.

    Raises:
        ValueError: If the names or shapes are not the model's.
    """
    with _in_parts(model):
        own = model.state_dict(keep_vars=True)
        extra = sorted(tensors.keys() - own.keys())
        given = {id(own[name]) for name in tensors.keys() & own.keys()}
        missing = sorted(name for name, tensor in own.items() if id(tensor) not in given)
        if extra or missing:
            name, problem = (extra + missing)[0], "has no place" if extra else "is missing"
            raise ValueError(f"these are not the weights of this model: {name} {problem}")
        for name, value in tensors.items():
            if value.shape != own[name].shape:
                raise ValueError(
                    f"these are not the weights of this model: {name} is {tuple(value.shape)}, "
                    f"not {tuple(own[name].shape)}"
                )
            local(own[name]).copy_(local(placed_like(value, own[name])))


@contextmanager
def _in_parts(model: nn.Module) -> Iterator[None]:
    """While a sharded model's weights are read or written all of them are in parts.

    A root that was whole (a teacher's is) is gathered again afterwards.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    was_whole = not all(isinstance(each, DTensor) for each in model.parameters())
    model.reshard()
    yield
    if was_whole:
        model.unshard()


def whole_optimizer_state(optimizer: Any, *, keep: bool) -> dict[str, Any]:
    """``optimizer.state_dict()`` in whole tensors, as one process would save it.

    All processes must call it; those that do not keep it get an empty one.
    """

    def whole(value: Any) -> Any:
        full = whole_tensor(value) if torch.is_tensor(value) else value
        return full if not torch.is_tensor(full) else full.cpu() if keep else None

    state = optimizer.state_dict()
    moments = {
        index: {name: whole(value) for name, value in each.items()}
        for index, each in state["state"].items()
    }
    return {**state, "state": moments} if keep else {}


def fill_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Loads what one process, or ``whole_optimizer_state``, saved; the parts follow the weights."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    moments = {
        index: {
            name: placed_like(value, parameters[index].detach())
            if torch.is_tensor(value) and value.shape == parameters[index].shape
            else value
            for name, value in each.items()
        }
        for index, each in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


# ---------------------------------------------------------------- a sharded teacher


def shard_teacher(teacher: Model, **how: Any) -> Model:
    """Shards a denoiser that is only asked, never trained; see ``ready``.

    Args:
        teacher: A plain denoiser without gradients.
        **how: As ``shard`` takes it.
    """
    return ready(shard(teacher, **how))


@torch.no_grad()
def ready(teacher: Model) -> Model:
    """Makes a sharded denoiser answer ``hidden``, and keeps its root, with the head, whole.

    All processes must call it: it is a first pass, over one token.
    """
    register_fsdp_forward_method(teacher, "hidden")
    _blank_pass(teacher)
    return teacher


def _blank_pass(teacher: Any) -> None:
    device = next(teacher.parameters()).device
    token = torch.full((1, 1), teacher.mask_token_id, device=device)
    teacher.hidden(token, torch.zeros(1, dtype=torch.int64, device=device))


class Asked:
    """A teacher as a denoiser that counts the passes made by it."""

    def __init__(self, teacher: Any) -> None:
        self.teacher = teacher
        self.passes = 0
        self.mask_token_id: int = teacher.mask_token_id
        self.excluded_ids: tuple[int, ...] = teacher.excluded_ids
        self.logits = teacher.logits
        self.is_compiled = bool(getattr(teacher, "is_compiled", False))

    @property
    def head(self) -> Any:
        """The teacher's."""
        return self.teacher.head

    def hidden(self, *arguments: Any, **options: Any) -> Tensor:
        """The teacher's; one pass."""
        self.passes += 1
        result: Tensor = self.teacher.hidden(*arguments, **options)
        return result

    @torch.no_grad()
    def make_up(self, passes: int) -> None:
        """Makes the passes that are missing to ``passes``, over one token each.

        A pass of a sharded teacher gathers its blocks from all processes. A process that has
        nothing to ask in a pass, and left it out, would leave the others waiting for ever.
        """
        while is_sharded(self.teacher) and self.passes < passes:
            self.passes += 1
            _blank_pass(self.teacher)
