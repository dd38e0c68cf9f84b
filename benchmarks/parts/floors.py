"""What a machine could do, as measured, and the work that must be done."""

from collections.abc import Callable

import torch

from sdtt.evaluation.timing import interleaved
from sdtt.models.blocks import BlocksModel
from sdtt.models.config import BlocksConfig
from sdtt.models.linear import PackedLinear
from sdtt.models.pack import can_pack


def matmul_rate(model: BlocksModel, rows: int) -> float:
    """FLOP/s of the model's linear maps on ``rows`` rows: the best of the kernels at hand."""
    width, device, dtype = model.config.hidden_dim, model.device, model.dtype
    x = torch.randn(rows, width, device=device, dtype=dtype)
    weight = torch.randn(4 * width, width, device=device, dtype=dtype)
    calls: dict[str, Callable[[], object]] = {
        "linear": lambda: torch.nn.functional.linear(x, weight)
    }
    if can_pack(model):
        packed = PackedLinear(weight, None)
        calls["packed"] = lambda: packed(x)
    with torch.no_grad():
        best = min(each.median for each in interleaved(calls, 9, device).values())
    return 2 * rows * width * 4 * width / best


def bandwidth(device: torch.device) -> float:
    """Bytes a second that can be read: the best of three reductions over 400 MB."""
    numbers = torch.randn(100_000_000, device=device)
    halves = numbers.view(torch.bfloat16)
    first, second = numbers.chunk(2)
    calls: dict[str, Callable[[], object]] = {
        "sum": numbers.sum,
        "sum of bfloat16": halves.sum,
        "dot": lambda: torch.dot(first, second),
    }
    best = min(each.median for each in interleaved(calls, 5, device).values())
    return numbers.numel() * 4 / best


def pass_flops(config: BlocksConfig, length: int, asked: float) -> float:
    """Multiply-adds times two of one text's pass: the last block for ``asked`` rows only."""
    width = config.hidden_dim
    block = 12 * width**2 * 2 * length + 2 * 2 * length**2 * width
    keys_and_values = 2 * width**2 * 2 * length
    last = keys_and_values + asked * (10 * width**2 * 2 + 2 * 2 * length * width)
    return (config.n_blocks - 1) * block + last


def token_bytes(model: BlocksModel, batch: int, length: int) -> float:
    """What one autoregressive pass has to read: all weights but the embedding, and the cache."""
    size = torch.finfo(model.dtype).bits // 8
    config = model.config
    weights = config.n_blocks * 12 * config.hidden_dim**2 + config.vocab_size * config.hidden_dim
    cache = 2 * config.n_blocks * config.hidden_dim * length * batch
    return (weights + cache) * size
