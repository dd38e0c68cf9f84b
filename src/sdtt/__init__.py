"""sdtt: few-step masked diffusion language models by Self-Distillation Through Time.

Importing it registers ``mdlm``, ``sedd`` and the causal twin with transformers' Auto classes, so
that ``AutoModelForMaskedLM.from_pretrained`` loads them without remote code. Public names load
lazily.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM, preset
from sdtt.models.sedd import SEDDConfig, SEDDForMaskedLM

__version__ = version("sdtt")

AutoConfig.register(MDLMConfig.model_type, MDLMConfig, exist_ok=True)
AutoModelForMaskedLM.register(MDLMConfig, MDLMForMaskedLM, exist_ok=True)
AutoConfig.register(SEDDConfig.model_type, SEDDConfig, exist_ok=True)
AutoModelForMaskedLM.register(SEDDConfig, SEDDForMaskedLM, exist_ok=True)
AutoConfig.register(CausalConfig.model_type, CausalConfig, exist_ok=True)
AutoModelForCausalLM.register(CausalConfig, CausalLM, exist_ok=True)

_HOMES = {
    "CausalTrainer": "sdtt.training.pretrain",
    "DiffusionGenerationConfig": "sdtt.sampling.generation",
    "MDLMTrainer": "sdtt.training.pretrain",
    "PretrainConfig": "sdtt.training.pretrain",
    "SDTTConfig": "sdtt.training.sdtt_config",
    "SDTTTrainer": "sdtt.training.distill",
    "SampleSettings": "sdtt.sampling.settings",
    "documents": "sdtt.data.corpus",
    "generate": "sdtt.sampling.generate",
    "judge_perplexity": "sdtt.evaluation.judge",
    "load_blocks": "sdtt.data.packing",
    "load_published": "sdtt.models.checkpoints",
    "load_tokenizer": "sdtt.data.tokenizer",
    "match_entropy": "sdtt.evaluation.control",
    "sample": "sdtt.sampling.generate",
    "shipped": "sdtt.models.shipped",
    "train_tokenizer": "sdtt.data.tokenizer",
    "validation_nelbo": "sdtt.evaluation.nelbo",
}

__all__ = [
    "CausalConfig",
    "CausalLM",
    "CausalTrainer",
    "DiffusionGenerationConfig",
    "MDLMConfig",
    "MDLMForMaskedLM",
    "MDLMTrainer",
    "PretrainConfig",
    "SDTTConfig",
    "SDTTTrainer",
    "SEDDConfig",
    "SEDDForMaskedLM",
    "SampleSettings",
    "documents",
    "generate",
    "judge_perplexity",
    "load_blocks",
    "load_published",
    "load_tokenizer",
    "match_entropy",
    "preset",
    "sample",
    "shipped",
    "train_tokenizer",
    "validation_nelbo",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
