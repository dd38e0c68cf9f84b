"""The order of the data: which block stands at which place of which update."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float32, Float64, Int, Int64
from torch import Tensor
from torch.utils.data import Dataset

from sdtt.data.rows import as_texts
from sdtt.data.stream_state import StreamState
from sdtt.data.streaming import StreamedBlocks
from sdtt.diffusion.denoiser import follows_order
from sdtt.diffusion.noise import Schedule, is_masked, revealed_in, stratified_times
from sdtt.diffusion.uniforms import permutation, uniforms
from sdtt.sampling.dilated import refined_order

DILATED_STEPS = (4, 8, 16, 32, 64)
"""The numbers of steps whose masks a model meets that is trained on dilated orders."""

REMEMBERED = 64
"""Updates whose texts a stream can still tell, for those who look for a fault."""


class Stream(Dataset[dict[str, Any]]):
    """All texts of a run in order, a fixed function of the seed.

    Item p is the text at place p % batch of update p // batch. Every epoch has its own random
    order of the blocks. The Trainer reads it front to back, so that shards, accumulation and a
    restart are a matter of which p they take.

    ``StreamedBlocks`` are in order already: item p is their text p. They are read forward only, and
    what they stood at when an update began is kept for the newest two updates, because the
    Trainer asks for the next update's texts before it saves this one.

    Args:
        blocks: Texts of L ids, or rows with such ``input_ids``, with ``len`` and indexing; or
            ``StreamedBlocks``.
        updates: Updates of the run.
        batch: Texts in the whole of an update.
        seed: Of the order.
        config: Of the model: texts with an id that it does not have, or with MASK, are refused.
    """

    def __init__(
        self, blocks: Any, *, updates: int, batch: int, seed: int, config: Any = None
    ) -> None:
        self.is_streamed = isinstance(blocks, StreamedBlocks)
        self.blocks = blocks if self.is_streamed else as_texts(blocks)
        if not self.is_streamed and len(blocks) == 0:
            raise ValueError("there is no training text: not one whole block")
        self.updates = updates
        self.batch = batch
        self.seed = seed
        self._config = config
        self._epoch = -1
        self._order: Int64[Tensor, " N"] = torch.empty(0, dtype=torch.int64)
        self._states: dict[int, StreamState] = {}
        self._remembered: dict[int, Int64[Tensor, " L"]] = {}

    @property
    def length(self) -> int:
        """L, the tokens of a text."""
        return int(self.blocks.length if self.is_streamed else self.blocks[0].shape[0])

    def __len__(self) -> int:
        return self.updates * self.batch

    def __getitem__(self, place: int) -> dict[str, Any]:
        if self.is_streamed:
            return self.__getitems__([place])[0]
        epoch, index = divmod(place, len(self.blocks))
        if epoch != self._epoch:
            self._order = permutation(self.seed, "data", epoch, len(self.blocks))
            self._epoch = epoch
        return {"input_ids": self._checked(int(self._order[index])), "place": place}

    def _checked(self, index: int) -> Int64[Tensor, " L"]:
        """A text of the data (those of a stream were checked when they were encoded).

        Raises:
            ValueError: If it holds an id that the model does not have, or MASK.
        """
        ids: Tensor = self.blocks[index]
        if self._config is not None:
            size, mask = self._config.vocab_size, self._config.mask_token_id
            wrong = ids[(ids < 0) | (ids >= size) | (ids == mask)]
            if len(wrong):
                raise ValueError(
                    f"text {index} of the data holds the id {int(wrong[0])}: the model has the ids "
                    f"0 to {size - 1}, of which {mask} is MASK and no text; encode the text by the "
                    "model's own tokenizer"
                )
        return ids

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        """The items of a micro-batch; texts of a stream are encoded together."""
        if not self.is_streamed:
            return [self[place] for place in places]
        update = places[0] // self.batch
        if update > max(self._states, default=-1):
            newest = sorted(self._states)[-1:]
            self._states = {each: self._states[each] for each in newest}
            self._states[update] = self.blocks.state()
            oldest = (update - REMEMBERED) * self.batch
            self._remembered = {p: x for p, x in self._remembered.items() if p >= oldest}
        texts = self.blocks.__getitems__(places)
        self._remembered.update(zip(places, texts, strict=True))
        return [{"input_ids": x, "place": p} for x, p in zip(texts, places, strict=True)]

    def texts_of(self, update: int) -> tuple[list[int], Int64[Tensor, "B L"]]:
        """The places and texts of an update.

        A stream cannot be read again: it tells those that this process has read in the newest
        ``REMEMBERED`` updates.
        """
        places = list(range(update * self.batch, (update + 1) * self.batch))
        if not self.is_streamed:
            return places, torch.stack([self[place]["input_ids"] for place in places])
        known = [place for place in places if place in self._remembered]
        none = torch.empty(0, self.length, dtype=torch.int64)
        rows = [self._remembered[place][None] for place in known]
        return known, torch.cat([none, *rows])

    def state_at(self, update: int) -> StreamState:
        """Where streamed blocks stood when an update began.

        Raises:
            ValueError: That is too long ago.
        """
        newest = max(self._states, default=-1)
        if update > newest:  # no text of it has been asked for
            return self.blocks.state()
        if update not in self._states:
            raise ValueError(
                f"the stream is at update {newest}, its state at {update} is forgotten"
            )
        return self._states[update]

    def go_on_from(self, state: StreamState | None) -> None:
        """Takes streamed blocks to a state; to their beginning if None."""
        self._states = {}
        if state is None:
            self.blocks.rewind()
        else:
            self.blocks.load_state(state)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks texts; places stay a list, they are read on the host."""
    return {
        "input_ids": torch.stack([item["input_ids"] for item in items]),
        "place": [item["place"] for item in items],
    }


@dataclass(frozen=True)
class Noise:
    """The random numbers of some texts of an update, float64 on the CPU.

    Attributes:
        t: A time for each text.
        u: When each position is masked and revealed.
        v: What a teacher draws at it.
        lengths: How many tokens of each text are real; what follows them is padding.
        revealed: The step in which each position is revealed, for a law that follows the order.
    """

    t: Float64[Tensor, " B"]
    u: Float64[Tensor, "B L"]
    v: Float64[Tensor, "B L"]
    lengths: Int64[Tensor, " B"]
    revealed: Int64[Tensor, "B L"]

    @property
    def real(self) -> Bool[Tensor, "B L"]:
        """Which positions are no padding."""
        return is_real(self.lengths, self.u.shape[1])

    def masked(self, schedule: Schedule) -> Bool[Tensor, "B L"]:
        """Which positions are MASK at time t; padding never is."""
        return is_masked(self.u, self.t, schedule) & self.real

    def told(self, schedule: Schedule) -> Float32[Tensor, " B"]:
        """1 - alpha(t): what a student that is told the time is told of each text."""
        return (1 - schedule.alpha(self.t)).float()

    def order_for(self, denoiser: object, device: torch.device) -> dict[str, Tensor]:
        """``revealed`` for a denoiser whose law follows the order; nothing for any other."""
        if not follows_order(denoiser):
            return {}
        return {"revealed": self.revealed.to(device)}

    def attention_mask(self, device: torch.device) -> Bool[Tensor, "B L"] | None:
        """``real`` where there is padding; None where there is none, for attention is faster so."""
        if int(self.lengths.min()) == self.u.shape[1]:
            return None
        return self.real.to(device)


def in_dilated_order(noise: Noise, steps: int, parts: int, schedule: Schedule) -> Noise:
    """Masks that a dilated order of N steps leaves after some of them, in place of the process's.

    The time becomes n / N, where n = 1 .. N steps are left, each as likely; and u is such that the
    positions of each step are revealed within 1 / N of the time, those of its parts one part after
    the other. So between n / N and (n - 1) / N the next step of a student of N steps is revealed,
    and between times 1 / (N * parts) apart the steps of a teacher that refines it. A text of l < N
    tokens has l steps: at n / l so many are left, and the next is revealed within 1 / N of there.

    Args:
        noise: Its t chooses how many steps are left, its u the order.
        steps: N.
        parts: Into how many steps of a teacher one of them is cut.
        schedule: alpha(t) of what reads the noise.
    """
    own = noise.lengths.clamp_max(steps)
    left = ((noise.t * own).floor() + 1).clamp_max(own)
    when = refined_order(noise.u, noise.real, steps, parts)
    step, part = when // parts, when % parts
    revealed_at = 1 - step / own[:, None].double() - (part + 0.5) / (steps * parts)
    return replace(noise, t=left / own, u=1 - schedule.alpha(revealed_at), revealed=step)


def in_dilated_orders(noise: Noise, schedule: Schedule) -> Noise:
    """The same of N in ``DILATED_STEPS``, whose turn it is by the lower bits of the time.

    A share n / N is masked, n = 1 .. N each as likely, at whatever time ``schedule`` has it. So
    with the weight 1 / share the loss is, in the mean over orders, that of each token in its step:
    given what is visible, each of the steps that are left may be the next one. Of a text of fewer
    tokens N is their number.
    """
    turn = ((noise.t * 2**20).frac() * len(DILATED_STEPS)).long()
    found = noise
    for index, most in enumerate(DILATED_STEPS):
        when = refined_order(noise.u, noise.real, most, 1)
        steps = noise.lengths.clamp_max(most)
        left = ((noise.t * steps).floor() + 1).clamp_max(steps)
        here = turn == index
        found = replace(
            found,
            t=torch.where(here, schedule.time(1 - left / steps), found.t),
            u=torch.where(here[:, None], 1 - (when + 0.5) / steps[:, None], found.u),
            revealed=torch.where(here[:, None], when, found.revealed),
        )
    return found


def is_real(lengths: Int64[Tensor, " B"], length: int) -> Bool[Tensor, "B {length}"]:
    """Which positions hold the text, and no padding: the first so many of each."""
    return torch.arange(length) < lengths[:, None]


def lengths_of(
    places: Sequence[int], *, length: int, batch: int, seed: int, share: float
) -> Int64[Tensor, " B"]:
    """How many tokens of the texts at some places are kept; a function of (seed, place) alone.

    A text is cut with the chance ``share``, to a length that is uniform on 1 .. L.

    Args:
        places: Places in the stream.
        length: L.
        batch: Texts in the whole of an update.
        seed: Of the run.
        share: The chance to be cut, in [0, 1].
    """
    whole = torch.full((len(places),), length)
    if share == 0:
        return whole
    drawn = uniforms(seed, "length", [divmod(place, batch) for place in places], 2)
    return torch.where(drawn[:, 0] < share, 1 + (drawn[:, 1] * length).long(), whole)


def noise_of(
    places: list[int],
    *,
    length: int,
    batch: int,
    seed: int,
    smallest_time: float,
    variable_length: float = 0.0,
    purpose: str = "",
) -> Noise:
    """The noise of the texts at some places of the stream; a function of (seed, place) alone.

    The times of an update are stratified over its ``batch`` texts, in a random order, so that
    every micro-batch and every process gets its share of early and late ones.

    Args:
        places: Places in the stream; text p is number p % batch of update p // batch.
        length: L.
        batch: Texts in the whole of an update.
        seed: Of the run.
        smallest_time: The smallest t.
        variable_length: The share of the texts that are cut, see ``lengths_of``.
        purpose: What the noise is for, where it is not training, such as "held-out/".
    """
    names = [divmod(place, batch) for place in places]
    strata = {update: permutation(seed, f"{purpose}strata", update, batch) for update, _ in names}
    own: Int[Tensor, " B"] = torch.tensor(
        [int(strata[update][index]) for update, index in names], dtype=torch.int64
    )
    within = uniforms(seed, f"{purpose}time", names, 1).squeeze(1)
    parts = uniforms(seed, f"{purpose}steps", names, 1).squeeze(1)
    steps = 2 ** (parts * (length.bit_length())).long()  # 1, 2, 4, ..., each as likely
    u = uniforms(seed, f"{purpose}mask", names, length)
    return Noise(
        t=stratified_times(within, own, batch, smallest_time),
        u=u,
        v=uniforms(seed, f"{purpose}rollout", names, length),
        lengths=lengths_of(places, length=length, batch=batch, seed=seed, share=variable_length),
        revealed=revealed_in(u, steps),
    )
