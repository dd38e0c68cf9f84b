"""The autoregressive twin, a token at a time, as a comparison for samplers."""

import time
from statistics import median
from typing import Any

import torch
import transformers

from parts.floors import token_bytes
from sdtt.diffusion.categorical import draw
from sdtt.evaluation.timing import wait
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.sampling.autoregressive import compiled_next_token, next_token


def causal_twin(model: MDLMForMaskedLM) -> CausalLM:
    """An autoregressive model of the same shape, without conditioning."""
    shape = model.config.shape | {"conditioning": "none", "cond_dim": None, "bos_token_id": 0}
    torch.manual_seed(0)
    with torch.device(model.device):
        return CausalLM(CausalConfig(**shape)).eval().to(model.dtype)


@torch.no_grad()
def autoregressive(
    model: CausalLM, batch: int, runs: int, speed: float, *, compiled: bool
) -> dict[str, Any]:
    """Seconds of ``model_length`` tokens: a pass of one token, its cache of the mean length.

    A static cache is read in full for every token; the mean length is what one that grows with the
    text costs. Tokens are drawn in float64, as ours are.
    Where the kernels at hand leave more than half of the bandwidth unused, the comparison is also
    made with an autoregressive model that would use half of it.
    """
    length = model.config.model_length
    cache = transformers.StaticCache(config=model.config, max_cache_len=length // 2)
    one_token = compiled_next_token(model) if compiled else next_token(model)
    ids = torch.zeros(batch, 1, dtype=torch.long, device=model.device)
    v = torch.full((batch,), 0.5, dtype=torch.float64, device=model.device)
    next_token(model)(ids, cache)
    taken = []
    for _ in range(runs + 3):
        wait(model.device)
        start = time.perf_counter()
        token = draw(one_token(ids.clone(), cache), v)
        wait(model.device)
        taken.append(time.perf_counter() - start)
        ids = token[:, None]
    each = median(taken[3:])
    floor = token_bytes(model, batch, length // 2) / speed
    return {
        "batch": batch,
        "compiled": compiled,
        "packed": model.is_packed,
        "seconds_a_token": each,
        "seconds": each * length,
        "floor_over_measured": floor / each,
        "seconds_at_half_speed": min(each, 2 * floor) * length,
    }
