"""Small runs: a network of one block on texts of eight ids, on the CPU."""

import gc
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from sdtt.diffusion.denoiser import Head
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.training.distill import SDTTTrainer
from sdtt.training.pretrain import PretrainConfig
from sdtt.training.sdtt_config import SDTTConfig

VOCABULARY, LENGTH = 20, 8
SHAPE = {
    "vocab_size": VOCABULARY,
    "model_length": LENGTH,
    "hidden_dim": 16,
    "n_blocks": 1,
    "n_heads": 2,
    "initializer_range": 0.3,  # laws far from flat, so that divergences are far from zero
    "bos_token_id": 0,
}
QUIET = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "dataloader_pin_memory": False}
BRIEF = {"learning_rate": 1e-2, "warmup_steps": 0.0}
BRIEF |= {"logging_steps": 1.0, "save_steps": 1000.0}


def texts(count: int = 11, length: int = LENGTH) -> torch.Tensor:
    """Random texts; 11 of them, so that epochs end inside an update."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(VOCABULARY - 1, (count, length), generator=generator)


def masked_model(seed: int = 0, **shape: Any) -> MDLMForMaskedLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MDLMForMaskedLM(MDLMConfig(**SHAPE | shape))


def causal_model(seed: int = 0, **shape: Any) -> CausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CausalLM(CausalConfig(**SHAPE | shape))


def distiller(
    output: Path,
    model: MDLMForMaskedLM | None = None,
    teacher: MDLMForMaskedLM | None = None,
    data: torch.Tensor | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
    tokenizer: Any = None,
    eval_dataset: Any = None,
    **settings: Any,
) -> SDTTTrainer:
    """Two rounds of five updates of four texts, from dt = 1/4, unless told otherwise."""
    default = {"rounds": 2, "steps_per_round": 5, "start_steps": 4, "ema_decay": 0.9}
    default |= {"per_device_train_batch_size": 4}
    return SDTTTrainer(
        masked_model() if model is None else model,
        teacher,
        args=SDTTConfig(str(output), **QUIET | BRIEF | default | settings),
        train_dataset=texts() if data is None else data,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


def pretrainer(
    kind: type,
    output: Path,
    model: Any = None,
    data: torch.Tensor | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
    tokenizer: Any = None,
    **settings: Any,
) -> Any:
    """Six updates of four texts, unless told otherwise."""
    default = {"max_steps": 6, "per_device_train_batch_size": 4}
    return kind(
        masked_model() if model is None else model,
        args=PretrainConfig(str(output), **QUIET | BRIEF | default | settings),
        train_dataset=texts() if data is None else data,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


class Crashed(Exception):
    """The power is gone."""


class CrashAfter(TrainerCallback):
    """Raises in the update after the first ``updates`` of them."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_pre_optimizer_step(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == self.updates:
            self.crash()

    def crash(self) -> None:
        raise Crashed


class KillAfter(CrashAfter):
    """As ``kill -9`` by the hand of another."""

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class BeganAt(TrainerCallback):
    """Notes the update from which a run set out."""

    step: int

    def on_train_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        self.step = state.global_step


class Counting:
    """A denoiser that counts the texts that pass through it and the rows that it draws."""

    mask_token_id = 19
    excluded_ids = (19,)
    head = Head(torch.zeros(20, 1))
    texts = rows = 0

    def hidden(self, z, rows=None, **_):
        self.texts += len(z)
        return torch.zeros(len(rows), 1)

    def logits(self, h):
        self.rows += len(h)
        return torch.zeros(len(h), 19)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def contents(checkpoint: Path) -> dict[str, Any]:
    """Every tensor and number of a checkpoint that training depends on, by name."""
    result: dict[str, Any] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        result |= {f"{file.name}/{name}": value for name, value in load_file(file).items()}
    for name in ("optimizer.pt", "scheduler.pt"):
        state = torch.load(checkpoint / name, weights_only=True)
        for index, moments in state.pop("state", {}).items():
            result |= {f"{name}/{index}/{key}": value for key, value in moments.items()}
        result[name] = repr(state)
    return result


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names whose values are not the same to the last bit."""

    def same(name: str) -> bool:
        if name not in one or name not in other:
            return False
        a, b = one[name], other[name]
        return torch.equal(a, b) if torch.is_tensor(a) and torch.is_tensor(b) else a == b

    return [name for name in sorted(one.keys() | other.keys()) if not same(name)]


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """What is above, for tests: a file of tests cannot import its neighbours."""
    gc.freeze()  # every train() collects garbage: half a second, among all that imports have made
    return SimpleNamespace(**globals())
