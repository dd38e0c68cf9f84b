"""Shapes checked, no network, no home folder, few threads: set before anything imports sdtt."""

import os
import shutil
import tempfile

from jaxtyping import install_import_hook

HOME = tempfile.mkdtemp(prefix="sdtt-tests-")

# Variables rather than calls, so that the processes which tests start inherit them.
os.environ |= {
    "SDTT_CACHE": f"{HOME}/sdtt",
    "HF_HOME": f"{HOME}/huggingface",
    "MPLCONFIGDIR": f"{HOME}/matplotlib",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",  # tokenizers warn when a process forks after using threads
}
# One thread a worker under xdist; else two, so that sums are added in the same order anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

install_import_hook("sdtt", "typecheck.check")

from sdtt.models.causal import CausalConfig  # noqa: E402 - behind the hook
from sdtt.models.mdlm import MDLMConfig  # noqa: E402

for config in (MDLMConfig, CausalConfig):
    # transformers lets a config take any key, but its signature does not say so: with the check of
    # its arguments that the import hook adds, no config could be read from a file
    if config.__init__.__globals__["__name__"] == "jaxtyping._decorator":
        config.__init__ = config.__init__.__wrapped__


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
