"""Losses and gradients that are not finite: noticed without waiting for the device.

The norm of every parameter's gradient is taken before clipping, which would spread one NaN over
all of them. The first bad update is remembered on the device; to read it is left to the caller.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from sdtt.training.state import save_into

FAULTS = "faults"


class NonFinite(ValueError):
    """The loss or a gradient of an update is not finite.

    Attributes:
        update: Which, from 1.
        file: Where its batch lies, for inspection.
    """

    def __init__(self, message: str, update: int, file: Path) -> None:
        self.update, self.file = update, file
        super().__init__(message)


@dataclass(frozen=True)
class Batch:
    """The whole of an update, as it went into the network; on the CPU.

    Attributes:
        input_ids: The texts.
        places: Theirs, in the stream of the run.
        t: Their times.
        masks: Where they were masked.
        revealed: The step of each position, of which networks that follow the order are told.
    """

    input_ids: Int64[Tensor, "B L"]
    places: Int64[Tensor, " B"]
    t: Float64[Tensor, " B"]
    masks: Bool[Tensor, "B L"]
    revealed: Int64[Tensor, "B L"]

    def save(self, file: Path, loss: float, about: dict[str, Any]) -> None:
        """Writes it as safetensors, with the loss of the update; ``about`` becomes metadata."""
        tensors = vars(self) | {"loss": torch.tensor(loss)}
        words = {key: json.dumps(value) for key, value in about.items()}

        def save(folder: Path) -> None:
            safetensors.torch.save_file(tensors, folder / file.name, metadata=words)

        save_into(file.parent, save)


class Watch:
    """Remembers the first update whose loss or gradient is not finite.

    Args:
        model: Whose trainable parameters are watched, by name.
        device: Where the losses lie.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.clear()

    def clear(self) -> None:
        """Forgets all."""
        self.names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self._loss: Float[Tensor, ""] = torch.zeros((), device=self.device)
        self._norms: Float[Tensor, " P"] = torch.zeros(len(self.names), device=self.device)
        self._first: Int64[Tensor, ""] = torch.zeros((), dtype=torch.int64, device=self.device)
        self._first_loss, self._first_norms = self._loss, self._norms

    def add_loss(self, loss: Float[Tensor, ""]) -> None:
        """One micro-batch's share of the loss of the update."""
        self._loss = self._loss + loss.detach().float()

    def see_gradients(self) -> None:
        """The gradients of the update, before anything scales them; of shards the local part."""
        found = {name: _local(p.grad) for name, p in self.model.named_parameters()}
        given = {name: found[name] for name in self.names if found.get(name) is not None}
        if not given:
            return
        norms = dict(zip(given, torch._foreach_norm(list(given.values())), strict=True))
        zero = torch.zeros((), device=self.device)
        each = [norms.get(name, zero).to(self.device, torch.float32) for name in self.names]
        self._norms = torch.stack(each)

    def close(self, update: int) -> None:
        """The update, from 1, is complete: remembered if it is the first bad one."""
        good = self._loss.isfinite() & self._norms.isfinite().all()
        new = ~good & (self._first == 0)
        self._first = torch.where(new, update, self._first)
        self._first_loss = torch.where(new, self._loss, self._first_loss)
        self._first_norms = torch.where(new, self._norms, self._first_norms)
        self._loss, self._norms = torch.zeros_like(self._loss), torch.zeros_like(self._norms)

    def first(self) -> int:
        """The first bad update, 0 if there is none; waits for the device."""
        return int(self._first)

    def loss(self) -> float:
        """The loss of the first bad update, as far as this process has it."""
        return float(self._first_loss)

    def bad_gradients(self) -> Bool[Tensor, " P"]:
        """Of every name, whether its gradient was not finite in the first bad update."""
        return ~self._first_norms.isfinite().cpu()

    def bad_parameters(self) -> Bool[Tensor, " P"]:
        """Of every name, whether the parameter holds a number that is not finite now."""
        held = dict(self.model.named_parameters())
        bad = [not bool(_local(held[name]).isfinite().all()) for name in self.names]
        return torch.tensor(bad, dtype=torch.bool)


def _local(tensor: Any) -> Any:
    """This process's part of a sharded tensor; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
