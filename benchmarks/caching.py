"""A model that keeps a cache: against passes over the whole text, and against autoregression.

    python benchmarks/caching.py                                  # minutes: small, 8 and 32 steps
    python benchmarks/caching.py --full --compiled --output results/caching

Weights are random: time does not depend on them. All sides have one shape and dtype, draw 1,024
tokens from nothing in float64, and take turns; medians are reported. The caching side is timed in
whole generations, and the better of its forms is compared. A pass of the whole text costs the same
in every step, so there the median of a few passes counts times their number, the first, which is
shared, apart.
"""

import argparse
import gc
import json
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from parts.autoregression import autoregressive, causal_twin
from parts.floors import matmul_rate
from parts.networks import DTYPES, network
from parts.record import machine, names, numbers, table

import sdtt
from sdtt.diffusion.categorical import Transform
from sdtt.diffusion.uniforms import uniforms
from sdtt.evaluation.timing import wait
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.models.pack import pack
from sdtt.models.placement import accelerator
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.dilated import DilatedSettings, dilated

COLUMNS = {
    "model": "size",
    "dtype": "dtype",
    "batch": "batch",
    "steps": "steps",
    "cached, s": "cached",
    "cached compiled, s": "cached_compiled",
    "whole passes, s": "whole",
    "AR, s": "ar",
    "AR compiled, s": "ar_compiled",
    "whole / cached": "over_whole",
    "best AR / cached": "over_ar",
    "floor / cached": "floor_over_measured",
    "cache, MiB": "cache_mib",
}


def cached_flops(model: MDLMForMaskedLM, length: int, steps: int) -> float:
    """Multiply-adds times two of one text.

    Every token is computed once masked and once visible, but masked in the first step, where one
    row serves all, and visible in the last; attention sees half of the text in the mean, and the
    head has every token once.
    """
    config = model.config
    width, tokens = config.hidden_dim, length * (2 - 2 / steps)
    block = tokens * (24 * width**2 + 2 * 2 * width * length / 2)
    return config.n_blocks * block + 2 * length * width * config.vocab_size


@torch.no_grad()
def generation(model: MDLMForMaskedLM, batch: int, steps: int) -> float:
    """Seconds of one whole generation."""
    canvas = canvas_of(model, model.config.model_length, batch).to(model.device)
    wait(model.device)
    start = time.perf_counter()
    sdtt.sample(model, canvas, sampler="dilated", steps=steps, batch_size=batch)
    wait(model.device)
    return time.perf_counter() - start


@torch.no_grad()
def passes(model: MDLMForMaskedLM, batch: int, count: int) -> tuple[float, list[float]]:
    """Seconds of the first step of a dilated order of 32, and of the next ``count``."""
    length = model.config.model_length
    canvas = canvas_of(model, length, batch).to(model.device)
    u, v = (uniforms(0, purpose, range(batch), length) for purpose in ("reveal", "token"))
    taken = []
    wait(model.device)
    last = time.perf_counter()
    steps = dilated(model, canvas, DilatedSettings(steps=32), u, v, transform=Transform())
    for _ in islice(steps, 1 + count):
        wait(model.device)
        now = time.perf_counter()
        taken.append(now - last)
        last = now
    return taken[0], taken[1:]


def autoregression(whole: MDLMForMaskedLM, batch: int, speed: float) -> dict[str, float]:
    """Seconds of the autoregressive twin, compiled or not."""
    causal = pack(causal_twin(whole))
    torch._dynamo.reset()
    return {
        name: autoregressive(causal, batch, 24, speed, compiled=name == "ar_compiled")["seconds"]
        for name in ("ar", "ar_compiled")
    }


def measure(size: str, dtype: str, batch: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of steps."""
    device = accelerator() or torch.device("cpu")
    whole = network(size, DTYPES[dtype], device).for_inference(keep_dtype=True)
    ar = autoregression(whole, batch, options.bandwidth)
    gc.collect()  # compiled models lie in cycles, and the largest leave no room for another
    length = whole.config.model_length
    sides = {"cached": whole.with_attention("reveal_causal").eval()}  # the same memory
    if options.compiled:
        sides["cached_compiled"] = whole.with_attention("reveal_causal").eval()
        torch._dynamo.reset()
        sides["cached_compiled"].compile_trunk()
    rate = matmul_rate(whole, max(batch * length // 16, 32))
    firsts: list[float] = []
    others: list[float] = []
    taken: dict[int, dict[str, list[float]]] = {
        steps: {side: [] for side in sides} for steps in options.steps
    }
    if not options.cold:
        generation(sides["cached"], batch, 4)
        passes(whole, batch, 1)
    if options.compiled:
        for steps in options.steps:  # each shape is compiled at its first pass
            generation(sides["cached_compiled"], batch, steps)
    for _ in range(options.runs):
        first, rest = passes(whole, batch, options.passes)
        firsts.append(first)
        others += rest
        for steps, seconds in taken.items():
            for side, model in sides.items():
                seconds[side].append(generation(model, batch, steps))
    rows = []
    for steps, seconds in taken.items():
        ours = {side: median(each) for side, each in seconds.items()}
        mine, other = min(ours.values()), median(firsts) + (steps - 1) * median(others)
        floor = batch * cached_flops(whole, length, steps) / rate
        rows.append(
            {"size": size, "dtype": dtype, "batch": batch, "steps": steps}
            | {**ours, "whole": other, **ar}
            | {"over_whole": other / mine, "over_ar": min(ar.values()) / mine}
            | {"floor_over_measured": floor / mine, "matmul_tflops": rate / 1e12}
            | {"cache_mib": batch * sides["cached"].reveal_cache_bytes(length) / 2**20}
            | {"spread": {side: [min(each), max(each)] for side, each in seconds.items()}}
        )
    return rows


def write(output: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The rows so far: the large ones take hours."""
    output.mkdir(parents=True, exist_ok=True)
    found = json.dumps({"machine": about, "rows": rows}, indent=1) + "\n"
    (output / "caching.json").write_text(found)
    lines = "\n".join(f"* {key}: {value}" for key, value in about.items())
    text = f"# A cache that follows the order\n\n{lines}\n\n{table(rows, COLUMNS)}\n"
    (output / "caching.md").write_text(text)


def main() -> None:
    """Reads the options, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=names, default=["small"])
    parser.add_argument("--dtypes", type=names, default=["bfloat16"])
    parser.add_argument("--batches", type=numbers, default=[1, 8])
    parser.add_argument("--steps", type=numbers, default=[8, 32])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--passes", type=int, default=2, help="of the whole text, in every run")
    parser.add_argument("--cold", action="store_true", help="no passes before those that count")
    parser.add_argument("--full", action="store_true", help="all steps and batches")
    parser.add_argument("--compiled", action="store_true", help="also a compiled cache")
    parser.add_argument("--output", type=Path, help="folder for caching.json and caching.md")
    options = parser.parse_args()
    if options.full:
        options.steps, options.batches = [8, 16, 32, 64, 128, 256, 512, 1024], [1, 8, 32]
    about = machine(accelerator() or torch.device("cpu"))
    options.bandwidth = about["bandwidth_gb_s"] * 1e9
    print(json.dumps(about, indent=1), flush=True)
    rows = []
    for size in options.sizes:
        for dtype in options.dtypes:
            for batch in options.batches:
                rows += measure(size, dtype, batch, options)
                print(table(rows[-len(options.steps) :], COLUMNS), flush=True)
                if options.output:
                    write(options.output, about, rows)


if __name__ == "__main__":
    main()
