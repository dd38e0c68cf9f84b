"""The sampler that the peers run: every position projected and drawn, in every step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdtt.evaluation.timing import wait
from sdtt.models.mdlm import MDLMForMaskedLM


def law_of(model: MDLMForMaskedLM, hidden: Tensor, shape: torch.Size) -> Tensor:
    """The law of every position over the whole vocabulary, float32; MASK has probability 0."""
    logits = model.scores(hidden).view(*shape, -1).float()
    logits[..., model.mask_token_id] = float("-inf")
    return logits.log_softmax(-1).exp()


def draw_all(p: Tensor, z: Tensor, t: Tensor, s: Tensor, mask_id: int) -> Tensor:
    """One reverse step by float32 Gumbel noise over the vocabulary and MASK, everywhere."""
    q = p * (t - s)
    q[..., mask_id] = s
    noise = 1e-10 - (torch.rand_like(q) + 1e-10).log()
    x = (q / noise).argmax(-1)
    return torch.where(z == mask_id, x, z)


@dataclass
class PlainSampler:
    """The reverse process of MDLM in T steps as it is usually written.

    Attributes:
        model: The same model, in the same form, that our sampler runs.
        compiled: Whether what follows the body is compiled too.
        cached: Whether a step whose predecessor changed nothing in the whole batch takes its law
            instead of a pass, as mdlm's sampler can.
        parts: Seconds by part of the work, where ``clock`` is set.
    """

    model: MDLMForMaskedLM
    compiled: bool = False
    cached: bool = False
    clock: Callable[[], float] | None = None
    parts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Chooses the functions."""
        compiled = torch.compile(dynamic=False) if self.compiled else (lambda f: f)
        self.law, self.draw = compiled(law_of), compiled(draw_all)

    @torch.no_grad()
    def steps(self, z: Tensor, total: int, start: int = 0) -> Iterator[bool]:
        """Steps ``start`` to ``total`` of ``total`` from a canvas: whether each needed a pass."""
        p, mask_id = None, self.model.mask_token_id
        for index in range(start, total):
            # as tensors: torch.compile would compile anew for every number
            t, s = (torch.full((), 1 - i / total, device=z.device) for i in (index, index + 1))
            passed = p is None
            if p is None:
                hidden = self._timed("body", lambda z=z: self.model.hidden(z))
                p = self._timed("head and softmax", self.law, self.model, hidden, z.shape)
            new = self._timed("noise and argmax", self.draw, p, z, t, s, mask_id)
            if not (self.cached and torch.equal(new, z)):
                p = None
            z = new
            yield passed

    def _timed(self, name: str, call: Callable[..., Tensor], *arguments: object) -> Tensor:
        if self.clock is None:
            return call(*arguments)
        start = self.clock()
        result = call(*arguments)
        wait(result.device)
        self.parts[name] = self.parts.get(name, 0.0) + self.clock() - start
        return result
