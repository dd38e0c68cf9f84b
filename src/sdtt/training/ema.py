"""The exponential moving average of a model's weights."""

import copy
from typing import TypeVar

import torch
from torch import nn

from sdtt.models.copying import copy_with

Model = TypeVar("Model", bound=nn.Module)


class Ema:
    """shadow <- decay * shadow + (1 - decay) * weights, in float32, after every update.

    Args:
        model: Whose trainable parameters are followed.
        decay: In (0, 1); 0.9999 in the paper.

    Raises:
        ValueError: If decay lies outside (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1), got {decay}; 0 in a config: no EMA")
        self.decay = decay
        self.shadow = {
            name: parameter.detach().float().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes one step towards the model's weights."""
        weights = dict(model.named_parameters())
        targets = [weights[name].detach().float() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), targets, 1 - self.decay)

    @torch.no_grad()
    def restart(self, model: nn.Module) -> None:
        """Forgets what was, and goes on from the model's weights."""
        weights = dict(model.named_parameters())
        for name, shadow in self.shadow.items():
            shadow.copy_(weights[name].detach())

    @torch.no_grad()
    def averaged(self, model: Model) -> Model:
        """A copy of the model that carries the averaged weights; those not trained are shared."""
        result = copy_with(model, lambda p: copy.deepcopy(p) if p.requires_grad else p)
        for name, parameter in result.named_parameters():
            if name in self.shadow:
                parameter.copy_(self.shadow[name])
        return result
