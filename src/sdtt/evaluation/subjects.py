"""What is evaluated: models of both kinds, real text, and samples that somebody else made."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedTokenizerBase

from sdtt.evaluation.records import Kind
from sdtt.models.causal import CausalLM
from sdtt.models.checkpoints import (
    check_folder,
    load_config,
    load_model,
    load_tokenizer_of,
    on_accelerator,
)
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.models.pack import pack
from sdtt.models.placement import accelerator
from sdtt.models.precision import in_multiplied_dtype
from sdtt.models.shipped import resolve

EDGE = 2**20
"""Bytes at both ends of a file by which it is known again."""

FILES = ("config.json", "*.safetensors", "tokenizer.json", "*.model", "vocab.*", "merges.txt")
"""What a model computes by, and what makes its ids of text."""


@dataclass(frozen=True)
class Subject:
    """One thing that is evaluated.

    Attributes:
        label: Its name in records and tables.
        source: A folder, a name on the hub or of a shipped model; a file of samples; a text.
        kind: What makes its texts.
        taught_steps: The sampling steps that a student was distilled for; None for others.
        length: Tokens of a text, where a model says so.
        fingerprint: Of its files, or the commit of a model of the hub, so that a resumed
            evaluation sees when they changed.
    """

    label: str
    source: str
    kind: Kind
    taught_steps: int | None = None
    length: int | None = None
    fingerprint: str = ""


@dataclass
class Loaded:
    """A model in memory, with its tokenizer, in the two forms that measurements take.

    Attributes:
        subject: Which one it is.
        model: As it was saved, in evaluation mode, on the accelerator; in float32 where a CPU does
            not multiply its dtype.
        tokenizer: Saved with it.
    """

    subject: Subject
    model: Any
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def fast(self) -> Any:
        """As `sdtt generate` runs it: folded, and packed on a CPU."""
        if isinstance(self.model, MDLMForMaskedLM):
            return self.model.for_inference()
        return pack(self.model) if isinstance(self.model, CausalLM) else self.model


def model_subjects(sources: Sequence[str]) -> list[Subject]:
    """Subjects of models: ``LABEL=SOURCE``, or a source, whose last name becomes its label.

    What exists as a whole is a source, whatever is in its name.

    Raises:
        ValueError: If there is no such model, it is of neither kind, or two have one label.
    """
    found: list[Subject] = []
    for text in sources:
        label, is_named, source = text.partition("=")
        if not is_named or Path(text).exists():
            label, source = "", text
        subject = _model_subject(label or _label(source), source)
        if any(subject.label == other.label for other in found):
            raise ValueError(
                f"two models are called {subject.label!r}; name one by --model NAME={source}"
            )
        found.append(subject)
    return found


def sample_subjects(
    files: Sequence[Path], tokenizer: str, others: Sequence[Subject] = ()
) -> list[Subject]:
    """Subjects of files of samples, each called by its file's name without the ending.

    Args:
        files: JSON lines, as ``records.read_samples`` reads them.
        tokenizer: Of their ids; part of their fingerprints, as the files are.
        others: Whose labels are taken.

    Raises:
        ValueError: If two have one label.
    """
    found: list[Subject] = []
    for file in files:
        if any(file.stem == other.label for other in (*others, *found)):
            raise ValueError(
                f"--samples {file}: {file.stem!r} is the name of another file or model already; "
                "rename the file"
            )
        content = hashlib.sha256(file.read_bytes() + tokenizer.encode())
        found.append(Subject(file.stem, str(file), "samples", fingerprint=content.hexdigest()[:16]))
    return found


def _label(source: str) -> str:
    """The last name of a source; of a run's student those of the run and the steps."""
    path = Path(source)
    if path.parent.name == "students":
        return f"{path.parent.parent.name}-{path.name}"
    return path.name or source


def _model_subject(label: str, source: str) -> Subject:
    place = check_folder(source)
    config = load_config(place)
    return Subject(
        label=label,
        source=source,
        kind="autoregressive" if _is_causal(config) else "diffusion",
        taught_steps=getattr(config, "sdtt_sampling_steps", None),
        length=getattr(config, "max_position_embeddings", None),
        fingerprint=_fingerprint(Path(place)) if Path(place).is_dir() else _commit(config),
    )


def _commit(config: Any) -> str:
    """What the cache holds of a model of the hub; "" where transformers does not tell."""
    return getattr(config, "_commit_hash", None) or ""


def _is_causal(config: Any) -> bool:
    """By the class that was saved, else by what transformers has for such a config."""
    names = getattr(config, "architectures", None) or [""]
    if names[0].endswith("ForMaskedLM"):
        return False
    if names[0].endswith(("ForCausalLM", "LMHeadModel", "CausalLM")):
        return True
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING


@cache
def fingerprint_of(source: str) -> str:
    """Of the files of a model; "" for a name on the hub, which says its own versions, and none."""
    folder = Path(resolve(source)) if source else None
    return _fingerprint(folder) if folder is not None and folder.is_dir() else ""


def _fingerprint(folder: Path) -> str:
    """Of config, weights and tokenizer: their sizes, and the ends of each file."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in FILES for file in folder.glob(pattern)):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(EDGE))
            stream.seek(max(0, size - EDGE))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def load(subject: Subject) -> Loaded:
    """The model of a subject, in a dtype that its device multiplies, and its tokenizer.

    Raises:
        ValueError: If a file is missing or damaged, or a masked model is no denoiser.
    """
    causal = subject.kind == "autoregressive"
    model = load_model(subject.source, causal=causal)
    model = model.to(accelerator() or "cpu") if causal else on_accelerator(model)
    return Loaded(subject, in_multiplied_dtype(model), load_tokenizer_of(subject.source))
