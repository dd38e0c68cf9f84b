"""Linear maps of the blocks: one that gives parts of its output, one laid out for a CPU."""

from dataclasses import dataclass
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

ROWS = 1024
"""The number of rows that the layout is chosen for; it serves a few rows about as well."""

FUSED = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}
"""Activations that the kernel can apply to its accumulators, by the names of transformers."""


def part_of(layer: nn.Module, index: int, x: Tensor) -> Tensor:
    """The queries (0) or the keys and values (1) of rows, from the layer that gives all three.

    A layer that somebody put in its place (LoRA, quantised, offloaded) is run as it is and cut.
    """
    if isinstance(layer, QueryKeyValue | PackedLinear) and not hasattr(layer, "_hf_hook"):
        return layer.part(index, x)
    whole: Tensor = layer(x)
    width = x.shape[-1]
    return whole[..., :width] if index == 0 else whole[..., width:]


class QueryKeyValue(nn.Linear):
    """Queries, keys and values of a row in one linear map."""

    def part(self, index: int, x: Tensor) -> Tensor:
        """The queries (0) or the keys and values (1) alone."""
        rows = slice(0, self.in_features) if index == 0 else slice(self.in_features, None)
        bias = None if self.bias is None else self.bias[rows]
        return nn.functional.linear(x, self.weight[rows], bias)


@dataclass(frozen=True)
class Packed:
    """One packed weight, and what goes with it.

    Attributes:
        weight: In oneDNN's layout.
        bias: Added to the result.
        activation: What is fused: "none" or "gelu".
        algorithm: Which of its forms.
        columns: Numbers of a row of the result.
    """

    weight: Tensor
    bias: Tensor | None
    activation: str
    algorithm: str
    columns: int

    def __deepcopy__(self, memo: dict[int, object]) -> "Packed":
        """Itself: it never changes, and compiled code knows it by its number."""
        return self

    def __reduce__(self) -> str:
        """Refuses to be pickled, in words."""
        raise ValueError(
            "a packed model cannot be pickled: its weights lie in the order of this machine; "
            "pickle the model it was made of"
        )

    def __call__(self, x: Tensor) -> Tensor:
        """activation(x @ weight.T + bias)."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, self.activation, [], self.algorithm
        )
        return result


_NUMBERS = count()
_PACKED: WeakValueDictionary[int, Packed] = WeakValueDictionary()
"""Packed weights by number, for compiled code: torch's compiler takes no tensor of that layout."""


@torch.library.custom_op("sdtt::packed_linear", mutates_args=())
def _packed_linear(x: Tensor, number: int, columns: int) -> Tensor:
    del columns
    return _PACKED[number](x)


@_packed_linear.register_fake
def _(x: Tensor, number: int, columns: int) -> Tensor:
    del number
    return x.new_empty(*x.shape[:-1], columns)


class PackedLinear(nn.Module):
    """A linear map with its weight in the layout of oneDNN, and an activation fused into it.

    torch's own linear rearranges a bfloat16 weight in every call, and MKL's, on processors that are
    not Intel's, leaves bandwidth unused for few rows: measured 1.1 times slower for 1,024 rows and
    2 to 4 times for one (results/sampling).

    Args:
        weight: (out, in).
        bias: (out,) or None.
        activation: A key of ``FUSED``, or None.
        splits: Sizes of parts of the output that ``part`` gives on their own; all of it by default.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: str | None = None,
        splits: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        sizes = list(splits or (len(weight),))
        biases = [None] * len(sizes) if bias is None else list(bias.detach().split(sizes))
        kind, algorithm = ("none", "") if activation is None else ("gelu", FUSED[activation])
        self.parts = [
            Packed(
                torch.ops.mkldnn._reorder_linear_weight(rows.detach().contiguous(), ROWS),
                own, kind, algorithm, len(rows),
            )
            for rows, own in zip(weight.split(sizes), biases, strict=True)
        ]  # fmt: skip
        self.numbers = [next(_NUMBERS) for _ in self.parts]
        self.columns = [part.columns for part in self.parts]
        _PACKED.update(zip(self.numbers, self.parts, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """activation(x @ weight.T + bias)."""
        parts = [self.part(index, x) for index in range(len(self.numbers))]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def part(self, index: int, x: Tensor) -> Tensor:
        """One part of the output."""
        if torch.compiler.is_compiling():
            result: Tensor = torch.ops.sdtt.packed_linear(
                x, self.numbers[index], self.columns[index]
            )
            return result
        return self.parts[index](x)
