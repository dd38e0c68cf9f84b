"""How far a student's law lies from its target: the definitions, and their gradients.

With q the student's law and p the target's, both over the same V tokens, in nats. ``tiled``
computes them from hidden rows, without a tensor of size N x V.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    # 0 log 0 = 0: a token of probability 0 adds nothing, whatever it has under b
    ratio = torch.where(log_a.isneginf(), torch.zeros_like(log_a), log_a - log_b)
    return (log_a.exp() * ratio).sum(-1)


def reverse_kl(student: Float[Tensor, "N V"], target: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(q || p) = sum q (log q - log p) from logits: the paper's choice [SDTT, sec. 3.2]."""
    return _kl(student.log_softmax(-1), target.log_softmax(-1))


def forward_kl(student: Float[Tensor, "N V"], target: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(p || q) = sum p (log p - log q) from logits."""
    return _kl(target.log_softmax(-1), student.log_softmax(-1))


def jsd(
    student: Float[Tensor, "N V"], target: Float[Tensor, "N V"], beta: float = 0.5
) -> Float[Tensor, " N"]:
    """Beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, from logits.

    Jensen-Shannon at beta = 1/2, at most log 2. Divided by beta it tends to the forward KL as
    beta -> 0, divided by 1 - beta to the reverse KL as beta -> 1 [GKD, arXiv 2306.13649, eq. 1].
    """
    log_q, log_p = student.log_softmax(-1), target.log_softmax(-1)
    # where both are -inf the gradient of logaddexp is not a number; exp(lowest) is 0 as well
    excluded = log_q.isneginf() & log_p.isneginf()
    lowest = torch.finfo(log_q.dtype).min / 4
    log_q, log_p = log_q.masked_fill(excluded, lowest), log_p.masked_fill(excluded, lowest)
    log_m = torch.logaddexp(log_q + math.log(1 - beta), log_p + math.log(beta))
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def tvd(student: Float[Tensor, "N V"], target: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Total variation 1/2 sum |q - p|, on probabilities; at most 1."""
    return (student.softmax(-1) - target.softmax(-1)).abs().sum(-1) / 2


def mse(student: Float[Tensor, "N V"], target: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """The mean over the tokens of (log q - log p)^2, as the paper defines it [SDTT, sec. 3.2].

    Excluded tokens (-inf on both sides) are not counted.
    """
    log_q, log_p = student.log_softmax(-1), target.log_softmax(-1)
    excluded = log_q.isneginf() & log_p.isneginf()
    difference = torch.where(excluded, torch.zeros_like(log_q), log_q - log_p)
    return difference.square().sum(-1) / (~excluded).sum(-1)


# The same with gradients written out. With g = dD / d log q, the gradient with respect to the
# student's logits is g - q sum(g). Each pass over a tile costs, so none is made twice.


def _log_ratio(weight: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """Log a - log b, and 0 where its weight is 0: there both may be -inf."""
    return (log_a - log_b).masked_fill_(weight == 0, 0)


def _reverse_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    q = log_q.exp()
    ratio = _log_ratio(q, log_q, log_p)
    value = torch.linalg.vecdot(q, ratio)
    return value, ratio.sub_(value[:, None]).mul_(q)


def _forward_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    p = log_p.exp()
    value = torch.linalg.vecdot(p, _log_ratio(p, log_p, log_q))
    return value, log_q.exp().sub_(p)


def _jsd(log_q: Tensor, log_p: Tensor, beta: float = 0.5) -> tuple[Tensor, Tensor]:
    q, p = log_q.exp(), log_p.exp()
    # of what is smaller than float32's least normal number the mean may be 0, its weight not
    log_m = torch.lerp(q, p, beta).clamp_min_(torch.finfo(q.dtype).tiny).log_()
    ratio = _log_ratio(q, log_q, log_m)
    own = torch.linalg.vecdot(q, ratio)
    value = beta * torch.linalg.vecdot(p, _log_ratio(p, log_p, log_m)) + (1 - beta) * own
    return value, ratio.sub_(own[:, None]).mul_(q).mul_(1 - beta)


def _tvd(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    q = log_q.exp()
    difference = q - log_p.exp()
    value = difference.abs().sum(-1) / 2
    sign = difference.sign_()
    return value, sign.sub_(torch.linalg.vecdot(q, sign)[:, None]).mul_(q).div_(2)


def _mse(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    excluded = log_q.isneginf() & log_p.isneginf()
    count = (~excluded).sum(-1, keepdim=True).to(log_q)
    difference = (log_q - log_p).masked_fill_(excluded, 0)
    value = difference.square().sum(-1) / count.squeeze(-1)
    slope = difference.sum(-1, keepdim=True)
    return value, difference.sub_(log_q.exp().mul_(slope)).mul_(2 / count)


@dataclass(frozen=True)
class Divergence:
    """A divergence of a student's law from a target: called with logits it is its definition.

    Attributes:
        definition: (student's logits, target's logits), each N x V, -> N values.
        with_gradient: (log q, log p), each N x V, -> N values, and their gradient with respect to
            the student's logits, N x V.
    """

    definition: Callable[[Tensor, Tensor], Tensor]
    with_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def __call__(
        self, student: Float[Tensor, "N V"], target: Float[Tensor, "N V"]
    ) -> Float[Tensor, " N"]:
        """The divergence of each row, from logits."""
        return self.definition(student, target)


DIVERGENCES: dict[str, Divergence] = {
    "reverse_kl": Divergence(reverse_kl, _reverse_kl),
    "forward_kl": Divergence(forward_kl, _forward_kl),
    "jsd": Divergence(jsd, _jsd),
    "tvd": Divergence(tvd, _tvd),
    "mse": Divergence(mse, _mse),
}


def divergence_named(name: str, beta: float = 0.5) -> Divergence:
    """A divergence by its name.

    Args:
        name: One of ``DIVERGENCES``.
        beta: Of the generalised ``jsd``, in (0, 1); the others have none.

    Raises:
        ValueError: If there is no such divergence, or beta lies outside (0, 1).
    """
    if name not in DIVERGENCES:
        raise ValueError(f"unknown divergence {name!r}; there are {', '.join(DIVERGENCES)}")
    if not 0 < beta < 1:
        raise ValueError(
            f"beta must lie in (0, 1), got {beta}; its ends are forward_kl (0) and reverse_kl (1)"
        )
    if name == "jsd":
        return Divergence(partial(jsd, beta=beta), partial(_jsd, beta=beta))
    return DIVERGENCES[name]
