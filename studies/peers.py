"""The sampler that the peers run, as `benchmarks/` writes it, for texts instead of times."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from parts.plain import draw_all, law_of


@torch.no_grad()
def draw_as_the_peers_do(model: Any, z: Tensor, steps: int, seed: int) -> Tensor:
    """Every position drawn in every step, MASK among the tokens, by Gumbel noise in float32."""
    torch.manual_seed(seed)
    for index in range(steps):
        t, s = (torch.tensor(1 - i / steps) for i in (index, index + 1))
        z = draw_all(law_of(model, model.hidden(z), z.shape), z, t, s, model.mask_token_id)
    return z
