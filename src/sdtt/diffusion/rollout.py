"""Algorithm 1 of SDTT: k steps of a teacher, and under which law each position was decided."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdtt.diffusion.categorical import draw, level_device
from sdtt.diffusion.denoiser import Denoiser, hidden_of_rows
from sdtt.diffusion.noise import Schedule, is_masked
from sdtt.diffusion.tiling import tile_numbers

TILE_NUMBERS = 2**22
"""Numbers of a tile of the teacher's scores: 32 MiB in float64, in which a CPU draws tokens."""


@dataclass(frozen=True)
class Rollout:
    """What k teacher steps say of the N masked positions of ``z_t``.

    Attributes:
        hidden: The teacher's last hidden row of the pass that decided each position, in the order
            of the masked positions: D numbers, from which the head makes the V of the law.
        decided: Which pass that was, 0 .. k - 1.
        z: The canvas that the last pass saw, B x L.
    """

    hidden: Float[Tensor, "N D"]
    decided: Int[Tensor, " N"]
    z: Int[Tensor, "B L"]


@torch.no_grad()
def rollout(
    teacher: Denoiser,
    z_t: Int[Tensor, "B L"],
    u: Float[Tensor, "B L"],
    v: Float[Tensor, "B L"],
    times: Float[Tensor, "B K"],
    schedule: Schedule,
    attention_mask: Bool[Tensor, "B L"] | None = None,
    revealed: Int[Tensor, "B L"] | None = None,
) -> Rollout:
    """The targets of SDTT for the masked positions of ``z_t`` [SDTT, Algorithm 1].

    Pass i sees the canvas at times[:, i]. The positions revealed on the way to times[:, i + 1] are
    decided by its law and take a token drawn from it; those still masked after the last pass are
    decided by the last pass. The law is the target, not the drawn token.

    Which positions are revealed does not depend on the laws, so it is known beforehand: position i
    is still masked at s exactly where u_i < 1 - alpha(s). Only the rows that a pass decides are
    read from it, and texts of which it decides nothing are left out of the pass.

    Args:
        teacher: p(x_i | z); nothing here has a gradient.
        z_t: Texts masked at times[:, 0] by u.
        u: The uniforms that masked them.
        v: Uniforms for the tokens that the teacher draws.
        times: k + 1 decreasing times for each text, by one of ``noise.TIME_GRIDS``.
        schedule: alpha(t).
        attention_mask: True where a token is real, False where it is padding, which is never MASK.
        revealed: In which step, below L, what is visible in ``z_t`` was revealed: of a teacher
            whose law follows the order. What it draws itself is revealed after that.
    """
    passes = times.shape[1] - 1
    still_masked = torch.stack([is_masked(u, s, schedule) for s in times[:, 1:].unbind(1)])
    # decided by the first pass after which it is not masked, or else by the last
    decided = still_masked[:-1].sum(0).to(z_t.device)
    order = (z_t == teacher.mask_token_id).flatten().nonzero().squeeze(-1)
    levels = v.flatten().to(level_device(z_t.device))  # once, and not a tile at a time
    z, hidden, where = z_t, [], []
    for i in range(passes):
        rows = order[decided.flatten()[order] == i]
        if len(rows) == 0:
            continue
        told = (1 - schedule.alpha(times[:, i])).float().to(z.device)
        hidden.append(hidden_of_rows(teacher, z, rows, told, attention_mask, revealed))
        where.append(rows)
        if i < passes - 1:  # the law is the target, the draw only leads on (SDTT, Algorithm 1)
            tokens = _draw_by_tiles(teacher, hidden[-1], levels[rows.to(levels.device)])
            z = z.flatten().index_copy(0, rows, tokens).view_as(z)
            if revealed is not None:
                own = torch.full_like(rows, z.shape[1] + i)
                revealed = revealed.flatten().index_copy(0, rows, own).view_as(z)
    if not hidden:
        raise ValueError("a rollout needs at least one masked position, got none")
    return Rollout(torch.cat(hidden)[torch.cat(where).argsort()], decided.flatten()[order], z)


def _draw_by_tiles(
    teacher: Denoiser, hidden: Float[Tensor, "N D"], v: Float[Tensor, " N"]
) -> Int[Tensor, " N"]:
    """A token for each row, few rows at a time: nothing of size N x V is made."""
    size = max(1, tile_numbers(TILE_NUMBERS, hidden.device) // teacher.head.weight.shape[0])
    tiles = zip(hidden.split(size), v.split(size), strict=True)
    return torch.cat([draw(teacher.logits(rows), level) for rows, level in tiles])
