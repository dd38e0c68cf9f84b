"""The teacher of a round: whose weights it shares, its precision, and what a checkpoint keeps."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from sdtt.diffusion.denoiser import Denoiser, as_denoiser
from sdtt.models.adapters import network_of
from sdtt.models.copying import copy_with
from sdtt.models.sedd import UNTRAINABLE

DTYPES: dict[str, torch.dtype | None] = {
    "same": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""What ``teacher_dtype`` may be: None keeps the dtype that the weights have."""


def frozen_teacher(source: Any, student: nn.Module, dtype: torch.dtype | None = None) -> Any:
    """A teacher of the source's law, in evaluation mode, that no update of the student changes.

    What is trained is copied; every other weight is shared with the source, so that a base that
    LoRA leaves as it is lies in memory once. A weight of another dtype than asked for is cast, and
    so copied. The source is not changed.

    Args:
        source: The student itself, its average, or another denoiser; one that is no module is
            given back.
        student: Whose parameters with ``requires_grad`` are trained.
        dtype: Of the teacher's weights; that of the source by default.

    Raises:
        ValueError: If a dtype is asked of a denoiser that has no weights.
    """
    source = network_of(source)
    if not isinstance(source, nn.Module):
        if dtype is not None:
            raise ValueError(
                f"a {type(source).__name__} has no weights to hold in {dtype}: use "
                "teacher_dtype='same'"
            )
        return source
    trained = _storages(p for p in student.parameters() if p.requires_grad)

    def own(parameter: nn.Parameter) -> nn.Parameter:
        cast = dtype is not None and parameter.is_floating_point()
        wanted = dtype if cast else parameter.dtype
        if _storage(parameter) in trained or parameter.dtype != wanted:
            return nn.Parameter(parameter.detach().to(wanted, copy=True), requires_grad=False)
        if parameter.requires_grad:
            return nn.Parameter(parameter.detach(), requires_grad=False)
        return parameter

    return copy_with(source, own).eval()


def packed(teacher: Any) -> Any:
    """The same law in the form of ``for_inference``: folded, and packed on a CPU.

    Raises:
        ValueError: If the teacher has no such form, or adapters, which it would lose.
    """
    if not hasattr(teacher, "for_inference"):
        raise ValueError(f"a {type(teacher).__name__} cannot be packed: leave pack_teacher out")
    if any(hasattr(module, "base_layer") for module in teacher.modules()):
        raise ValueError("a teacher with adapters cannot be packed: leave pack_teacher out")
    return teacher.for_inference(keep_dtype=True)  # the dtype is the run's to choose


def check_teacher(student: Any, teacher: Any, length: int) -> None:
    """Refuses a teacher that cannot teach this student.

    Args:
        student: The student's network.
        teacher: The teacher.
        length: Tokens of a text.

    Raises:
        ValueError: If one of them is no denoiser, the student's scores are not normalised, their
            vocabularies differ, the texts are longer than the teacher can read, or LoRA changes a
            head.
    """
    sides = as_denoiser(student), as_denoiser(teacher)
    if getattr(student, "unnormalised_scores", False):
        raise ValueError(f"a {type(student).__name__} cannot be a student: {UNTRAINABLE}")
    mine, its = (_vocabulary(side) for side in sides)
    if mine != its:
        raise ValueError(
            f"student and teacher need one vocabulary, got sizes {mine[0]} and {its[0]}, "
            f"MASK {mine[1]} and {its[1]}, excluded ids {mine[2]} and {its[2]}"
        )
    config = getattr(teacher, "config", None)
    longest = getattr(config, "max_position_embeddings", None)  # our model_length, too
    if longest is not None and longest < length:
        raise ValueError(
            f"the teacher reads texts of at most {longest} tokens, the data has {length}: use "
            "shorter texts or another teacher"
        )
    for side in (student, teacher):
        linear = getattr(side, "get_output_embeddings", lambda: None)()
        if hasattr(linear, "base_layer"):
            raise ValueError(
                "LoRA on the head is not supported, for losses read the head as one matrix: leave "
                "it out of target_modules (modules_to_save may train it whole)"
            )


def _vocabulary(denoiser: Denoiser) -> tuple[int, int, tuple[int, ...]]:
    excluded = tuple(sorted(denoiser.excluded_ids))
    return denoiser.head.weight.shape[0], denoiser.mask_token_id, excluded


def own_tensors(teacher: Any, student: nn.Module) -> dict[str, Tensor]:
    """The weights that the teacher does not share with the student, by name; tied ones once.

    Args:
        teacher: Of ``frozen_teacher``.
        student: The network that it may share weights with.
    """
    if not isinstance(teacher, nn.Module):
        return {}
    seen = _storages(student.parameters())
    result: dict[str, Tensor] = {}
    for name, tensor in teacher.state_dict().items():
        if _storage(tensor) not in seen:
            seen.add(_storage(tensor))
            result[name] = tensor
    return result


def save_teacher(file: Path, teacher: Any, student: nn.Module) -> None:
    """Writes what is the teacher's own; what it shares never changes, so the student's base has it.

    A teacher that is no module has nothing to write: a resumed run is given it again.
    """
    own = {name: tensor.contiguous() for name, tensor in own_tensors(teacher, student).items()}
    safetensors.torch.save_file(own, file)


@torch.no_grad()
def load_teacher(file: Path, teacher: Any, student: nn.Module) -> None:
    """Puts back what ``save_teacher`` wrote, to the last bit, into a teacher of the same shape.

    Raises:
        ValueError: If the file is of another teacher.
    """
    saved, own = safetensors.torch.load_file(file), own_tensors(teacher, student)
    for name in sorted(saved.keys() | own.keys()):
        there, here = (_kind(tensors.get(name)) for tensors in (saved, own))
        if there != here:
            raise ValueError(
                f"{file} holds another teacher: its {name} is {there}, here {here}; resume with "
                "the teacher and the teacher_dtype that the run was started with"
            )
        own[name].copy_(saved[name])


def _kind(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _storages(tensors: Any) -> set[int]:
    return {_storage(tensor) for tensor in tensors}
