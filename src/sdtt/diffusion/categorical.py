"""Exact draws from logits in float64, and transforms of a law: temperature, nucleus, penalties."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

RUN = 256
"""Tokens that a draw sums first."""

DRAWN_NUMBERS = 2**19
"""Numbers from which a CPU draws at once: its caches hold them in float64. Large tensors, whose
memory is new each time, cost it more than the arithmetic."""


def draw(logits: Float[Tensor, "N V"], v: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """One token a row: the inverse distribution function of softmax(logits) at v, in float64.

    Low precision loses rare tokens and so lowers the entropy of what is drawn (Zheng et al. 2024);
    float64 on the few rows that are drawn costs little. A token of probability 0 is never drawn.

    Args:
        logits: Log-probabilities up to a constant; -inf is probability 0.
        v: A float64 uniform in [0, 1) for each row.

    Raises:
        ValueError: On a CPU, if a row is no law: it holds nan, or +inf, or nothing but -inf. (On an
            accelerator, whose answer would have to be waited for, the kernels stop.)
    """
    if logits.device.type == "mps":  # has no float64
        return draw(logits.cpu(), v.cpu()).to(logits.device)
    rows = few_rows(logits.shape[1], logits.device)
    if rows is not None and len(logits) > rows:
        parts = zip(logits.split(rows), v.split(rows), strict=True)
        return torch.cat([draw(*part) for part in parts])
    law = logits.double().softmax(-1)
    # first a run of tokens, then a token of the run: a sum costs less than its V partial sums
    whole = law.shape[1] // RUN * RUN
    runs = torch.cat(
        [law[:, :whole].unflatten(1, (-1, RUN)).sum(-1), law[:, whole:].sum(-1, True)], 1
    )
    ends = runs.cumsum(1)
    total = ends[:, -1:]
    if total.device.type == "cpu" and not bool(total.isfinite().all()):
        raise ValueError(
            "the network gave scores that are no law (nan or infinity): load it in float32 or "
            "bfloat16 if it is in float16, or ban fewer tokens if all of them are banned"
        )
    # strictly below the total, or rounding could step past the last token
    level = torch.minimum(v.to(total)[:, None] * total, torch.nextafter(total, 0 * total))
    run = torch.searchsorted(ends, level, right=True)
    column = run * RUN + torch.arange(RUN, device=law.device)
    inside = law.gather(1, column.clamp_max(law.shape[1] - 1)) * (column < law.shape[1])
    within = inside.cumsum(1)
    left = (level - (ends - runs).gather(1, run)).clamp_min(0)
    place = torch.searchsorted(within, left, right=True)
    # the two sums of a run may differ in the last bit: no further than its last possible token
    last = torch.searchsorted(within, within[:, -1:].contiguous())
    return (run * RUN + torch.minimum(place, last)).squeeze(1)


def few_rows(columns: int, device: torch.device) -> int | None:
    """How many rows of so many numbers a device best draws from at once; None for all of them."""
    return max(1, DRAWN_NUMBERS // columns) if device.type == "cpu" else None


def level_device(device: torch.device) -> torch.device:
    """Where float64 uniforms are kept: with the canvas, but on the CPU for MPS, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def temperature(logits: Float[Tensor, "N V"], value: float) -> Float[Tensor, "N V"]:
    """The law proportional to p^(1 / value); at 0 all mass on the likeliest tokens."""
    if value < torch.finfo(logits.dtype).tiny:  # 0, for this dtype
        likeliest = logits == logits.amax(-1, keepdim=True)
        return torch.zeros_like(logits).masked_fill(~likeliest, float("-inf"))
    return (logits - logits.amax(-1, keepdim=True)) / value  # no number may become infinite


def top_p(logits: Float[Tensor, "N V"], mass: float) -> Float[Tensor, "N V"]:
    """The nucleus: the fewest likeliest tokens whose probabilities reach ``mass``; others -inf.

    Holtzman et al. 2020 (arXiv 1904.09751). The likeliest token always stays.
    """
    ordered, order = logits.double().sort(dim=-1, descending=True, stable=True)
    law = ordered.softmax(-1)
    before = law.cumsum(-1) - law
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= mass)
    return logits.masked_fill(outside, float("-inf"))


def top_k(logits: Float[Tensor, "N V"], count: int) -> Float[Tensor, "N V"]:
    """The law of the ``count`` likeliest tokens; tokens as likely as the last of them stay too.

    Fan et al. 2018 (arXiv 1805.04833).
    """
    if count >= logits.shape[-1]:
        return logits
    smallest = logits.topk(count, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest, float("-inf"))


def repetition_penalty(
    logits: Float[Tensor, "N V"], text: Int[Tensor, "N L"], penalty: float
) -> Float[Tensor, "N V"]:
    """The law proportional to p(x)^penalty where x already stands in the text, else to p(x).

    Keskar et al. 2019 (CTRL, arXiv 1909.05858), taken of normalised log-probabilities: they are
    never positive, so the penalty lowers every repeated token, whatever constant the logits carry.

    Args:
        logits: Log-probabilities up to a constant.
        text: The text of each row; ids beyond V, such as MASK, count for nothing.
        penalty: Above 1 repeats less, below 1 more; 1 changes nothing.
    """
    log_p = logits.double().log_softmax(-1)
    counted = text < logits.shape[-1]
    # an id that does not count penalises column V, which is cut off again
    padded = torch.nn.functional.pad(torch.ones_like(log_p), (0, 1), value=1.0)
    column = torch.where(counted, text, logits.shape[-1])
    exponent = padded.scatter(-1, column, penalty)[:, :-1]
    # a token of probability 0 keeps it: -inf * penalty is -inf
    return (log_p * exponent).to(logits.dtype)


@dataclass(frozen=True)
class Transform:
    """The change of a law that a sampler makes before it draws.

    In this order: repetition penalty, banned tokens, temperature, top-k, nucleus.

    Attributes:
        temperature: The law is p^(1 / temperature), normalised; 0 takes the likeliest token.
        top_p: Nucleus, in (0, 1]; 1 keeps every token.
        top_k: Only so many likeliest tokens; None keeps every token.
        repetition_penalty: The power to which the probability of a token is raised that the text
            already holds; 1 changes nothing.
        banned: Ids that are never drawn.

    Raises:
        ValueError: If one lies outside its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    banned: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise ValueError(
                f"temperature must be a finite number of at least 0, got {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}; 1 keeps every token")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}; None keeps every token")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(
                f"repetition_penalty must be above 0, got {self.repetition_penalty}; "
                "1 changes nothing"
            )
        if any(token < 0 for token in self.banned):
            raise ValueError(f"banned ids must be at least 0, got {min(self.banned)}")

    def __call__(
        self, logits: Float[Tensor, "N V"], text: Int[Tensor, "N L"] | None = None
    ) -> Float[Tensor, "N V"]:
        """The changed law of each row: ``sharpened(allowed(logits, text))``."""
        return self.sharpened(self.allowed(logits, text))

    def allowed(
        self, logits: Float[Tensor, "N V"], text: Int[Tensor, "N L"] | None = None
    ) -> Float[Tensor, "N V"]:
        """The law of each row with its penalties and without what is banned.

        Args:
            logits: Log-probabilities up to a constant.
            text: The text of each row, for the repetition penalty.

        Raises:
            ValueError: If every token of the vocabulary is banned.
        """
        if self.repetition_penalty != 1 and text is not None:
            logits = repetition_penalty(logits, text, self.repetition_penalty)
        if self.banned:
            columns = [token for token in set(self.banned) if token < logits.shape[-1]]
            if len(columns) == logits.shape[-1]:
                raise ValueError(f"all {len(columns)} tokens of the vocabulary are banned")
            hidden = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
            for column in columns:  # each a fill: a list of them would wait for the device
                hidden[column : column + 1] = True
            logits = logits.masked_fill(hidden, float("-inf"))
        return logits

    def sharpened(self, logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """A law under temperature, top-k and nucleus."""
        if self.temperature != 1:
            logits = temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = top_k(logits, self.top_k)
        return top_p(logits, self.top_p) if self.top_p < 1 else logits
