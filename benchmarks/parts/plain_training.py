"""A distillation step as the reference does it: laws of all positions over the whole vocabulary."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from parts.plain import draw_all
from sdtt.models.mdlm import MDLMForMaskedLM


def log_law(model: MDLMForMaskedLM, z: Tensor) -> Tensor:
    """Log p of every position over the clean tokens, B x L x V, float32."""
    scores = model.scores(model.hidden(z)).view(*z.shape, -1)
    return scores[..., : model.mask_token_id].float().log_softmax(-1)


@torch.no_grad()
def targets(teacher: MDLMForMaskedLM, z: Tensor, times: list[float]) -> Tensor:
    """Algorithm 1: the law that each position was decided under, B x L x V."""
    mask_id = teacher.mask_token_id
    result = torch.zeros(())
    masked = z == mask_id
    for t, s in pairwise(times):
        log_p = log_law(teacher, z)
        result = torch.where(masked[..., None], log_p, result)
        law = torch.cat([log_p.exp(), torch.zeros_like(log_p[..., :1])], -1)
        z = draw_all(law, z, torch.tensor(t), torch.tensor(s), mask_id)
        masked = z == mask_id
    return result


def loss_of_laws(log_q: Tensor, log_p: Tensor, masked: Tensor) -> Tensor:
    """Reverse KL of two laws of all positions, the mean over the masked ones."""
    values = (log_q.exp() * (log_q - log_p)).sum(-1)
    return (values * masked).sum() / masked.sum()


@dataclass
class PlainDistillation:
    """One update, but for the optimiser."""

    student: MDLMForMaskedLM
    teacher: MDLMForMaskedLM
    times: list[float]

    def step(self, z: Tensor) -> Tensor:
        """Loss and gradients of the masked texts z."""
        target = targets(self.teacher, z, self.times)
        masked = z == self.teacher.mask_token_id
        loss = loss_of_laws(log_law(self.student, z), target, masked)
        loss.backward()
        return loss.detach()
