"""Loading: each layout of checkpoint against reading its file, and the verb convert.

    python benchmarks/loading.py --output results/loading        # 169M, about three minutes

Weights are random: time does not depend on them. Every layout is loaded in a process of its own,
which first imports the package; there, reading the file and loading it take turns, and medians are
reported. The file is read in pieces into one buffer, which is the least that reading costs; loading
ends when every weight was added up once, for what is memory-mapped is not read before; both by one
thread, since threads that wait for each other on a busy machine cost more than either. The first
load of the process stands apart: it imports what only loading needs. The peak is what is resident
at most beyond what was before, pages of the mapped file included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from parts.memory import Peak
from parts.networks import DTYPES, network
from parts.record import machine, names, table

from sdtt.models.checkpoints import load_model

COLUMNS = {
    "layout": "layout",
    "dtype": "dtype",
    "file, MB": "megabytes",
    "reading, s": "reading",
    "first load, s": "first",
    "load, s": "load",
    "load / reading": "ratio",
    "peak / file": "peak",
}
LAYOUTS = ("mdlm", "nested", "lightning")
PIECE = 2**24


def write(folder: Path, layout: str, size: str, dtype: str) -> Path:
    """A checkpoint of a layout; the path to give to the loader."""
    model = network(size, DTYPES[dtype], torch.device("cpu"))
    model.save_pretrained(folder)
    config = model.config
    nested = {
        "hidden_size": config.hidden_dim,
        "n_blocks": config.n_blocks,
        "n_heads": config.n_heads,
        "cond_dim": config.cond_dim,
        "length": config.model_length,
    }
    if layout == "nested":
        (folder / "config.json").write_text(json.dumps({"model": nested}))
    if layout == "lightning":
        (folder / "model.safetensors").unlink()
        content = {"state_dict": model.state_dict(), "hyper_parameters": {"config": {}}}
        content["hyper_parameters"]["config"]["model"] = nested
        torch.save(content, folder / "model.ckpt")
        return folder / "model.ckpt"
    return folder


def file_of(source: Path) -> Path:
    """The file that holds the weights."""
    return source if source.is_file() else source / "model.safetensors"


def reading(file: Path) -> float:
    """Seconds to read a file, piece by piece."""
    buffer = memoryview(bytearray(PIECE))
    start = time.perf_counter()
    with file.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass
    return time.perf_counter() - start


def loading(source: Path) -> float:
    """Seconds until every weight of the model was added up."""
    start = time.perf_counter()
    model = load_model(source)
    for weight in model.parameters():
        weight.detach().sum().item()
    return time.perf_counter() - start


def measure(source: Path, runs: int) -> dict[str, Any]:
    """One row, in a process that has loaded nothing yet."""
    torch.set_num_threads(1)
    file = file_of(source)
    reading(file)  # the file lies in the page cache from here on
    peak = Peak()
    first = loading(source)
    resident = peak.bytes()
    times = [(reading(file), loading(source)) for _ in range(runs)]
    read, load = (median(column) for column in zip(*times, strict=True))
    size = file.stat().st_size
    return {
        "megabytes": size / 1e6,
        "reading": read,
        "first": first,
        "load": load,
        "ratio": load / read,
        "peak": resident / size,
    }


def in_a_process(*words: str) -> str:
    """What a run of this script or of the package prints."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, *words], check=True, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout


def converting(source: Path, folder: Path, *options: str) -> float:
    """Seconds of ``sdtt convert``, imports and writing included."""
    start = time.perf_counter()
    in_a_process("-m", "sdtt", "convert", str(source), str(folder / "out"), *options)
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--layouts", type=names, default=list(LAYOUTS))
    parser.add_argument("--dtypes", type=names, default=["float32"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="of temporary files; the system's by default")
    parser.add_argument("--output", type=Path, help="folder for loading.json and loading.md")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.runs)))
        return
    rows, conversions = [], []
    for dtype in options.dtypes:
        for layout in options.layouts:
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                folder = Path(name)
                source = write(folder / layout, layout, options.size, dtype)
                said = in_a_process(__file__, "--measure", str(source), "--runs", str(options.runs))
                label = {"layout": layout, "dtype": dtype}
                rows.append(label | json.loads(said.splitlines()[-1]))
                plain = converting(source, folder)
                folded = converting(source, folder, "--fold", "--overwrite")
                conversions.append(label | {"plain": plain, "folded": folded})
    heads = {"convert, s": "plain", "convert --fold, s": "folded"}
    tables = [
        table(rows, COLUMNS),
        table(conversions, {"layout": "layout", "dtype": "dtype"} | heads),
    ]
    about = machine(torch.device("cpu"))
    print(*tables, json.dumps(about), sep="\n\n")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        found = {"machine": about, "loading": rows, "converting": conversions}
        (options.output / "loading.json").write_text(json.dumps(found, indent=1) + "\n")
        lines = "\n".join(f"* {key}: {value}" for key, value in about.items())
        parts = ["# Loading a checkpoint", lines, *tables]
        (options.output / "loading.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
