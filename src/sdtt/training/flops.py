"""The arithmetic of an update: the floating-point operations that the mathematics needs.

Counted are the matrix products, a multiplication and an addition as two operations: with P the
weights that every token of a pass is multiplied with, T its tokens in B texts of L, and N the rows
that are projected to V scores,

    forward:   2 P T + 4 L^2 D a block and text (half of it where attention is causal) + 2 N V D
    backward:  twice as much; 2 P T less for weights that are frozen

Where whole orders are learned each token passes twice, visible and masked, and sees half of the
text.

Norms, activations, softmax and the optimiser are left out (about a hundredth at width 768), and so
is what gradient checkpointing computes a second time: the mathematics does not need it.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from sdtt.diffusion.noise import Schedule
from sdtt.models.adapters import network_of
from sdtt.models.blocks import Condition, Modulation
from sdtt.models.causal import CausalLM
from sdtt.training.rounds import Round

QUADRATURE = 4096
"""Points of the midpoint rule over t in [smallest, 1]."""


@dataclass(frozen=True)
class Network:
    """What the arithmetic must know of a network.

    Attributes:
        body: P, the weights that each token is multiplied with: 12 D^2 a block. Embedding and head
            are not among them, nor what is computed once a pass (the constant condition).
        body_trained: Those of them that have a gradient.
        head: V D, the weights that a projected row is multiplied with.
        head_trained: Whether they have a gradient.
        blocks: Layers with attention.
        width: D.
        causal: Whether a token sees only those before it.
        conditioned: Whether a condition shifts, scales and gates the blocks.
        parameters: All numbers of the network, tied ones once.
        trained: Those of them that have a gradient.
    """

    body: int
    body_trained: int
    head: int
    head_trained: bool
    blocks: int
    width: int
    causal: bool
    conditioned: bool
    parameters: int
    trained: int


def shape_of(model: Any) -> Network:
    """The network of a transformers model that names its head; it may be on the meta device.

    Args:
        model: A denoiser or causal model, with LoRA or without. Where its config does not say
            ``hidden_size`` and ``num_hidden_layers``, attention is not counted; of a law that is no
            module only the head is.
    """
    inner = network_of(model)
    config = getattr(inner, "config", None)
    head = inner.head.weight if hasattr(inner, "head") else inner.get_output_embeddings().weight
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    once = {
        id(part)
        for module in modules
        if isinstance(module, Condition | Modulation)
        for part in module.modules()
    }
    body = [
        module.weight
        for module in modules
        if isinstance(module, nn.Linear) and id(module) not in once and module.weight is not head
    ]
    everything = list(model.parameters()) if isinstance(model, nn.Module) else []
    return Network(
        body=sum(weight.numel() for weight in body),
        body_trained=sum(weight.numel() for weight in body if weight.requires_grad),
        head=head.numel(),
        head_trained=head.requires_grad,
        blocks=getattr(config, "num_hidden_layers", 0),
        width=getattr(config, "hidden_size", 0),
        causal=isinstance(inner, CausalLM),
        conditioned=any(isinstance(module, Modulation) for module in modules),
        parameters=sum(each.numel() for each in everything),
        trained=sum(each.numel() for each in everything if each.requires_grad),
    )


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, by where they are spent.

    Attributes:
        body: In the linear maps of the blocks.
        attention: In scores and averages of attention.
        head: In projections to the vocabulary.
    """

    body: float
    attention: float
    head: float

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            self.body + other.body, self.attention + other.attention, self.head + other.head
        )

    @property
    def total(self) -> float:
        """All of them: what MFU counts."""
        return self.body + self.attention + self.head


def forward_flops(network: Network, *, texts: float, length: int, rows: float) -> Flops:
    """One pass over some texts of ``length`` tokens that projects some rows."""
    pairs = length * length / (2 if network.causal else 1)
    return Flops(
        body=2 * network.body * texts * length,
        attention=4 * pairs * network.width * network.blocks * texts,
        head=2 * network.head * rows,
    )


def training_flops(network: Network, *, texts: float, length: int, rows: float) -> Flops:
    """A pass and its backward pass: gradients of what it computed, and of the trained weights.

    Args:
        network: What is trained.
        texts: Texts that pass.
        length: L.
        rows: Rows projected to the vocabulary.
    """
    once = forward_flops(network, texts=texts, length=length, rows=rows)
    return Flops(
        body=2 * once.body + 2 * network.body_trained * texts * length,
        attention=3 * once.attention,
        head=(3 if network.head_trained else 2) * once.head,
    )


def whole_order_flops(network: Network, *, texts: float, length: int) -> Flops:
    """A pass over whole orders and its backward pass.

    Each token passes twice, visible and masked, and sees half of the text; each is projected once.
    """
    halved = replace(network, causal=True)
    return training_flops(halved, texts=2 * texts, length=length, rows=texts * length)


def masked_share(schedule: Schedule, smallest_time: float = 0.0) -> float:
    """E[1 - alpha(t)] over t in [smallest_time, 1]: the expected share of masked positions.

    1/2 for the log-linear schedule from 0, 1 - 2/pi for the cosine.
    """
    return float((1 - schedule.alpha(_times(smallest_time))).mean())


@dataclass(frozen=True)
class Passes:
    """What k teacher steps ask of a text, on average over t in [0, 1].

    Attributes:
        masked: The share of its tokens that are masked at t: both laws are projected.
        drawn: The share that a pass before the last decides: they are projected once more, for the
            draw that leads on.
        passes: Teacher passes that it needs, at most k: one that decides nothing of it is left out.
    """

    masked: float
    drawn: float
    passes: float


def expected_passes(schedule: Schedule, dt: float, teacher_steps: int, length: int) -> Passes:
    """What k teacher steps of size dt ask of a text of L tokens.

    A position is decided by pass i < k - 1 with the chance q that it is revealed between t - i dt
    and t - (i+1) dt, alpha(t - (i+1) dt) - alpha(t - i dt), and by the last with 1 - alpha(t -
    (k-1) dt). A pass decides something of a text with chance 1 - (1 - q)^L. Times are clamped at
    0, as ``noise.teacher_times`` does.
    """
    t = _times(0.0)
    hidden = [1 - schedule.alpha((t - i * dt).clamp_min(0)) for i in range(teacher_steps)]
    decided = [now - after for now, after in pairwise(hidden)]
    drawn = sum((float(q.mean()) for q in decided), 0.0)
    passes = sum(float((1 - (1 - q) ** length).mean()) for q in [*decided, hidden[-1]])
    return Passes(float(hidden[0].mean()), drawn, passes)


def dilated_passes(student_steps: int, teacher_steps: int, length: int) -> Passes:
    """What k teacher steps ask of a text whose masks a dilated order of N student steps leaves.

    n = 1 .. N steps are left, each as likely, so (N + 1) / 2N of the text is masked; all passes but
    the last decide, and draw, a k-th of a step each. While a step has k tokens every pass decides
    something. Of fewer it has as many parts as tokens, each as likely to be any of the k, and the
    last pass is left out where only they are masked and none of them is the last.

    Args:
        student_steps: N; of a shorter text the number of its tokens.
        teacher_steps: k.
        length: L, the tokens of the text.
    """
    n, k = min(student_steps, length), min(teacher_steps, length)
    early = min(teacher_steps - 1, length) / k  # the chance of a part to come before the last pass
    small, rest = divmod(length, n)  # tokens of a step; so many steps have one more
    parts = (rest * min(small + 1, k) + (n - rest) * min(small, k)) / n
    last = (n - 1 + parts * (1 - early)) / n
    return Passes((n + 1) / (2 * n), early / n, parts * early + last)


def passes_of_round(order: str, schedule: Schedule, now: Round, length: int) -> Passes:
    """What the teacher steps of a round ask of a text, in either order of the noise."""
    if order == "dilated":
        return dilated_passes(now.student_sampling_steps, now.teacher_steps, length)
    return expected_passes(schedule, now.dt, now.teacher_steps, length)


def distillation_flops(
    student: Network, teacher: Network, passes: Passes, *, texts: int, length: int
) -> Flops:
    """An update of SDTT: the student's two passes, the teacher's, and all projections."""
    tokens = texts * length
    of_student = training_flops(student, texts=texts, length=length, rows=passes.masked * tokens)
    of_teacher = forward_flops(
        teacher,
        texts=passes.passes * texts,
        length=length,
        rows=(passes.masked + passes.drawn) * tokens,
    )
    return of_student + of_teacher


def _times(smallest: float) -> torch.Tensor:
    """The midpoints of ``QUADRATURE`` equal parts of [smallest, 1]."""
    places = (torch.arange(QUADRATURE, dtype=torch.float64) + 0.5) / QUADRATURE
    return smallest + (1 - smallest) * places
