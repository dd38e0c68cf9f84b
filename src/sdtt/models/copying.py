"""Copies of a model that choose, weight by weight, what is shared and what is new."""

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def shared(weight: nn.Parameter) -> nn.Parameter:
    """A parameter of the same memory: a cast of one of the two leaves the other as it is."""
    return nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)


def copy_with(model: Model, weight: Callable[[nn.Parameter], nn.Parameter]) -> Model:
    """A copy of the model's structure, buffers and config, with parameters made one at a time.

    Args:
        model: It is not changed.
        weight: From each parameter of the model to the one of the copy; itself shares it. Tied
            parameters stay tied.
    """
    memo: dict[int, object] = {id(p): weight(p) for p in model.parameters()}
    return copy.deepcopy(model, memo)
