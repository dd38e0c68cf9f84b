"""Shapes checked, no network, no home folder, few threads: set before anything imports sdtt."""

import os
import shutil
import tempfile

import pytest
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
# One thread a worker under xdist, which inherits its parent's two; else two, so that sums are added
# in the same order anywhere.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")

install_import_hook("sdtt", "typecheck.check")

from sdtt.models.causal import CausalConfig  # noqa: E402 - behind the hook
from sdtt.models.mdlm import MDLMConfig  # noqa: E402
from sdtt.models.sedd import SEDDConfig  # noqa: E402

for config in (MDLMConfig, CausalConfig, SEDDConfig):
    # transformers lets a config take any key, but its signature does not say so: with the check of
    # its arguments that the import hook adds, no config could be read from a file
    if config.__init__.__globals__["__name__"] == "jaxtyping._decorator":
        config.__init__ = config.__init__.__wrapped__


@pytest.fixture
def processor(monkeypatch):
    """Makes the CPU say whether it multiplies bfloat16 and float16."""
    import torch

    def be(*, multiplies_halves):
        for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
            monkeypatch.setattr(torch.ops.mkldnn, name, lambda: multiplies_halves)

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN, which is what is asked")
    return be


@pytest.fixture
def unchecked():
    """Without the check of annotations: as users have it, and for torch.compile."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def cuda_wheel(monkeypatch):
    """A torch that was built for CUDA, as `pip install torch` gives, on a machine without a GPU."""
    import torch

    def current_accelerator(check_available=False):
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)


@pytest.fixture(scope="session")
def small_pair(tmp_path_factory):
    """Student, teacher, caching model and judge of random weights, as the package ships its own."""
    import torch

    from sdtt.data.tokenizer import train_tokenizer
    from sdtt.models.causal import CausalLM
    from sdtt.models.mdlm import MDLMForMaskedLM
    from sdtt.models.shipped import write_manifest
    from sdtt.sampling.generation import DiffusionGenerationConfig

    folder = tmp_path_factory.mktemp("small-pair")
    tokenizer = train_tokenizer(["the small cat saw a red bird sing in the tree. " * 9], 300)
    shape = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id}
    shape |= {"bos_token_id": 0, "eos_token_id": 0, "model_length": 48}
    shape |= {"hidden_dim": 32, "n_blocks": 2, "n_heads": 2}
    attention = {"caching": "reveal_causal"}
    for name, steps in (("student", 4), ("teacher", 16), ("caching", 8), ("judge", None)):
        torch.manual_seed(len(name))
        masked = MDLMConfig(**shape, attention=attention.get(name, "bidirectional"))
        model = MDLMForMaskedLM(masked) if steps else CausalLM(CausalConfig(**shape))
        with torch.no_grad():
            model.head.weight.normal_()  # of a law that is not flat
        if steps:
            model.generation_config = DiffusionGenerationConfig(sampler="ancestral", steps=steps)
        if name == "student":
            model.config.sdtt_sampling_steps = steps
        model.bfloat16().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_manifest(folder)
    return folder


@pytest.fixture
def pair(small_pair, tmp_path, monkeypatch):
    """A copy of the small pair where the package looks for its own: in a checkout."""
    folder = tmp_path / "checkout/src/sdtt/pair"
    shutil.copytree(small_pair, folder)
    (tmp_path / "checkout/.git").mkdir()
    monkeypatch.setattr("sdtt.models.shipped.PAIR", folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
