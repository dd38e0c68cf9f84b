"""Orders that follow the network: reveal where its law is surest."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from sdtt.diffusion.categorical import Transform, draw, level_device
from sdtt.diffusion.denoiser import Denoiser
from sdtt.sampling.ancestral import check_steps
from sdtt.sampling.dilated import places_of, residue_order
from sdtt.sampling.network import Network, tiles
from sdtt.sampling.reveal import Step, first_stop, free_positions, rank_of_free


def max_probability(p: Float64[Tensor, "N V"]) -> Float64[Tensor, " N"]:
    """The probability of the likeliest token."""
    return p.amax(-1)


def margin(p: Float64[Tensor, "N V"]) -> Float64[Tensor, " N"]:
    """How far the likeliest token is ahead of the second [Kim et al. 2025, arXiv 2502.06768]."""
    best = p.topk(min(2, p.shape[-1]), dim=-1).values
    return best[:, 0] if best.shape[1] == 1 else best[:, 0] - best[:, 1]


def negative_entropy(p: Float64[Tensor, "N V"]) -> Float64[Tensor, " N"]:
    """Sum p log p, in nats: 0 where the law is sure."""
    return torch.special.xlogy(p, p).sum(-1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "probability": max_probability,
    "margin": margin,
    "entropy": negative_entropy,
}


@dataclass(frozen=True)
class ConfidenceSettings:
    """Which positions a step takes; exactly one of steps, threshold, entropy_bound.

    Attributes:
        steps: T: a fixed number a step, equal to within one, so that T steps fill the canvas.
        threshold: Every position whose score reaches it, at least the best one.
        entropy_bound: gamma: the surest positions whose entropies, all but the largest, sum to at
            most gamma nats, at least one: what bounds the dependence that drawing them together
            ignores [EB-sampler, arXiv 2505.24857].
        score: How sure a law is: "probability" of its likeliest token, "margin" to the second, or
            negative "entropy" in nats. It is taken of the law before temperature, top-k and
            nucleus, under which all laws may look sure: at temperature 0 they are.
        order: "high" reveals the surest first, "low" the least sure, "random" whichever.
        order_temperature: Gumbel noise of this size on the scores before the choice of positions
            (MaskGIT, arXiv 2202.04200); 0 for none.
        block_length: The free positions are filled in blocks of this many, from the left
            (semi-autoregressive); None for one block.
        dilation: M: positions of one step have ranks (among the free ones) that are equal modulo M,
            so they lie M places apart; residues take turns in random order. With steps, the last
            one of a block takes what is left wherever it lies: choose a multiple of M. None for no
            such rule.

    Raises:
        ValueError: If one lies outside its range, or they do not go together.
    """

    steps: int | None = None
    threshold: float | None = None
    entropy_bound: float | None = None
    score: Literal["probability", "margin", "entropy"] = "probability"
    order: Literal["high", "low", "random"] = "high"
    order_temperature: float = 0.0
    block_length: int | None = None
    dilation: int | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        ways = {name: getattr(self, name) for name in ("steps", "threshold", "entropy_bound")}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                "the confidence sampler takes exactly one of steps, threshold and entropy_bound, "
                f"got {', '.join(given) or 'none'}"
            )
        if self.steps is not None:
            check_steps(self.steps)
        self._check_bounds()
        if self.score not in SCORES:
            raise ValueError(f"unknown score {self.score!r}; there are {', '.join(SCORES)}")
        if self.order not in ("high", "low", "random"):
            raise ValueError(f"unknown order {self.order!r}; there are high, low, random")
        if not 0 <= self.order_temperature < float("inf"):
            raise ValueError(f"order_temperature must be at least 0, got {self.order_temperature}")
        if given != ["steps"] and (self.order != "high" or self.order_temperature):
            raise ValueError(
                f"{given[0]} takes the surest positions: it goes with order='high' and "
                f"order_temperature=0, got {self.order!r} and {self.order_temperature}"
            )
        if self.order == "random" and self.order_temperature:
            raise ValueError(
                "order_temperature softens the order by score: with order='random' it must be 0, "
                f"got {self.order_temperature}"
            )
        for name in ("block_length", "dilation"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def _check_bounds(self) -> None:
        if self.threshold is not None and math.isnan(self.threshold):
            raise ValueError("threshold must be a number, got nan")
        if self.entropy_bound is not None and not self.entropy_bound >= 0:
            raise ValueError(f"entropy_bound must be at least 0 nats, got {self.entropy_bound}")


@dataclass(frozen=True)
class _Laws:
    """What the laws of all open rows say: candidate tokens, and how sure they are."""

    tokens: Int[Tensor, " N"]
    score: Float64[Tensor, " N"]
    entropy: Float64[Tensor, " N"]


class _Canvas:
    """Which positions are open, and when a text's blocks are through; on the CPU.

    Args:
        free: Where a token is wanted.
        u: The uniforms of the order.
        settings: Steps, blocks, dilation.
    """

    def __init__(
        self, free: Bool[Tensor, "B L"], u: Float64[Tensor, "B L"], settings: ConfidenceSettings
    ) -> None:
        self.masked = free.clone()
        self.u = u
        rank, total = rank_of_free(free), free.sum(1)
        size = settings.block_length or free.shape[1] or 1
        self.block = rank // size
        self.blocks = -(-total // size)
        self.steps = settings.steps
        if self.steps is not None and len(total) and self.steps < int(self.blocks.max()):
            raise ValueError(
                f"{self.steps} steps are fewer than the {int(self.blocks.max())} blocks of "
                f"{size} positions; raise steps or block_length"
            )
        if self.steps is not None and settings.dilation is not None:
            least = self.steps // self.blocks.clamp_min(1)
            if bool((total.clamp_max(min(size, settings.dilation)) > least).any()):
                raise ValueError(
                    f"positions {settings.dilation} apart take as many steps in each block, and "
                    f"there are {int(least.min())}; raise steps or lower dilation"
                )
        self.taken = torch.zeros_like(total)  # steps that the text has taken in its block
        self.current = torch.zeros_like(total)
        if settings.dilation is not None:
            count = total.clamp(1, settings.dilation)[:, None]
            self.turn = residue_order(u, free, count).gather(1, rank % count)
            self.turns = count[:, 0]
        else:
            self.turn, self.turns = torch.zeros_like(rank), torch.ones_like(total)

    def open(self) -> Bool[Tensor, "B L"]:
        """The masked positions of each text's first block that is not through."""
        blocks = self.block.masked_fill(~self.masked, torch.iinfo(torch.long).max)
        current = blocks.amin(1)
        self.taken = torch.where(current == self.current, self.taken, 0)
        self.current = current
        return self.masked & (self.block == current[:, None])

    def in_turn(self, is_open: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Those of the next residue that has an open position; in a block's last step all."""
        wait = (self.turn - self.taken[:, None]) % self.turns[:, None]
        wait = wait.masked_fill(~is_open, torch.iinfo(torch.long).max)
        here = is_open & (wait == wait.amin(1, keepdim=True))
        if self.steps is None:
            return here
        return torch.where((self.left() <= 1)[:, None], is_open, here)

    def left(self) -> Int[Tensor, " B"]:
        """Steps that each text has left for its block, this one included."""
        assert self.steps is not None
        blocks = self.blocks.clamp_min(1)
        of_block = self.steps // blocks + (self.current < self.steps % blocks).long()
        return of_block - self.taken

    def due(self, is_open: Bool[Tensor, "B L"]) -> Int[Tensor, " B"]:
        """How many each text reveals now, so that its block is through in its last step."""
        left = self.left().clamp_min(1)
        return -(-is_open.sum(1) // left)


def _laws(
    denoiser: Denoiser,
    hidden: Float[Tensor, "N D"],
    level: Float64[Tensor, " N"],
    transform: Transform,
    text: Int[Tensor, "N L"] | None,
    score: Callable[[Tensor], Tensor],
) -> _Laws:
    """A token for every row by the uniform of its position, and the score of its law."""
    tokens, scores, entropies = [], [], []
    for raw, each, v in tiles(denoiser, hidden, level, text):
        logits = transform.allowed(raw, each)
        tokens.append(draw(transform.sharpened(logits), v))
        p = logits.double().softmax(-1)
        scores.append(score(p))
        entropies.append(-negative_entropy(p))
    return _Laws(
        torch.cat(tokens).to(hidden.device), torch.cat(scores).cpu(), torch.cat(entropies).cpu()
    )


def _choose(
    canvas: _Canvas,
    is_open: Bool[Tensor, "B L"],
    candidates: Bool[Tensor, "B L"],
    laws: _Laws,
    settings: ConfidenceSettings,
) -> Bool[Tensor, "B L"]:
    """The positions that this step reveals."""
    worst = -torch.inf
    key = torch.full(is_open.shape, worst, dtype=torch.float64)
    if settings.order == "random":
        key = torch.where(candidates, canvas.u, worst)
    else:
        sign = 1 if settings.order == "high" else -1
        key[is_open] = sign * laws.score
        if settings.order_temperature:
            gumbel = -torch.log(-torch.log(canvas.u.clamp_min(2.0**-60)))
            key = key + settings.order_temperature * gumbel
        key = key.masked_fill(~candidates, worst)
    # equal scores, as those of an empty canvas, go by u
    by_u = canvas.u.argsort(dim=1, descending=True, stable=True)
    order = by_u.gather(1, key.gather(1, by_u).argsort(dim=1, descending=True, stable=True))
    place = places_of(order)
    best = candidates & (place == 0)
    if settings.steps is not None:
        return candidates & (place < canvas.due(is_open)[:, None])
    if settings.threshold is not None:
        return best | (candidates & (key >= settings.threshold))
    assert settings.entropy_bound is not None
    # in this order, those whose entropies without the largest sum to the bound [EB-sampler, eq. 8]
    entropy = torch.zeros(is_open.shape, dtype=torch.float64)
    entropy[is_open] = laws.entropy
    ordered = entropy.masked_fill(~candidates, 0.0).gather(1, order)
    within = ordered.cumsum(1) - ordered.cummax(1).values <= settings.entropy_bound
    return best | (candidates & torch.zeros_like(candidates).scatter_(1, order, within))


def confidence(
    denoiser: Denoiser,
    z: Int[Tensor, "B L"],
    settings: ConfidenceSettings,
    u: Float64[Tensor, "B L"],
    v: Float64[Tensor, "B L"],
    *,
    transform: Transform,
    attention_mask: Bool[Tensor, "B L"] | None = None,
    stop_ids: Sequence[int] = (),
) -> Iterator[Step]:
    """Reveals where the network is surest; the order depends on the laws, so the law is not exact.

    Each step asks for the law of every open position, draws a candidate token there by the uniform
    of the position, and keeps the candidates of the chosen positions. Choosing sure positions
    lowers the entropy of the text: compare at matched entropy. Each step waits for the device.

    Args:
        denoiser: p(x_i | z).
        z: The canvas, MASK where a token is wanted.
        settings: Number, threshold or entropy bound; score, order, blocks, dilation.
        u: Uniforms of a random order, of the noise on scores, of the residues' order.
        v: Uniforms that say what each position becomes.
        transform: The change of the law before a draw.
        attention_mask: True where a token is real.
        stop_ids: See ``reveal.carry_out``.

    Yields:
        The steps, in order.
    """
    network, length = Network(denoiser, z, attention_mask), z.shape[1]
    free = free_positions(denoiser, z, attention_mask)
    canvas, wanted = _Canvas(free, u, settings), free.to(z.device)
    total = canvas.masked.sum(1).clamp_min(1)
    score, index = SCORES[settings.score], 0
    while True:
        if stop_ids:
            stop = first_stop(network.canvas, wanted, stop_ids).cpu()
            canvas.masked &= torch.arange(length) < stop[:, None]
        is_open = canvas.open()
        rows = is_open.flatten().nonzero().squeeze(-1)
        if len(rows) == 0:
            return
        texts = (rows // length).unique()
        t = (canvas.masked.sum(1).double() / total)[texts]
        there = rows.to(z.device)
        begun = network.blank_texts(free)[rows // length] & (index == 0)
        hidden = network.ask(rows, texts, None, begun)  # its order is not the process's
        level = v.flatten()[rows].to(level_device(z.device))
        text = network.text_of(there) if transform.repetition_penalty != 1 else None
        laws = _laws(denoiser, hidden, level, transform, text, score)
        chosen = _choose(canvas, is_open, canvas.in_turn(is_open), laws, settings)
        now = chosen.flatten()[rows]
        revealed, tokens = there[now.to(z.device)], laws.tokens[now.to(z.device)]
        network.put(rows[now], revealed, tokens)
        canvas.masked &= ~chosen
        canvas.taken[texts] += 1
        yield Step(index, texts, t, revealed, tokens)
        index += 1
