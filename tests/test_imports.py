"""Who imports whom, and what importing does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

IMPORT = """
import json, logging, os, random, sys
import numpy, torch, transformers
from transformers import GenerationMixin, PreTrainedModel, masking_utils  # with their own effects

def state():
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "cuda tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn": [getattr(torch.backends.cudnn, flag) for flag in
                  ("enabled", "benchmark", "deterministic", "allow_tf32")],
        "attention kernels": [torch.backends.cuda.flash_sdp_enabled(),
                              torch.backends.cuda.math_sdp_enabled(),
                              torch.backends.cuda.mem_efficient_sdp_enabled()],
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": str(numpy.random.get_state()),
        "python generator": hash(random.getstate()),
        "root logger": [logging.root.level, len(logging.root.handlers)],
        "transformers verbosity": transformers.logging.get_verbosity(),
        "environment": dict(os.environ),
        "working folder": os.getcwd(),
    }

before = state()
import sdtt
print(json.dumps({"before": before, "after": state(), "modules": list(sys.modules)}))
"""


def run(code: str) -> str:
    """What the code prints in a new process of this interpreter."""
    process = [sys.executable, "-c", code]
    done = subprocess.run(process, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """The state of a new process before and after `import sdtt`, and what it has imported."""
    return json.loads(run(IMPORT).splitlines()[-1])


def test_a_folder_imports_only_from_those_before_it():
    run("from importlinter.cli import lint_imports; raise SystemExit(lint_imports())")


def test_importing_sdtt_changes_no_global_state(imported: dict[str, Any]):
    assert imported["after"] == imported["before"]


def test_importing_sdtt_leaves_the_command_line_and_the_trainers_alone(imported: dict[str, Any]):
    unwanted = {"sdtt.cli", "sdtt.training", "sdtt.report", "datasets", "matplotlib"}
    assert unwanted.isdisjoint(imported["modules"])
