"""Training: a distillation step against the plain one, the tiled loss alone, and MFU.

    python benchmarks/training.py                    # the small model, k = 2, L = 1,024
    python benchmarks/training.py --output results/training/cpu

Weights are random: time does not depend on them. Both sides run the same student, teacher and text
in one process; they take turns, and medians are reported. Peak memory is that of a child process
beyond weights, gradients and the optimiser's moments, all of which are there before.
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from parts.floors import matmul_rate
from parts.loss import LossAlone
from parts.memory import Peak
from parts.networks import DTYPES, network
from parts.plain_training import PlainDistillation
from parts.record import machine, names, table
from torch import Tensor

import sdtt
from sdtt.diffusion.denoiser import Head
from sdtt.diffusion.divergence import DIVERGENCES
from sdtt.diffusion.noise import SCHEDULES, is_masked, mask, teacher_times
from sdtt.diffusion.rollout import rollout
from sdtt.diffusion.tiled import tiled_cross_entropy, tiled_divergence
from sdtt.diffusion.uniforms import uniforms
from sdtt.evaluation.timing import interleaved, seconds, wait
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.models.pack import can_pack
from sdtt.models.placement import accelerator
from sdtt.training.flops import forward_flops, shape_of, training_flops

TIME, DT, K = 0.5, 1 / 32, 2
"""Half of the text is masked; the teacher reveals 1/16 of that in its first step."""


@dataclass
class Distillation:
    """One update of ours, but for the optimiser: what SDTTTrainer does with one micro-batch.

    Attributes:
        student: It learns.
        teacher: Its law is the target.
        autocast: The student's blocks run in bfloat16, products of the loss too.
        parts: Seconds of the last step by part.
    """

    student: MDLMForMaskedLM
    teacher: MDLMForMaskedLM
    autocast: bool
    parts: dict[str, float] = field(default_factory=dict)

    def step(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Loss and gradients of the texts z, masked by u."""
        start = time.perf_counter()
        t = torch.full((len(z),), TIME, dtype=torch.float64)
        times = teacher_times(t, DT, K)
        rows = (z == self.teacher.mask_token_id).flatten().nonzero().squeeze(-1)
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.autocast):
            target = rollout(self.teacher, z, u, v, times, SCHEDULES["log_linear"]).hidden
            self._note("teacher", start, z)
            start = time.perf_counter()
            loss = self.student(
                input_ids=z, rows=rows, objective=partial(self._objective, target)
            ).loss
        loss = loss / len(rows)
        self._note("student forward", start, z)
        self.parts["student forward"] -= self.parts["loss"]
        start = time.perf_counter()
        loss.backward()
        self._note("student backward", start, z)
        return loss.detach()

    def _objective(self, target: Tensor, hidden: Tensor, head: Head) -> Tensor:
        start = time.perf_counter()
        loss = tiled_divergence(
            hidden,
            head,
            target,
            self.teacher.head,
            DIVERGENCES["reverse_kl"],
            excluded_ids=self.teacher.excluded_ids,
            products=torch.bfloat16 if self.autocast else None,
        )
        self._note("loss", start, hidden)
        return loss

    def _note(self, part: str, start: float, like: Tensor) -> None:
        wait(like.device)
        self.parts[part] = time.perf_counter() - start


@dataclass
class Text:
    """One micro-batch: masked texts and the uniforms behind them."""

    z: Tensor
    u: Tensor
    v: Tensor


def text(model: MDLMForMaskedLM, batch: int, device: torch.device) -> Text:
    """Random tokens, half of them masked."""
    length = model.config.model_length
    x = torch.randint(model.mask_token_id, (batch, length), device=device)
    u, v = (uniforms(0, purpose, range(batch), length) for purpose in ("mask", "rollout"))
    masked = is_masked(u, torch.full((batch,), TIME, dtype=torch.float64), SCHEDULES["log_linear"])
    return Text(mask(x, masked.to(device), model.mask_token_id), u, v)


def sides(
    size: str, dtypes: list[str], batch: int, device: torch.device
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, Any]]:
    """A step of each side, ready to be called; and the objects behind them."""
    student = network(size, torch.float32, device).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    batch_of = text(student, batch, device)
    times = teacher_times(torch.tensor([TIME], dtype=torch.float64), DT, K)[0].tolist()
    plain = PlainDistillation(student, teacher, times)
    calls: dict[str, Callable[[], Tensor]] = {}
    objects: dict[str, Any] = {"student": student}
    for dtype in dtypes:
        low = dtype == "bfloat16"
        own = copy.deepcopy(teacher).to(DTYPES[dtype])
        ours = Distillation(student, own, autocast=low)
        objects[f"ours {dtype}"] = ours
        calls[f"ours {dtype}"] = partial(ours.step, batch_of.z, batch_of.u, batch_of.v)
        if can_pack(own):  # --pack-teacher
            packed = Distillation(student, own.for_inference(keep_dtype=True), autocast=low)
            objects[f"packed {dtype}"] = packed
            calls[f"packed {dtype}"] = partial(packed.step, batch_of.z, batch_of.u, batch_of.v)

        def plainly(low: bool = low) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                return plain.step(batch_of.z)

        calls[f"plain {dtype}"] = plainly
    return calls, objects


def steps(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Seconds of an update of each side: forward, backward, optimiser."""
    rows = []
    for size in options.sizes:
        calls, objects = sides(size, options.dtypes, options.batch, device)
        student = objects["student"]
        optimizer = torch.optim.AdamW(student.parameters(), lr=0.0)

        def update(call: Callable[[], Tensor], optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            call()
            optimizer.step()

        taken = interleaved(
            {name: partial(update, call) for name, call in calls.items()}, options.runs, device
        )
        optimiser = median([seconds(optimizer.step, device) for _ in range(3)])
        medians = {name: each.median for name, each in taken.items()}
        for name, each in medians.items():
            side, dtype = name.split()
            row = {"size": size, "side": side, "dtype": dtype, "seconds": each}
            row |= {
                "plain same dtype / this": medians[f"plain {dtype}"] / each,
                "plain float32 / this": medians.get("plain float32", float("nan")) / each,
                "optimiser": optimiser,
            }
            if side != "plain":
                row |= objects[name].parts
            rows.append(row)
        print(table(rows, STEPS), flush=True)
    return rows


def loss_alone(student: MDLMForMaskedLM, rows: int, dtype: str) -> LossAlone:
    """Random rows for the student's head, and for another."""
    weight = student.head.weight
    hidden, target = (torch.randn(rows, weight.shape[1], device=weight.device) for _ in range(2))
    hidden.requires_grad_()
    return LossAlone(hidden, weight, target, weight.detach().clone(), dtype == "bfloat16")


def pretraining(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Seconds of a pass and its backward pass by the NELBO, and its MFU."""
    found = []
    for size in options.sizes:
        model = network(size, torch.float32, device).train()
        batch_of = text(model, options.batch, device)
        rows = (batch_of.z == model.mask_token_id).flatten().nonzero().squeeze(-1)

        def objective(low: bool, hidden: Tensor, head: Head, rows: Tensor = rows) -> Tensor:
            return tiled_cross_entropy(
                hidden,
                head,
                torch.zeros_like(rows),
                torch.ones(len(rows), device=rows.device),
                excluded_ids=(len(head.weight) - 1,),
                products=torch.bfloat16 if low else None,
            )

        def step(low: bool, model=model, z=batch_of.z, rows=rows) -> None:
            model.zero_grad()
            with torch.autocast(z.device.type, torch.bfloat16, enabled=low):
                loss = model(input_ids=z, rows=rows, objective=partial(objective, low)).loss
            loss.backward()

        calls = {name: partial(step, name == "bfloat16") for name in options.dtypes}
        network_of, length = shape_of(model), model.config.model_length
        flops = training_flops(network_of, texts=options.batch, length=length, rows=len(rows))
        for name, each in interleaved(calls, options.runs, device).items():
            row = {"size": size, "what": "pretraining", "dtype": name, "seconds": each.median}
            found.append(row | {"tflop": flops.total / 1e12})
    return found


def distillation_work(row: dict[str, Any], batch: int) -> dict[str, Any]:
    """The seconds of an update without the optimiser, and the operations that it needs."""
    with torch.device("meta"):
        model = MDLMForMaskedLM(sdtt.preset(row["size"]))
    shape, length = shape_of(model), model.config.model_length
    masked, drawn = TIME * batch * length, DT * batch * length
    flops = training_flops(shape, texts=batch, length=length, rows=masked)
    flops += forward_flops(shape, texts=K * batch, length=length, rows=masked + drawn)
    return {
        "size": row["size"],
        "what": "distillation",
        "dtype": row["dtype"],
        "seconds": row["seconds"] - row["optimiser"],
        "tflop": flops.total / 1e12,
    }


def utilisation(
    found: list[dict[str, Any]], rates: dict[str, float], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """MFU of pretraining, and of distillation without the optimiser, in the rate measured here."""
    rows = []
    for row in found:
        if row.get("side") == "ours":
            rows.append(distillation_work(row, options.batch))
        elif "side" not in row:
            rows.append(row)
    rows = [row | {"mfu": row["tflop"] / row["seconds"] / rates[row["dtype"]]} for row in rows]
    print(table(rows, MFU), flush=True)
    return rows


def losses(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """The tiled losses against their own matrix products."""
    found = []
    student = network("small", torch.float32, device)
    for dtype in options.dtypes:
        alone = loss_alone(student, options.rows, dtype)
        calls: dict[str, Callable[[], object]] = {
            "products": alone.products,
            "scores": alone.scores,
            "cross-entropy": alone.cross_entropy,
        }
        if hasattr(torch.nn.functional, "linear_cross_entropy"):
            calls["cross-entropy of torch"] = alone.cross_entropy_of_torch
        calls |= {name: partial(alone.divergence, name) for name in DIVERGENCES}
        taken = interleaved(calls, options.runs, device)
        medians = {name: each.median for name, each in taken.items()}
        products, scores = medians.pop("products"), medians.pop("scores")
        for name, each in medians.items():
            floor = products if name in DIVERGENCES else products - scores
            row = {"loss": name, "dtype": dtype, "seconds": each, "products": floor}
            found.append(row | {"ratio": each / floor})
    print(table(found, LOSSES), flush=True)
    return found


# ---------------------------------------------------------------- memory


def memory(options: argparse.Namespace, kind: str, dtype: str) -> dict[str, Any]:
    """Peak resident memory of one update or loss, in a process of its own."""
    words = [sys.executable, __file__, "--measure-memory", kind, "--dtypes", dtype]
    words += ["--rows", str(options.rows), "--batch", str(options.batch)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def measure_memory(options: argparse.Namespace) -> None:
    """What the child process does."""
    kind, dtype = options.measure_memory, options.dtypes[0]
    what, side = kind.split()
    device = torch.device("cpu")
    calls, objects = sides("small", options.dtypes, options.batch, device)
    student = objects["student"]
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if side == "checkpointed":
        student.gradient_checkpointing_enable()
        side = "ours"
    if what == "step":
        call: Callable[[], object] = calls[f"{side} {dtype}"]
    else:
        alone = loss_alone(student, options.rows, dtype)
        call = partial(alone.divergence, "reverse_kl") if side == "ours" else alone.laws
    with torch.no_grad():
        student.hidden(torch.zeros(1, 64, dtype=torch.long))
    peak = Peak()
    call()
    side = kind.split()[1]
    print(json.dumps({"what": what, "side": side, "dtype": dtype, "peak_mb": peak.bytes() / 1e6}))


STEPS = {
    "model": "size",
    "side": "side",
    "dtype": "dtype",
    "update, s": "seconds",
    "plain of this dtype / this": "plain same dtype / this",
    "plain float32 / this": "plain float32 / this",
    "teacher": "teacher",
    "student forward": "student forward",
    "loss": "loss",
    "student backward": "student backward",
    "optimiser": "optimiser",
}
LOSSES = {
    "loss": "loss",
    "dtype": "dtype",
    "s": "seconds",
    "its products, s": "products",
    "ratio": "ratio",
}
MFU = {
    "model": "size",
    "": "what",
    "dtype": "dtype",
    "s": "seconds",
    "TFLOP": "tflop",
    "MFU": "mfu",
}
MEMORY = {"": "what", "side": "side", "dtype": "dtype", "rows": "rows", "MB": "peak_mb"}


def memories(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of an update, of the loss alone, and of the loss of four times the rows."""
    found = [
        memory(options, f"{what} {side}", dtype) | {"rows": options.rows if what == "loss" else ""}
        for what in ("step", "loss")
        for dtype in options.dtypes
        for side in ("plain", "ours", *(["checkpointed"] if what == "step" else []))
    ]
    rows, options.rows = options.rows, 4 * options.rows
    found += [
        memory(options, "loss ours", dtype) | {"rows": options.rows} for dtype in options.dtypes
    ]
    options.rows = rows
    print(table(found, MEMORY), flush=True)
    return found


def write(found: dict[str, Any], folder: Path) -> None:
    """The JSON and its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training.json").write_text(json.dumps(found, indent=1) + "\n")
    parts = [
        "# Training speed",
        "\n".join(f"* {key}: {value}" for key, value in found["machine"].items()),
        "## An update of distillation",
        table(found["steps"], STEPS),
        "## Share of the matmul rate measured in this run (MFU), without the optimiser",
        table(found["mfu"], MFU),
        "## The loss alone",
        table(found["losses"], LOSSES),
        "## Peak memory beyond weights, gradients and moments",
        table(found["memory"], MEMORY),
    ]
    (folder / "training.md").write_text("\n\n".join(parts) + "\n")


def main() -> None:
    """Reads the options, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=names, default=names("small"))
    parser.add_argument("--dtypes", type=names, default=names("float32,bfloat16"))
    parser.add_argument("--batch", type=int, default=1, help="texts of an update")
    parser.add_argument("--rows", type=int, default=512, help="rows of the loss alone")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="folder for training.json and training.md")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        measure_memory(options)
        return
    device = accelerator() or torch.device("cpu")
    found: dict[str, Any] = {"machine": machine(device)}
    rates = {
        dtype: matmul_rate(network("small", DTYPES[dtype], device), 1024) / 1e12
        for dtype in options.dtypes
    }
    found["machine"]["matmul_tflops"] = rates
    print(json.dumps(found["machine"], indent=1), flush=True)
    found["steps"] = steps(options, device)
    rows = found["steps"] + pretraining(options, device)
    found["mfu"] = utilisation(rows, rates, options)
    found["losses"] = losses(options, device)
    found["memory"] = memories(options) if device.type == "cpu" else []
    if options.output:
        write(found, options.output)


if __name__ == "__main__":
    main()
