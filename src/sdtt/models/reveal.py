"""Attention that follows the order of revelation, and the cache that it allows.

A visible token sees the visible tokens that were revealed in its own step or before it, the prompt
being of the first; a masked one sees all visible tokens and itself. So what is computed of a
visible token never changes, and a step computes only the tokens that the last one revealed and the
masked positions that it asks for: about 2 L of them in all, whatever the number of steps. The
pattern is that of set-causal attention in any-order models [Eso-LM, arXiv 2506.01928; partition
generative modelling, arXiv 2505.18883].
"""

import math
import weakref
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def reveal_mask(
    masked: Bool[Tensor, "B L"],
    revealed: Int[Tensor, "B L"],
    attention_mask: Bool[Tensor, "B L"] | None = None,
) -> Bool[Tensor, "B 1 L L"]:
    """Which key (last axis) each position sees.

    Args:
        masked: Where z is MASK.
        revealed: The step in which each visible token was revealed; any growing numbers, and what
            stands at masked positions means nothing.
        attention_mask: True where a token is real.
    """
    earlier = revealed[:, None, :] <= revealed[:, :, None]
    sees = ~masked[:, None, :] & (earlier | masked[:, :, None])
    if attention_mask is not None:
        sees = sees & attention_mask[:, None, :]
    own = torch.eye(masked.shape[1], dtype=torch.bool, device=masked.device)
    return (sees | own)[:, None]


def order_mask(
    revealed: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None = None
) -> Bool[Tensor, "B 1 2*L 2*L"]:
    """Which key each column sees, of L visible tokens and behind them L masked ones.

    Token i sees what its own step and those before it reveal; the masked position i sees what the
    steps before its own reveal, and itself. So column L + i is what a sampler asks for when it
    reveals i, and one pass computes all steps of a generation.

    Args:
        revealed: The step in which each position is revealed; any growing numbers.
        attention_mask: True where a token is real.
    """
    own, of_others = revealed[:, :, None], revealed[:, None, :]
    visible, earlier = of_others <= own, of_others < own
    if attention_mask is not None:
        visible, earlier = (seen & attention_mask[:, None, :] for seen in (visible, earlier))
    itself = torch.eye(revealed.shape[1], dtype=torch.bool, device=revealed.device)
    alone = itself.expand_as(visible)
    tokens = torch.cat([visible | itself, torch.zeros_like(visible)], 2)
    return torch.cat([tokens, torch.cat([earlier, alone], 2)], 1)[:, None]


FEWEST_COLUMNS = 8
"""Of a pass of a compiled network."""

SLOTS_AT_ONCE = 128
"""By how many slots the room of a text grows; those that no token has taken yet cost time."""


@dataclass(frozen=True)
class CachedPass:
    """One pass of a cache over K texts, laid out as a rectangle of Q columns; on the device.

    The columns of a text are its new visible tokens, then its masked queries, then padding.

    Attributes:
        places: Flat indices into B*L of each column; of padding any.
        positions: The place of each column in its text.
        slots: Where the keys and values of each column lie.
        sees: Which slots each column sees.
        rows: Flat indices into K*Q of the queries, in the order in which they were asked for; on
            the CPU.
        texts: The K texts, or None for all of them.
    """

    places: Int[Tensor, "K Q"]
    positions: Int[Tensor, "K Q"]
    slots: Int[Tensor, "K Q"]
    sees: Bool[Tensor, "K 1 Q W"]
    rows: Int[Tensor, " N"]
    texts: Int[Tensor, " K"] | None


@dataclass(frozen=True)
class KeyShape:
    """What a network keeps of a token: a key and a value of each block and head.

    Attributes:
        blocks: Their number.
        heads: Of each.
        width: Of a head.
        dtype: Of keys and values.
        device: Where they lie.
    """

    blocks: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device

    def memory(self, texts: int, slots: int, tensors: int) -> list[Tensor]:
        """Zeros for the keys or values of one block each, for a weight of 0 forgives no NaN."""
        shape = (texts, self.heads, slots, self.width)
        return [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(tensors)]


class LentMemory:
    """Memory that one cache after another uses, at the same addresses: CUDA graphs hold on to them.

    What a cache gives back waits for the next one of its shape; a cache that is made while another
    has it gets memory of its own.
    """

    def __init__(self) -> None:
        self._idle: list[Tensor] = []

    def take(self, keys: KeyShape, texts: int, slots: int) -> list[Tensor]:
        """Zeros for all keys and values."""
        idle, self._idle = self._idle, []
        shape = (texts, keys.heads, slots, keys.width)
        alike = [(x.shape, x.dtype, x.device) == (shape, keys.dtype, keys.device) for x in idle]
        if len(idle) == 2 * keys.blocks and all(alike):
            return [x.zero_() for x in idle]
        with torch.inference_mode(False):  # what is made in it could not be zeroed outside
            memory = keys.memory(texts, slots, 2 * keys.blocks)
        for x in memory:
            # a graph is made again if they lie elsewhere, and nothing is compiled again
            torch._dynamo.mark_static_address(x, guard=False)
        return memory

    def give_back(self, memory: list[Tensor]) -> None:
        """Lets the next cache have it."""
        self._idle = memory


class RevealCache:
    """Keys and values of the visible tokens of a batch, in the order in which they were revealed.

    It takes (2 * n_blocks + 1) * hidden_dim numbers a token and text, in the dtype of the network:
    37.5 MiB a text of 1,024 tokens for 169M parameters in bfloat16. Products read keys without a
    copy only where these lie without gaps; so what is kept is laid out anew, by way of the memory
    of one more layer, whenever a text has filled its ``SLOTS_AT_ONCE`` slots. Lent memory stays
    as it is laid out: for all L tokens from the start.

    Args:
        batch: B.
        length: L.
        keys: What is kept of a token.
        few_shapes: For a compiled network: all texts take part in every pass, columns are filled up
            to a power of two, and slots to a quarter of all.
        lent: For CUDA graphs: memory at fixed addresses.
    """

    def __init__(
        self,
        batch: int,
        length: int,
        keys: KeyShape,
        *,
        few_shapes: bool = False,
        lent: LentMemory | None = None,
    ) -> None:
        self.batch, self.length, self.device = batch, length, keys.device
        self.few_shapes, self._stays = few_shapes, lent is not None
        self.stored = torch.zeros(batch, dtype=torch.long)
        self._keys, self._slots = keys, 0
        if lent is None:
            *self._memory, self._spare = keys.memory(batch, length + 1, 2 * keys.blocks + 1)
            self.layers = [self._laid_out(each, 0) for each in self._memory]
        else:
            self.layers = lent.take(keys, batch, length + 1)
            weakref.finalize(self, lent.give_back, self.layers)
        self._pass: CachedPass | None = None

    def plan(
        self,
        new: Int[Tensor, " M"],
        rows: Int[Tensor, " N"],
        texts: Int[Tensor, " K"],
    ) -> CachedPass:
        """The layout of a pass, which ``update`` follows until there is the next.

        Args:
            new: Flat indices into B*L of visible tokens that are not stored yet, on the CPU; of
                these texts only.
            rows: Those of the queries.
            texts: The texts of the pass, ascending; each owns a query.
        """
        if self.few_shapes:
            texts = torch.arange(self.batch)
        count = len(texts)
        every = torch.cat([new, rows])
        owner = torch.searchsorted(texts, every // self.length)
        sizes, column = _columns(owner, count)  # new ones of a text stand before its queries
        fresh = torch.bincount(owner[: len(new)], minlength=count)
        stored = self.stored[texts]
        width = self._width(int(sizes.max()))
        # where a text has fewer columns than others its padding takes the last slot, which may
        # become that of a token later
        reach = self._reach(int((stored + sizes).max()) + bool((sizes < width).any()))
        if reach > self._slots:
            self._grow(reach)
        flat = owner * width + column

        def laid(values: Tensor, padding: int) -> Tensor:
            laid_out = torch.full((count * width,), padding, dtype=torch.long)
            laid_out[flat] = values
            return laid_out.view(count, width)

        places = laid(every, 0)
        slots = laid(stored[owner] + column, reach - 1)
        seen = (stored + fresh)[:, None, None]
        slot = torch.arange(reach)
        sees = (slot < seen) | (slot == slots[..., None])
        self.stored[texts] += fresh
        everyone = count == self.batch
        self._pass = CachedPass(
            self._there(places),
            self._there(places % self.length),
            self._there(slots),
            self._there(sees[:, None]),
            flat[len(new) :],
            None if everyone else self._there(texts),
        )
        return self._pass

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: object
    ) -> tuple[Tensor, Tensor]:
        """Stores the keys and values of a pass, and gives all that it may see.

        Args:
            key: K, heads, Q, width.
            value: The same.
            layer_idx: Of the block.
        """
        now = self._pass
        assert now is not None, "plan() comes before a pass"
        text = torch.arange(self.batch, device=key.device) if now.texts is None else now.texts
        reach, both = now.sees.shape[-1], []
        for kept, part in zip(self.layers[2 * layer_idx :][:2], (key, value), strict=True):
            kept[text[:, None], :, now.slots] = part.transpose(1, 2)
            seen = kept[:, :, :reach]
            both.append(seen if now.texts is None else seen.index_select(0, now.texts))
        return both[0], both[1]

    def _width(self, columns: int) -> int:
        """Columns of a pass, filled up where shapes shall be few."""
        if not self.few_shapes:
            return columns
        return 1 << max(columns - 1, FEWEST_COLUMNS - 1).bit_length()

    def _reach(self, slots: int) -> int:
        """Slots of a pass: what memory there is, or shall be."""
        quarter = 8 * -(-(self.length + 1) // 32)  # kernels like multiples of 8
        together = quarter if self.few_shapes else SLOTS_AT_ONCE
        return max(self._slots, min(-(-slots // together) * together, self.length + 1))

    def _laid_out(self, memory: Tensor, slots: int) -> Float[Tensor, "B H {slots} W"]:
        """So many slots of each text and head, without gaps between them."""
        shape = (self.batch, self._keys.heads, slots, self._keys.width)
        return memory.flatten()[: math.prod(shape)].view(shape)

    def _grow(self, slots: int) -> None:
        """Moves all that is kept to where there is room for more slots.

        From its own memory to spare memory, and its own becomes the next spare: large memory that
        is new each time costs a CPU more than the move.
        """
        if not self._stays:
            for i, kept in enumerate(self.layers):
                self.layers[i] = self._laid_out(self._spare, slots)
                self.layers[i][:, :, : self._slots] = kept
                self.layers[i][:, :, self._slots :] = 0  # there lie other texts, maybe their NaN
                self._memory[i], self._spare = self._spare, self._memory[i]
        self._slots = slots

    def _there(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=True)


def _columns(owner: Int[Tensor, " M"], count: int) -> tuple[Int[Tensor, " K"], Int[Tensor, " M"]]:
    """How many entries each text owns, and the column of each entry, in the order that is given."""
    order = owner.argsort(stable=True)
    sizes = torch.bincount(owner, minlength=count)
    column = torch.empty_like(order)
    column[order] = torch.arange(len(owner)) - (sizes.cumsum(0) - sizes)[owner[order]]
    return sizes, column
