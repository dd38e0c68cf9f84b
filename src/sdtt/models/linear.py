"""Linear maps of the blocks: one that gives parts of its output, one laid out for a CPU."""

import torch
from torch import Tensor, nn

ROWS = 1024
"""The number of rows that the layout is chosen for; it serves a few rows about as well."""

FUSED = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}
"""Activations that the kernel can apply to its accumulators, by the names of transformers."""


class QueryKeyValue(nn.Linear):
    """Queries, keys and values of a row in one linear map."""

    def part(self, index: int, x: Tensor) -> Tensor:
        """The queries (0) or the keys and values (1) alone."""
        rows = slice(0, self.in_features) if index == 0 else slice(self.in_features, None)
        bias = None if self.bias is None else self.bias[rows]
        return nn.functional.linear(x, self.weight[rows], bias)


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
        self.weights = [
            torch.ops.mkldnn._reorder_linear_weight(part.detach().contiguous(), ROWS)
            for part in weight.split(sizes)
        ]
        self.biases = [None] * len(sizes) if bias is None else list(bias.detach().split(sizes))
        self.attribute = "none" if activation is None else "gelu"
        self.algorithm = "" if activation is None else FUSED[activation]

    def forward(self, x: Tensor) -> Tensor:
        """activation(x @ weight.T + bias)."""
        parts = [self.part(index, x) for index in range(len(self.weights))]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def part(self, index: int, x: Tensor) -> Tensor:
        """One part of the output."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weights[index], self.biases[index], self.attribute, [], self.algorithm
        )
        return result
