"""The exponential moving average of a model's weights."""

import copy
from collections.abc import Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from sdtt.models.copying import copy_with

Model = TypeVar("Model", bound=nn.Module)


class Ema:
    """shadow <- decay * shadow + (1 - decay) * weights, in float32, after every update.

    In host memory the average runs one update behind: the weights of an update travel while the
    next one computes. Whoever reads ``shadow`` finds it up to date.

    Args:
        model: Whose trainable parameters are followed.
        decay: In (0, 1); 0.9999 in the paper.
        device: "same": beside the weights; "cpu": in host memory.

    Raises:
        ValueError: If decay lies outside (0, 1).
    """

    def __init__(
        self, model: nn.Module, decay: float, device: Literal["same", "cpu"] = "same"
    ) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1), got {decay}; 0 in a config: no EMA")
        self.decay = decay
        followed = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        self._travels = _Travels(followed) if device == "cpu" else None
        self._shadow = {
            name: (weights if self._travels is None else weights.cpu()).float().clone()
            for name, weights in followed.items()
        }

    @property
    def shadow(self) -> dict[str, Tensor]:
        """The average, by the parameters' names."""
        self._settle()
        return self._shadow

    @shadow.setter
    def shadow(self, shadow: dict[str, Tensor]) -> None:
        self._settle()
        self._shadow = shadow

    def _settle(self) -> None:
        """Takes the step whose weights are still on their way."""
        weights = self._travels.arrive() if self._travels is not None else None
        if weights is not None:
            self._step(weights)

    @torch.no_grad()
    def _step(self, weights: Mapping[str, Tensor]) -> None:
        targets = [weights[name].detach().float() for name in self._shadow]
        torch._foreach_lerp_(list(self._shadow.values()), targets, 1 - self.decay)

    def update(self, model: nn.Module) -> None:
        """Takes one step towards the model's weights."""
        weights = dict(model.named_parameters())
        if self._travels is None:
            self._step(weights)
        else:
            self._settle()
            self._travels.depart(weights)

    @torch.no_grad()
    def restart(self, model: nn.Module) -> None:
        """Forgets what was, and goes on from the model's weights."""
        weights = dict(model.named_parameters())
        for name, shadow in self.shadow.items():
            shadow.copy_(weights[name].detach())

    @torch.no_grad()
    def averaged(self, model: Model) -> Model:
        """A copy of the model that carries the averaged weights; those not trained are shared."""
        return with_weights(model, self.shadow)


@torch.no_grad()
def with_weights(model: Model, weights: Mapping[str, Tensor]) -> Model:
    """A copy of a model in which some parameters are replaced, by name; frozen ones are shared."""
    result = copy_with(model, lambda p: copy.deepcopy(p) if p.requires_grad else p)
    for name, parameter in result.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])
    return result


class _Travels:
    """Copies of weights that go to host memory without anyone waiting for the device.

    Args:
        weights: Tensors of their shapes, on their device.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._device = next(iter(weights.values())).device
        away = self._device.type != "cpu"  # only page-locked memory is copied to behind one's back
        self._landed = {
            name: torch.empty_like(weight, device="cpu", pin_memory=away)
            for name, weight in weights.items()
        }
        self._event = torch.Event(self._device) if away else None
        self._under_way = False

    @torch.no_grad()
    def depart(self, weights: Mapping[str, Tensor]) -> None:
        """Sends them off as they are now: behind all that the device has to do up to here."""
        for name, landed in self._landed.items():
            landed.copy_(weights[name], non_blocking=True)
        if self._event is not None:
            self._event.record()
        self._under_way = True

    def arrive(self) -> dict[str, Tensor] | None:
        """The weights that were sent off last, once; None if none are under way."""
        if not self._under_way:
            return None
        if self._event is not None:
            self._event.synchronize()
        self._under_way = False
        return self._landed
