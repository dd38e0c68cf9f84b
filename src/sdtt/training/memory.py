"""Bytes that training takes on a device, and a checkpoint on the disk: an estimate by counting.

What is counted is what must be there: fragmentation, the libraries' own workspaces (about 1 GiB on
a GPU) and what a kernel holds for a moment come on top.
"""

from dataclasses import dataclass, fields

import torch

from sdtt.diffusion.tiled import TILE_ELEMENTS
from sdtt.diffusion.tiling import tile_numbers
from sdtt.training.flops import Network

FLOAT32 = 4
HALF = 2

LOSS_TILES = 3
"""Tiles of scores that the loss holds at once: student, target and what is made of both."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of an update.

    Attributes:
        weights: Of the network that is trained.
        casts: Its weights in 16 bits, which autocast keeps for a pass.
        gradients: In the dtype of the weights.
        moments: The optimiser's, such as AdamW's two.
        ema: The averaged weights.
        teacher: A network of its own; a shared one counts nothing.
        activations: What a micro-batch keeps for its backward pass.
        loss: Tiles of scores, and the gradient of the head beside that of the weights.
    """

    weights: int
    casts: int
    gradients: int
    moments: int
    ema: int
    teacher: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, each.name) for each in fields(self))


def memory_of(
    network: Network,
    *,
    texts: int,
    length: int,
    rows: float,
    teacher_bytes: int = 0,
    ema: bool = False,
    moments: int = 2,
    half: bool = False,
    eager_heads: int = 0,
    hides_keys: bool = False,
    checkpointing: bool = False,
    shards: int = 1,
    device: torch.device | None = None,
) -> Memory:
    """What training takes on one device.

    Args:
        network: What is trained, in float32.
        texts: Texts of a micro-batch.
        length: L.
        rows: Rows of a micro-batch that are projected, at most.
        teacher_bytes: What this device holds of a teacher's own weights.
        ema: Whether weights are averaged on it.
        moments: Numbers that the optimiser keeps of each weight.
        half: Whether the network is autocast to 16 bits.
        eager_heads: Heads of attention where it is written out and keeps its (L, L) scores, else 0.
        hides_keys: Whether attention has a mask, which a fused kernel keeps as L numbers a token.
        checkpointing: Whether the blocks' activations are recomputed.
        shards: Devices that share weights, gradients, moments and EMA (FSDP).
        device: Which kind; a CPU by default.
    """
    size = HALF if half else FLOAT32
    tokens = texts * length
    block = activations_of_block(network, length, size, eager_heads)
    if hides_keys and not eager_heads:
        block += size * length
    kept = FLOAT32 * network.width * network.blocks + block if checkpointing else None
    trunk = tokens * (block * network.blocks if kept is None else kept)
    last_rows = int(rows) * network.width * (FLOAT32 + FLOAT32)
    most = tile_numbers(TILE_ELEMENTS, device or torch.device("cpu"))
    tile = min(int(rows) * (network.head // max(network.width, 1)), most)
    return Memory(
        weights=FLOAT32 * network.parameters // shards,
        casts=HALF * network.body_trained if half else 0,
        gradients=FLOAT32 * network.trained // shards,
        moments=moments * FLOAT32 * network.trained // shards,
        ema=FLOAT32 * network.trained // shards if ema else 0,
        teacher=teacher_bytes,
        activations=trunk + last_rows,
        loss=LOSS_TILES * FLOAT32 * tile + (FLOAT32 * network.head if network.head_trained else 0),
    )


def activations_of_block(network: Network, length: int, size: int, eager_heads: int = 0) -> int:
    """Bytes that a block keeps of a token for its backward pass.

    In the dtype of the products: the two normalised inputs (2 D), queries, keys and values (3 D),
    what attention gave (D), the MLP before and after its activation (8 D); the residual stream
    before each norm in float32 (2 D). A fused kernel keeps queries and keys before they were turned
    as well, since the values lie beside them, and its result in its own order (3 D). Attention that
    is written out keeps L weights a head instead, in float32 and where they are rounded also so. A
    condition keeps what it scales (2 D in float32) and what it gates (2 D).

    Args:
        network: Of which the block is.
        length: L.
        size: Bytes of a number of the dtype of the products.
        eager_heads: Heads of attention that is written out, else 0.
    """
    numbers = 14 if eager_heads else 17
    stream = (numbers * size + 2 * FLOAT32) * network.width
    condition = (2 * size + 2 * FLOAT32) * network.width if network.conditioned else 0
    weights = FLOAT32 + (size if size < FLOAT32 else 0)
    return stream + condition + weights * eager_heads * length


def checkpoint_bytes(
    network: Network,
    *,
    teacher_bytes: int = 0,
    ema: bool = False,
    moments: int = 2,
    adapters: bool = False,
) -> int:
    """Bytes of a checkpoint: weights, moments and EMA in float32, and the teacher.

    Args:
        network: What is trained.
        teacher_bytes: Of the weights that the teacher does not share with the network.
        ema: Whether weights are averaged.
        moments: Numbers that the optimiser keeps of each weight.
        adapters: Whether it is a frozen base with adapters: they alone are kept.
    """
    weights = network.trained if adapters else network.parameters
    averaged = network.trained if ema else 0
    return FLOAT32 * (weights + moments * network.trained + averaged) + teacher_bytes
