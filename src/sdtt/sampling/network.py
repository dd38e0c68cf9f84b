"""A denoiser over one batch: what a pass may leave out, and tokens from its hidden rows."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from sdtt.diffusion.categorical import Transform, draw, few_rows, level_device
from sdtt.diffusion.denoiser import Denoiser, filled, follows_order
from sdtt.diffusion.tiling import tile_numbers

TILE_NUMBERS = 2**22
"""Numbers of a tile of logits: 32 MiB in float64, so that a pass needs no (rows, V) tensor."""


class Network:
    """A denoiser over one batch: what a pass may leave out is left out here.

    * Texts without an asked row drop out of the pass.
    * A text in which nothing is visible has the same hidden rows as any other such text of its
      length and time: they are computed once. Where the denoiser says ``blank_is_uniform``, all
      positions of such a text are alike (every value that attention averages is the same), and one
      token is enough: once, or where the denoiser ``is_told_time`` once for each time.
    * A denoiser whose law follows the order of revelation keeps a cache, where it offers one: a
      pass takes what became visible since the last one and the asked rows.

    Args:
        denoiser: p(x_i | z).
        z: The canvas, MASK where a token is wanted; it is not written into.
        attention_mask: True where a token is real, if there is padding.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        z: Int[Tensor, "B L"],
        attention_mask: Bool[Tensor, "B L"] | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.canvas = z.clone(memory_format=torch.contiguous_format)
        self.attention_mask = attention_mask
        if attention_mask is not None:  # padding may be any number, which nobody is to look up
            self.canvas.masked_fill_(~attention_mask, denoiser.mask_token_id)
        self.batch, self.length = z.shape
        self._uniform: bool = getattr(denoiser, "blank_is_uniform", False)
        self._fixed_shapes: bool = getattr(denoiser, "is_compiled", False)
        self._is_told_time: bool = getattr(denoiser, "is_told_time", False)
        self._blank_row: Tensor | None = None
        self._order = torch.zeros_like(self.canvas) if follows_order(denoiser) else None
        self._puts = 0
        self._cached: Any = None
        if self._order is not None and hasattr(denoiser, "reveal_cache"):
            self._cached = denoiser.reveal_cache(*z.shape)
            visible = self.canvas != denoiser.mask_token_id
            if attention_mask is not None:
                visible &= attention_mask
            self._unseen = visible.cpu().flatten()
            self._shown = self._unseen.clone()

    def blank_texts(self, free: Bool[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        """In which texts nothing is visible, so that their first pass can be shared; on the CPU."""
        if self.attention_mask is None:
            return free.all(1)
        real = self.attention_mask.cpu()
        return (free == real).all(1) & (self._uniform | real.all(1))

    def put(
        self, rows: Int[Tensor, " N"], there: Int[Tensor, " N"], tokens: Int[Tensor, " N"]
    ) -> None:
        """Makes tokens visible.

        Args:
            rows: Flat indices into B*L, on the CPU.
            there: The same, where the canvas is.
            tokens: What they become.

        Raises:
            ValueError: If one of them is visible already, and a cache is kept: what it holds of the
                text would be wrong.
        """
        if self._cached is not None:
            again = self._shown[rows]
            if bool(again.any()):
                where = int(rows[again][0]) % self.length
                raise ValueError(
                    f"position {where} is visible and would be changed, but the cache holds keys "
                    "of tokens that stay: a sampler that takes tokens back needs cache=False"
                )
            self._shown[rows] = True
        self.canvas.view(-1)[there] = tokens
        self._puts += 1
        if self._order is not None:
            self._order.view(-1).index_fill_(0, there, self._puts)
        if self._cached is not None:
            self._unseen[rows] = True

    def text_of(self, rows: Int[Tensor, " N"]) -> Int[Tensor, "N L"]:
        """The text of each row, as it stands; padding reads as MASK, which no penalty counts."""
        return self.canvas[rows // self.length]

    def blank_hidden(
        self, positions: Int[Tensor, " N"], t: Float64[Tensor, " N"] | None
    ) -> Float[Tensor, "N D"]:
        """Hidden rows of texts in which nothing is visible, at positions and times on the CPU."""
        mask_id = self.denoiser.mask_token_id
        if self._uniform and (t is None or not self._is_told_time):
            if self._blank_row is None:
                self._blank_row = self.denoiser.hidden(self.canvas.new_full((1, 1), mask_id))
            return self._blank_row.expand(len(positions), -1)
        times, which = None, torch.zeros_like(positions)
        if t is not None:
            times, which = t.unique(return_inverse=True)  # one text for each time
        length = 1 if self._uniform else self.length
        wanted, where = (which * length + positions % length).unique(return_inverse=True)
        blank = self.canvas.new_full((1 if times is None else len(times), length), mask_id)
        hidden = self.denoiser.hidden(blank, wanted, t=self._told(times))
        return hidden[self._on_device(where)]

    def hidden(
        self,
        rows: Int[Tensor, " N"],
        texts: Int[Tensor, " K"],
        t: Float64[Tensor, " K"] | None,
    ) -> Float[Tensor, "N D"]:
        """Hidden rows by a pass over some texts of the batch.

        Args:
            rows: Flat indices into B*L, on the CPU.
            texts: The texts that own them, ascending, on the CPU.
            t: What the denoiser is told of each of these texts, if anything.
        """
        if self._cached is not None:
            return self._hidden_by_cache(rows, texts)
        everyone = len(texts) == self.batch
        if self._fixed_shapes:
            texts = filled(texts, self.batch)
            t = None if t is None else filled(t, self.batch)
        order = self._order
        if everyone:
            z, mask, local = self.canvas, self.attention_mask, rows
        else:
            chosen = self._on_device(texts)
            z = self.canvas[chosen]
            mask = None if self.attention_mask is None else self.attention_mask[chosen]
            owner = torch.zeros(self.batch, dtype=torch.long)
            owner[texts.flip(0)] = torch.arange(len(texts)).flip(0)  # of equal ones the first
            local = owner[rows // self.length] * self.length + rows % self.length
            order = None if order is None else order[chosen]
        seen = {} if order is None else {"revealed": order}
        return self.denoiser.hidden(z, local, attention_mask=mask, t=self._told(t), **seen)

    def _hidden_by_cache(
        self, rows: Int[Tensor, " N"], texts: Int[Tensor, " K"]
    ) -> Float[Tensor, "N D"]:
        """The same, where the visible tokens that a pass has seen need not be computed again."""
        new = self._unseen.nonzero().squeeze(-1)
        new = new[torch.isin(new // self.length, texts)]
        self._unseen[new] = False
        hidden: Tensor = self._cached.hidden(self.canvas, new, rows, texts)
        return hidden

    def ask(
        self,
        rows: Int[Tensor, " N"],
        texts: Int[Tensor, " K"],
        t: Float64[Tensor, " K"] | None,
        begun: Bool[Tensor, " N"],
    ) -> Float[Tensor, "N D"]:
        """``hidden``, but rows of texts in which nothing is visible come from the shared pass.

        Args:
            rows: Flat indices into B*L, on the CPU.
            texts: The texts that own them, ascending, on the CPU.
            t: What the denoiser is told of each of these texts: 1 - alpha, the share that the
                process has masked; None where it shall count.
            begun: Which rows are of texts in which nothing is visible.
        """
        if not bool(begun.any()):
            return self.hidden(rows, texts, t)
        own = None if t is None else t[torch.searchsorted(texts, rows // self.length)][begun]
        shared = self.blank_hidden(rows[begun] % self.length, own)
        rest = rows[~begun]
        if len(rest) == 0:
            return shared
        others = (rest // self.length).unique()
        asked = self.hidden(
            rest, others, None if t is None else t[torch.searchsorted(texts, others)]
        )
        place = torch.cat([begun.nonzero(), (~begun).nonzero()]).squeeze(1).argsort()
        return torch.cat([shared, asked])[self._on_device(place)]

    def _told(self, t: Tensor | None) -> Tensor | None:
        """What a denoiser takes: float32, for not every device has float64."""
        return None if t is None else self._on_device(t.float())

    def _on_device(self, x: Tensor) -> Tensor:
        return x.to(self.canvas.device, non_blocking=True)


class WithoutCache:
    """A denoiser that keeps no cache: every pass computes the whole text."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.mask_token_id, self.excluded_ids = denoiser.mask_token_id, denoiser.excluded_ids
        self.hidden, self.head, self.logits = denoiser.hidden, denoiser.head, denoiser.logits

    def __getattr__(self, name: str) -> Any:
        """All else is the denoiser's."""
        if name.startswith("reveal_cache"):
            raise AttributeError(name)
        return getattr(self.denoiser, name)


def by_cache(denoiser: Denoiser, cache: bool | None) -> Denoiser:
    """The denoiser with its cache, or without.

    Args:
        denoiser: p(x_i | z).
        cache: Whether there shall be one; None for wherever it can be.

    Raises:
        ValueError: If there shall be one and the denoiser has none.
    """
    if cache is False:
        return WithoutCache(denoiser)
    if cache and not follows_order(denoiser):
        raise ValueError(
            "a cache needs a model whose attention follows the order of revelation, and this "
            f"{type(denoiser).__name__} sees all of the text: train one from an MDLM, 'sdtt "
            "pretrain --attention reveal_causal --init-from MODEL' or 'sdtt distill --attention "
            "reveal_causal --model MODEL', or leave --cache out"
        )
    return denoiser


def decode(
    denoiser: Denoiser,
    hidden: Float[Tensor, "N D"],
    v: Float64[Tensor, " N"],
    transform: Transform,
    text: Int[Tensor, "N L"] | None = None,
) -> Int[Tensor, " N"]:
    """A token for each hidden row, drawn in float64, a tile of rows at a time.

    Args:
        denoiser: Its head makes the logits.
        hidden: Rows of ``denoiser.hidden``.
        v: A uniform for each.
        transform: The change of the law before the draw.
        text: The text of each row, for the repetition penalty.
    """
    parts = [
        draw(transform(logits, each), level)
        for logits, each, level in tiles(denoiser, hidden, v, text)
    ]
    return torch.cat(parts).to(hidden.device)


def tiles(
    denoiser: Denoiser,
    hidden: Float[Tensor, "N D"],
    v: Float64[Tensor, " N"],
    text: Int[Tensor, "N L"] | None = None,
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Logits, texts and uniforms of a few rows at a time; one empty tile where there is no row.

    Logits are float32 at least, so that a temperature loses nothing, and lie where float64 can be.
    """
    columns = denoiser.head.weight.shape[0]
    size = max(1, tile_numbers(TILE_NUMBERS, hidden.device) // columns)
    place = level_device(hidden.device)
    few = few_rows(columns, place) or size
    for first in range(0, max(len(hidden), 1), size):
        logits = denoiser.logits(hidden[first : first + size])
        exact = torch.promote_types(logits.dtype, torch.float32)
        for start in range(0, max(len(logits), 1), few):
            part = slice(first + start, first + min(start + few, size))
            drawn = logits[start : start + few].to(place, exact)
            yield drawn, None if text is None else text[part].to(place), v[part]
