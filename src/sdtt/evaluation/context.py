"""What the measurements of one run share: judge, models and texts, each loaded once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from sdtt.data.corpus import documents
from sdtt.data.packing import Blocks
from sdtt.evaluation.drawing import Draw, Drawn, samples_of
from sdtt.evaluation.features import last_hidden
from sdtt.evaluation.judge_samples import read_samples_as
from sdtt.evaluation.prompts import Prompts, prompts_of
from sdtt.evaluation.protocol import MauveSettings, Protocol
from sdtt.evaluation.readability import build_reference, load_reference
from sdtt.evaluation.records import Sample
from sdtt.evaluation.subjects import Loaded, Subject, load
from sdtt.evaluation.texts import source_blocks, text_source
from sdtt.models.checkpoints import load_tokenizer_of


class Context:
    """Loads what measurements ask for when they ask for it, and keeps what comes again.

    One model that is evaluated is in memory at a time, beside the judges.

    Args:
        protocol: What is measured.
        subjects: Of all models the first says how real text is cut into tokens.
        data_root: Folder with copies of the named texts; they are downloaded if None.
        tokenizer: Of the ids in files of samples; the judge's if None.
    """

    def __init__(
        self,
        protocol: Protocol,
        subjects: Sequence[Subject] = (),
        data_root: Path | None = None,
        tokenizer: str | None = None,
    ) -> None:
        self.protocol = protocol
        self.data_root = data_root
        self.seconds: dict[str, float] = {}  # a sample, by its file
        self.advance: Callable[[int], None] = lambda _: None  # told how much more is done
        models = [one for one in subjects if one.kind in ("diffusion", "autoregressive")]
        self._reference = models[0].source if models else None
        self._of_files = tokenizer
        self._loaded: Loaded | None = None
        self._judges: dict[str, Loaded] = {}
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._prompts: dict[Any, Prompts] = {}
        self._trigrams: Any = None
        self._people: dict[Any, Float[np.ndarray, "N D"]] = {}

    def loaded(self, subject: Subject) -> Loaded:
        """The model of a subject; the one before it is let go."""
        if self._loaded is None or self._loaded.subject != subject:
            self._loaded = None
            self._loaded = load(subject)
        return self._loaded

    def judge(self, source: str | None = None) -> Loaded:
        """A causal model that judges, chooses or gives features; the protocol's judge if None."""
        name = source or self.protocol.judge
        if name not in self._judges:
            self._judges[name] = load(Subject(name, name, "autoregressive"))
        return self._judges[name]

    def tokenizer_of(self, subject: Subject) -> PreTrainedTokenizerBase:
        """The tokenizer of a subject's ids: its own, real text's the first model's."""
        source = subject.source
        if subject.kind == "text":
            source = self._reference or self.protocol.judge
        elif subject.kind == "samples":
            source = self._of_files or self.protocol.judge
        if source not in self._tokenizers:
            self._tokenizers[source] = load_tokenizer_of(source)
        return self._tokenizers[source]

    def blocks(self, text: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Blocks:
        """A named text, or a file, in blocks."""
        return source_blocks(text_source(text, self.data_root), tokenizer, length)

    def real_text(self, draw: Draw) -> Drawn:
        """Blocks of real text, chosen by the seed."""
        real = self.protocol.real_text
        assert real is not None
        assert isinstance(draw.how, dict)
        tokenizer = self.tokenizer_of(Subject("", "", "text"))
        blocks = self.blocks(real.text, tokenizer, draw.length)
        if len(blocks) < draw.num_samples:
            raise ValueError(
                f"the text {real.text} has {len(blocks)} blocks of {draw.length} tokens, "
                f"{draw.num_samples} are asked for"
            )
        generator = torch.Generator().manual_seed(draw.how["seed"])
        order = torch.randperm(len(blocks), generator=generator)[: draw.num_samples]
        rows = [blocks[int(index)].tolist() for index in order]
        return Drawn(samples_of(tokenizer, rows))

    def prompts(self, tokenizer: PreTrainedTokenizerBase, draw: Draw) -> Prompts:
        """The prompts of a draw, and how people went on, in the ids of a tokenizer."""
        assert draw.prompted is not None
        front, length = draw.prompted["prompt_tokens"], draw.length
        count = draw.num_samples // draw.prompted["continuations"]
        key = (tokenizer.name_or_path, draw.prompted["prompts"], front, length, count)
        if key not in self._prompts:
            blocks = self.blocks(draw.prompted["prompts"], tokenizer, length)
            rows = [blocks[int(index)] for index in _spread(len(blocks), count)]
            self._prompts[key] = prompts_of(
                rows, prompt_tokens=front, max_tokens=length, count=count
            )
        return self._prompts[key]

    def trigrams(self) -> Any:
        """The reference of readability: a saved one, or that of a text, built once."""
        if self._trigrams is None:
            name = self.protocol.readability.text
            if Path(name).suffix == ".npy":
                self._trigrams = load_reference(Path(name))
            else:
                source = text_source(name, self.data_root)
                texts = documents(
                    source.file(),
                    text_column=source.text.column,
                    unwrap=source.text.unwrap,
                    detokenise=source.text.detokenise,
                )
                self._trigrams = build_reference(text for text in texts if isinstance(text, str))
        return self._trigrams

    def features(
        self, settings: MauveSettings, samples: Sequence[Sample], own: PreTrainedTokenizerBase
    ) -> Float[np.ndarray, "N D"]:
        """Features of samples, prompts included, under the model that gives them."""
        reader = self.judge(settings.features)
        reading = read_samples_as(reader.tokenizer, samples, own=own)
        longest = getattr(reader.model.config, "max_position_embeddings", None)
        return last_hidden(
            reader.model,
            reading.ids,
            max_tokens=longest,
            batch_size=settings.batch_size,
            advance=self.advance,
        )

    def people(
        self, settings: MauveSettings, tokenizer: PreTrainedTokenizerBase, draw: Draw
    ) -> Float[np.ndarray, "N D"]:
        """Features of what people wrote behind the prompts of a draw."""
        key = (tokenizer.name_or_path, settings.text, draw.length, draw.num_samples)
        if key not in self._people:
            whole = self.prompts(tokenizer, draw).whole
            samples = samples_of(tokenizer, [list(ids) for ids in whole])
            self._people[key] = self.features(settings, samples, tokenizer)
        return self._people[key]


@dataclass(frozen=True)
class Measured:
    """What a measurement gives beside what was asked for.

    Attributes:
        result: Name to number.
        tokens: Counted.
        settings: What was found out, such as whether samples were retokenised.
        draw: Where nothing was drawn for it: how the model was run.
    """

    result: dict[str, Any]
    tokens: int = 0
    settings: dict[str, Any] | None = None
    draw: dict[str, Any] | None = None


def _spread(total: int, count: int) -> list[int]:
    """Evenly spread indices; all of them where there are no more."""
    return [index * total // count for index in range(min(count, total))]
