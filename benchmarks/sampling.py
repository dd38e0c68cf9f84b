"""Sampling: ours against the plain sampler, against autoregression, and against the floor.

    python benchmarks/sampling.py                    # minutes: small and tiny, 16 and 64 steps
    python benchmarks/sampling.py --full --output results/sampling

Weights are random: time does not depend on them. In every comparison both sides run the same model
in the same form, dtype and process; runs take turns, and medians are reported. A step of the plain
sampler costs the same whatever the canvas, and a pass of ours nearly so, hence a generation of many
steps is the median of a few passes times their number (the first, from the empty canvas, counted
apart); its number of passes is that of the sampler's own plan.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import torch
from parts.autoregression import autoregressive, causal_twin
from parts.floors import matmul_rate, pass_flops
from parts.memory import Peak
from parts.networks import DTYPES, network
from parts.plain import PlainSampler
from parts.record import machine, names, numbers, table
from torch import Tensor

import sdtt
from sdtt.diffusion.categorical import Transform
from sdtt.diffusion.uniforms import uniforms
from sdtt.evaluation.timing import wait
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.models.pack import pack
from sdtt.models.placement import accelerator
from sdtt.sampling import network as one_pass
from sdtt.sampling.ancestral import AncestralSettings, ancestral, plan_ancestral
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.reveal import Step, free_positions

PASSES = 4
"""Passes of each side in a run."""


# ---------------------------------------------------------------- ours


@dataclass
class Ours:
    """Our ancestral sampler on a batch of empty canvases: passes one by one."""

    model: MDLMForMaskedLM
    batch: int
    total: int

    def __post_init__(self) -> None:
        """The canvas, its uniforms and the plan."""
        length = self.model.config.model_length
        self.canvas = canvas_of(self.model, length, self.batch).to(self.model.device)
        self.u, self.v = (
            uniforms(0, purpose, range(self.batch), length) for purpose in ("reveal", "token")
        )
        self.settings = AncestralSettings(steps=self.total)
        plan = plan_ancestral(free_positions(self.model, self.canvas, None), self.u, self.settings)
        self.passes = int(plan.when.unique().numel())
        # texts that take part in a pass, summed over the passes behind each text's first
        self.text_passes = sum(len(row.unique()) for row in plan.when) - self.batch

    def steps(self) -> Iterator[Step]:
        """The generation, step by step."""
        return ancestral(
            self.model, self.canvas, self.settings, self.u, self.v, transform=Transform()
        )

    @torch.no_grad()
    def seconds(self, passes: int) -> tuple[float, list[float]]:
        """Of the first pass, and of the next ``passes``."""
        taken, wait_for = [], self.canvas.device
        wait(wait_for)
        last = time.perf_counter()
        for _ in islice(self.steps(), 1 + passes):
            wait(wait_for)
            now = time.perf_counter()
            taken.append(now - last)
            last = now
        return taken[0], taken[1:]

    @torch.no_grad()
    def breakdown(self, passes: int) -> dict[str, float]:
        """Seconds a pass, behind the first: body, head, draws, rest."""
        parts = {"body": 0.0, "head": 0.0, "draws": 0.0}

        def timed(name: str, call: Any) -> Any:
            def run(*arguments: Any, **options: Any) -> Any:
                start = time.perf_counter()
                result = call(*arguments, **options)
                wait(self.canvas.device)
                parts[name] += time.perf_counter() - start
                return result

            return run

        model = self.model
        with (
            patch.object(model, "hidden", timed("body", model.hidden)),
            patch.object(model, "logits", timed("head", model.logits)),
            patch.object(one_pass, "draw", timed("draws", one_pass.draw)),
        ):
            steps = self.steps()
            next(steps)
            parts.update(dict.fromkeys(parts, 0.0))
            wait(self.canvas.device)
            start = time.perf_counter()
            taken = sum(1 for _ in islice(steps, passes))
            wait(self.canvas.device)
            whole = time.perf_counter() - start
        parts["rest"] = whole - sum(parts.values())
        return {name: value / max(taken, 1) for name, value in parts.items()}


def against_plain(
    model: MDLMForMaskedLM, batch: int, ladder: list[int], runs: int, *, compiled: bool
) -> list[dict[str, Any]]:
    """One row for each number of steps."""
    device, length = model.device, model.config.model_length
    rate = matmul_rate(model, batch * length)
    plain = PlainSampler(model, compiled)
    cached_plain = PlainSampler(model, compiled, cached=True)
    z = canvas_of(model, length, batch).to(device)
    half = torch.rand(batch, length, generator=torch.Generator().manual_seed(0)) < 0.5
    z[half.to(device)] = 0
    rows = []
    sides = {total: Ours(model, batch, total) for total in ladder}
    stretch(plain, z, 16, 1)
    for ours in sides.values():
        ours.seconds(1)
    firsts: dict[int, list[float]] = {total: [] for total in ladder}
    others: dict[int, list[float]] = {total: [] for total in ladder}
    cached: dict[int, list[tuple[bool, float]]] = {
        total: [] for total in ladder if total >= length // 4
    }
    plains: list[float] = []
    for _ in range(runs):
        plains.append(mean(taken for _, taken in stretch(plain, z, 1024, 2)))
        for total, steps in cached.items():
            steps.extend(stretch(cached_plain, z, total, PASSES))
        for total, ours in sides.items():
            first, rest = ours.seconds(min(PASSES, ours.passes - 1))
            firsts[total].append(first)
            others[total].extend(rest)
    clocked = PlainSampler(model, compiled, clock=time.perf_counter)
    stretch(clocked, z, 1024, 1)
    clocked.parts.clear()
    stretch(clocked, z, 1024, 2)
    for total, ours in sides.items():
        step = median(others[total]) if others[total] else 0.0
        whole = median(firsts[total]) + step * (ours.passes - 1)
        # every row but those of the first pass is asked for once
        asked = length * (1 - 1 / total) / max(ours.text_passes / batch, 1e-9)
        floor = pass_flops(model.config, length, asked) * ours.text_passes / rate
        row = {
            "steps": total,
            "passes": ours.passes,
            "ours_seconds": whole,
            "plain_seconds": median(plains) * total,
            "ratio": median(plains) * total / whole,
            "floor_over_measured": floor / whole,
            "ours_breakdown": ours.breakdown(PASSES),
            "plain_breakdown": {name: value / 2 for name, value in clocked.parts.items()},
            "spread": [min(others[total] or [0]), max(others[total] or [0])],
        }
        if total in cached:
            taken = cached_seconds(cached[total], ours.passes, total)
            row |= {"cached_seconds": taken, "ratio_to_cached": taken / whole}
        rows.append(row | {"matmul_tflops": rate / 1e12})
    return rows


def stretch(sampler: PlainSampler, z: Tensor, total: int, count: int) -> list[tuple[bool, float]]:
    """``count`` consecutive steps from the half-filled canvas: with a pass or not, and seconds."""
    found = []
    wait(z.device)
    last = time.perf_counter()
    for passed in islice(sampler.steps(z, total, total // 2), count):
        wait(z.device)
        now = time.perf_counter()
        found.append((passed, now - last))
        last = now
    return found


def cached_seconds(steps: list[tuple[bool, float]], passes: int, total: int) -> float:
    """A generation by the cached plain sampler, which passes as often as the plan of ours does.

    Each kind of step counts by its median; where no step of a stretch went without a pass, which
    takes a large batch, all are counted as passes.
    """
    kinds = {kind: [taken for passed, taken in steps if passed == kind] for kind in (True, False)}
    with_pass = median(kinds[True])
    without = median(kinds[False] or [with_pass])
    return with_pass * passes + without * (total - passes)


# ---------------------------------------------------------------- memory


def memory(dtype: str, kind: str) -> dict[str, Any]:
    """Peak resident memory of 8 x 1024 tokens of the small model, in a process of its own."""
    words = [sys.executable, __file__, "--measure-memory", kind, "--dtypes", dtype]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def measure_memory(kind: str, dtype: str) -> None:
    """What the child process does: two passes, and their peak beyond what was there before."""
    model = network("small", DTYPES[dtype], torch.device("cpu"))
    model = model.for_inference(keep_dtype=True)
    with torch.no_grad():
        model.hidden(canvas_of(model, 1024)[:, :64])
    peak = Peak()
    canvas = canvas_of(model, 1024, 8)
    if kind == "ours":
        sdtt.sample(model, canvas, sampler="ancestral", steps=2)
    else:
        next(PlainSampler(model).steps(canvas, 16))
    print(json.dumps({"kind": kind, "dtype": dtype, "peak_gb_beyond_weights": peak.bytes() / 1e9}))


# ---------------------------------------------------------------- all of it


PLAIN = {
    "model": "size",
    "dtype": "dtype",
    "batch": "batch",
    "compiled": "compiled",
    "steps": "steps",
    "passes": "passes",
    "ours, s": "ours_seconds",
    "plain, s": "plain_seconds",
    "ratio": "ratio",
    "cached plain, s": "cached_seconds",
    "ratio to cached": "ratio_to_cached",
    "floor / measured": "floor_over_measured",
}
ACROSS = {name: PLAIN[name] for name in ("model", "batch", "compiled", "steps", "ratio")}
AUTOREGRESSIVE = {
    "model": "size",
    "dtype": "dtype",
    "batch": "batch",
    "form": "form",
    "AR, s": "seconds",
    "AR floor / measured": "floor_over_measured",
    "ours 16 steps, s": "ours_16",
    "ours 32 steps, s": "ours_32",
    "AR / ours at 16": "speedup_16",
    "AR / ours at 32": "speedup_32",
    "AR at half its floor / ours at 16": "at_half_16",
    "AR at half its floor / ours at 32": "at_half_32",
}
BREAKDOWN = {
    "model": "size",
    "dtype": "dtype",
    "batch": "batch",
    "compiled": "compiled",
    "steps": "steps",
    "body": "body",
    "head": "head",
    "draws": "draws",
    "rest": "rest",
    "plain: body": "plain body",
    "plain: head, softmax": "plain head and softmax",
    "plain: noise, argmax": "plain noise and argmax",
}


def diffusion_rows(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Ours against the plain sampler, for everything that was asked for."""
    rows = []
    for size in options.sizes:
        for dtype in options.dtypes:
            for compiled in (False, True) if options.compile else (False,):
                model = network(size, DTYPES[dtype], device)
                model = model.for_inference(keep_dtype=True)
                if compiled:
                    model.compile_trunk()
                for batch in options.batches:
                    torch._dynamo.reset()  # or its limit of recompilations would leave some eager
                    length = model.config.model_length
                    ladder = [steps for steps in options.steps if steps <= length]
                    found = against_plain(model, batch, ladder, options.runs, compiled=compiled)
                    about = {"size": size, "dtype": dtype, "batch": batch, "compiled": compiled}
                    rows.extend(about | row for row in found)
                    print(table([about | row for row in found], PLAIN), flush=True)
    return rows


def autoregressive_rows(
    options: argparse.Namespace, device: torch.device, speed: float
) -> list[dict[str, Any]]:
    """Autoregression, eager and compiled, and ours at 16 and 32 steps, eager."""
    rows = []
    for size in options.ar_sizes:
        for dtype in options.dtypes:
            model = network(size, DTYPES[dtype], device)
            twin, ready = causal_twin(model), model.for_inference(keep_dtype=True)
            causal = pack(twin)
            forms = {"eager": False} | ({"compiled": True} if options.compile else {})
            del model, twin
            for batch in options.ar_batches:
                ours = {}
                for total in (16, 32):
                    side = Ours(ready, batch, total)
                    first, rest = side.seconds(2 if size == "small" else 1)
                    ours[total] = first + median(rest) * (side.passes - 1)
                torch._dynamo.reset()
                for form, compiled in forms.items():
                    row = {"size": size, "dtype": dtype, "form": form}
                    row |= autoregressive(causal, batch, 24, speed, compiled=compiled)
                    for total, taken in ours.items():
                        row[f"ours_{total}"] = taken
                        row[f"speedup_{total}"] = row["seconds"] / taken
                        row[f"at_half_{total}"] = row["seconds_at_half_speed"] / taken
                    rows.append(row)
                    print(table([row], AUTOREGRESSIVE), flush=True)
    return rows


def across_dtypes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours in bfloat16 against the plain sampler in float32, which is what peers run on a CPU."""
    plain = {_key(row): row for row in rows if row["dtype"] == "float32"}
    ours = [row for row in rows if row["dtype"] == "bfloat16" and _key(row) in plain]
    return [
        row | {"ratio": plain[_key(row)]["plain_seconds"] / row["ours_seconds"]} for row in ours
    ]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("size", "batch", "compiled", "steps"))


def write(found: dict[str, Any], folder: Path) -> None:
    """The JSON and its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sampling.json").write_text(json.dumps(found, indent=1) + "\n")
    parts = [
        "# Sampling speed",
        "\n".join(f"* {key}: {value}" for key, value in found["machine"].items()),
        "## Against the plain sampler",
        table(found["plain"], PLAIN),
        "## Ours in bfloat16 against the plain sampler in float32",
        table(across_dtypes(found["plain"]), ACROSS),
        "## Seconds of a pass, by part",
        table([row | _flat(row) for row in found["plain"]], BREAKDOWN),
        "## Against autoregression, 1,024 tokens",
        table(found["autoregressive"], AUTOREGRESSIVE),
        "## Peak memory beyond the weights, 8 x 1,024 tokens, small",
        table(found["memory"], {"": "kind", "dtype": "dtype", "GB": "peak_gb_beyond_weights"}),
    ]
    (folder / "sampling.md").write_text("\n\n".join(parts) + "\n")


def _flat(row: dict[str, Any]) -> dict[str, float]:
    plain = {f"plain {name}": value for name, value in row["plain_breakdown"].items()}
    return row["ours_breakdown"] | plain


def main() -> None:
    """Reads the options, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=names, default=names("tiny,small"))
    parser.add_argument("--dtypes", type=names, default=names("bfloat16,float32"))
    parser.add_argument("--batches", type=numbers, default=[1])
    parser.add_argument("--steps", type=numbers, default=[16, 64])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--ar-sizes", type=names, default=["small"])
    parser.add_argument("--ar-batches", type=numbers, default=[1])
    parser.add_argument("--full", action="store_true", help="all steps, batches and forms")
    parser.add_argument("--output", type=Path, help="folder for sampling.json and sampling.md")
    parser.add_argument("--measure-memory", choices=["ours", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        measure_memory(options.measure_memory, options.dtypes[0])
        return
    if options.full:
        options.steps = [8, 16, 32, 64, 256, 1024]
        options.batches, options.ar_batches, options.compile = [1, 8], [1, 8, 32], True
    device = accelerator() or torch.device("cpu")
    found: dict[str, Any] = {"machine": machine(device)}
    print(json.dumps(found["machine"], indent=1), flush=True)
    found["plain"] = diffusion_rows(options, device)
    speed = found["machine"]["bandwidth_gb_s"] * 1e9
    found["autoregressive"] = autoregressive_rows(options, device, speed)
    found["memory"] = []
    if device.type == "cpu" and "small" in options.sizes:
        found["memory"] = [memory("float32", kind) for kind in ("ours", "plain")]
        print(found["memory"])
    if options.output:
        write(found, options.output)


if __name__ == "__main__":
    main()
