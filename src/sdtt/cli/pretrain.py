"""`sdtt pretrain`: a masked diffusion model, or its causal twin, from text."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.trainer_utils import SchedulerType

from sdtt.cli.console import note
from sdtt.cli.dry_run import DryRun
from sdtt.cli.options import Given, command, resolved
from sdtt.cli.run_folder import RunFolder
from sdtt.cli.train import (
    QUIET,
    WITHHELD,
    check_output,
    check_resume,
    may_differ,
    run_training,
    spare,
    validate,
)
from sdtt.data.corpus import documents
from sdtt.data.files import Document
from sdtt.data.held import read_ahead
from sdtt.data.packing import SplitBlocks, load_blocks
from sdtt.data.parts import parts_of
from sdtt.data.stream_state import StreamSettings
from sdtt.data.streaming import StreamedSplit, stream_blocks
from sdtt.data.tokenizer import load_tokenizer, train_tokenizer
from sdtt.models.blocks import BlocksModel
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.checkpoints import (
    check_folder,
    load_model,
    load_outline,
    load_tokenizer_of,
)
from sdtt.models.mdlm import PRESETS, MDLMConfig, MDLMForMaskedLM, preset
from sdtt.models.vocabulary import vocabulary_size
from sdtt.training.config import StreamConfig, peak_of
from sdtt.training.disk import SaveFailed
from sdtt.training.estimate import estimate_of_pretraining
from sdtt.training.pretrain import (
    CausalTrainer,
    MDLMTrainer,
    PretrainConfig,
    check_same_shape,
    initialise_from,
)
from sdtt.training.probe import random_texts
from sdtt.training.state import last_complete_checkpoint
from sdtt.training.trainer import StreamTrainer

TRAINERS: dict[str, type[StreamTrainer]] = {"mdlm": MDLMTrainer, "causal": CausalTrainer}

TOKENIZER_CHARACTERS = 10**8
"""What a tokenizer is trained on at the beginning of a stream."""

NO_ID = -1
"""The end of a text, as long as there is no tokenizer."""


@dataclass(frozen=True)
class CorpusSettings:
    """Where text comes from."""

    data: tuple[str, ...] = field(
        metadata={"help": "files, folders, globs or a data set's name; python-docs needs no file"}
    )
    text_column: str = field(
        default="text",
        metadata={"help": "the column of json lines, parquet and data sets that holds text"},
    )
    unwrap: bool = field(default=False, metadata={"help": "join hard-wrapped lines of a paragraph"})
    validation_fraction: float = field(
        default=0.05, metadata={"help": "share of the documents held out, in [0, 1)"}
    )
    stream: bool = field(
        default=False,
        metadata={"help": "read and encode the text while training, without a cache on disk"},
    )
    stream_lanes: int = field(
        default=0,
        metadata={"help": "of a stream: lanes that pack blocks; 0: as many as an update has texts"},
    )
    stream_buffer: int = field(
        default=10_000, metadata={"help": "of a stream: documents that are shuffled at a time"}
    )
    stream_validation: int = field(
        default=256, metadata={"help": "of a stream: blocks held out and kept in memory, at most"}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        for name in ("stream_lanes", "stream_validation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.stream_buffer < 1:
            raise ValueError(f"stream_buffer must be at least 1, got {self.stream_buffer}")

    def check_stream(self) -> None:
        """Refuses what is said of a stream where there is none.

        Raises:
            ValueError: Naming the first.
        """
        for each in fields(CorpusSettings):
            value = getattr(self, each.name)
            if each.name.startswith("stream_") and value != each.default and not self.stream:
                flag = "--" + each.name.replace("_", "-")
                raise ValueError(
                    f"{flag} {value} is of a stream: give --stream too, or leave it out"
                )

    @property
    def source(self) -> str | list[str]:
        """What the corpus reader takes."""
        return self.data[0] if len(self.data) == 1 else list(self.data)

    def texts(self) -> Iterator[Document]:
        """The documents, to train a tokenizer on: of a stream only its beginning."""
        if not self.stream:
            return documents(self.source, text_column=self.text_column, unwrap=self.unwrap)
        parts = parts_of(self.source, text_column=self.text_column, eos=NO_ID)
        return read_ahead(parts, unwrap=self.unwrap, characters=TOKENIZER_CHARACTERS)

    def blocks(
        self, tokenizer: PreTrainedTokenizerBase, length: int, args: StreamConfig
    ) -> SplitBlocks | StreamedSplit:
        """The text as blocks of ids, encoded now, or (a stream) as the run goes."""
        if self.stream:
            settings = StreamSettings(
                length=length,
                lanes=self.stream_lanes or args.texts_per_update,
                seed=args.seed,
                buffer=self.stream_buffer,
                validation_fraction=self.validation_fraction,
                text_column=self.text_column,
                unwrap=self.unwrap,
            )
            return stream_blocks(
                self.source, tokenizer, settings, validation_blocks=self.stream_validation
            )
        return load_blocks(
            self.source,
            tokenizer,
            length,
            validation_fraction=self.validation_fraction,
            text_column=self.text_column,
            unwrap=self.unwrap,
        )


VOCAB_SIZE = 1024
"""Ids of a tokenizer that is trained on the data, if nothing is said."""


@dataclass(frozen=True)
class PretrainSettings(CorpusSettings):
    """What is pretrained."""

    model: Literal["mdlm", "causal"] = field(
        default="mdlm", metadata={"help": "masked diffusion model, or its autoregressive twin"}
    )
    preset: str | None = field(
        default=None,
        metadata={"help": f"shape: {', '.join(PRESETS)}; by default that of --init-from, or tiny"},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "name or folder (also GPT-2 BPE files); a BPE of the data by default"},
    )
    vocab_size: int | None = field(
        default=None, metadata={"help": "ids of the BPE trained on the data; 1024 by default"}
    )
    length: int | None = field(default=None, metadata={"help": "tokens of a text, L"})
    attention: Literal["bidirectional", "reveal_causal"] | None = field(
        default=None,
        metadata={
            "help": "mdlm: reveal_causal follows the order of revelation, so that sampling keeps a "
            "cache; by default that of --init-from, or bidirectional"
        },
    )
    init_from: Path | None = field(
        default=None, metadata={"help": "folder (or shipped model) of the same shape to start from"}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        super().__post_init__()
        if self.model == "causal" and self.attention is not None:
            raise ValueError("--attention is of masked models: a causal one sees what is before")


def pretrain(
    settings: PretrainSettings, run: RunFolder, training: Given[PretrainConfig], dry_run: DryRun
) -> None:
    """Train a masked diffusion model, or its causal twin, on text.

    The model, its tokenizer and its config are written to --output; checkpoints beside them.
    """
    training = dry_run.of(training)
    args = training.make(output_dir=str(run.output), **QUIET)
    if not run.resume:  # a run that an earlier version began may hold what does nothing
        settings.check_stream()
        _check_decay(args)
    if dry_run.dry_run:
        _plan(settings, training, args, dry_run)
        return
    check_output(run, settings.data)
    config = resolved(settings, run, training)
    free = may_differ(args, config, run.output)
    tokenizer = _tokenizer(settings, run)
    torch.manual_seed(args.seed)
    model = _model(settings, tokenizer)
    blocks = settings.blocks(tokenizer, model.config.model_length, args)
    trainer = TRAINERS[settings.model](model, args, blocks.train, tokenizer)
    spare(run, settings.init_from)
    run.open(
        config,
        verb="pretrain",
        may_differ=free,
        check=lambda: check_resume(trainer, run),
    )

    def finish() -> None:
        trainer.save_to(run.output)
        validate(trainer, blocks.validation)

    try:
        run_training(trainer, run, f"pretrain {settings.model}", finish=finish)
    except SaveFailed:
        if trainer.state.global_step == args.max_steps:  # the model may fit where its state did not
            trainer.save_to(run.output)
        raise


def _check_decay(args: PretrainConfig) -> None:
    """Refuses a share of decay under a law of the rate that has none."""
    law, share = SchedulerType(args.lr_scheduler_type), args.decay_share
    if law != SchedulerType.WARMUP_STABLE_DECAY and share != PretrainConfig.decay_share:
        raise ValueError(
            f"--decay-share {share:g} is of the law warmup_stable_decay, and --lr-scheduler-type "
            f"is {law.value}: leave one of them out"
        )


def _tokenizer(settings: PretrainSettings, run: RunFolder) -> PreTrainedTokenizerBase:
    begun = last_complete_checkpoint(run.output)[0] if run.resume else None
    if begun is not None:  # the ids of a run keep their meaning, whatever --data holds now
        return load_tokenizer_of(begun)
    if settings.tokenizer is None and settings.init_from is None:
        return train_tokenizer(settings.texts(), settings.vocab_size or VOCAB_SIZE)
    if settings.tokenizer is not None:
        source, tokenizer = settings.tokenizer, load_tokenizer(settings.tokenizer)
    else:
        assert settings.init_from is not None
        source, tokenizer = str(settings.init_from), load_tokenizer_of(settings.init_from)
    size = vocabulary_size(tokenizer)
    if settings.vocab_size not in (None, size):
        note(
            f"--vocab-size {settings.vocab_size} is not used: the tokenizer of {source} has "
            f"{size} ids"
        )
    return tokenizer


def _model(settings: PretrainSettings, tokenizer: PreTrainedTokenizerBase) -> BlocksModel:
    source = None if settings.init_from is None else _twin(settings.init_from)
    model = _fresh(settings, None if source is None else source.config, _ids_of(tokenizer))
    if source is not None:
        initialise_from(model, source)
    return model


def _ids_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {
        "vocab_size": vocabulary_size(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _fresh(
    settings: PretrainSettings, source: Any | None, ids: dict[str, int | None]
) -> BlocksModel:
    """A model with new weights, in the shape of a preset or of the config of ``init_from``."""
    if source is None or settings.preset is not None:
        shape = preset(settings.preset or "tiny").shape
    else:
        shape = source.shape
    shape |= ids
    if settings.length is not None:
        shape["model_length"] = settings.length
    if settings.model == "causal":
        return CausalLM(CausalConfig(**shape))
    shape["attention"] = settings.attention or getattr(source, "attention", "bidirectional")
    return MDLMForMaskedLM(MDLMConfig(**shape))


def _plan(
    settings: PretrainSettings,
    training: Given[PretrainConfig],
    args: PretrainConfig,
    dry_run: DryRun,
) -> None:
    start = settings.init_from
    source = None if start is None else _config_of(start)
    if settings.tokenizer is not None:
        ids = _ids_of(load_tokenizer(settings.tokenizer))
    elif start is not None:
        ids = _ids_of(load_tokenizer_of(start))
    else:  # the BPE that would be trained has so many ids at most
        last = (settings.vocab_size or VOCAB_SIZE) - 1
        ids = {"vocab_size": last + 1, "mask_token_id": last, "bos_token_id": 0, "eos_token_id": 0}
    twin = None if start is None else _outline(start, source)
    with torch.device("cpu" if dry_run.updates else "meta"):
        model = _fresh(settings, source, ids)
    if twin is not None:
        check_same_shape(model, twin)
    estimate = estimate_of_pretraining(args, model, peak_of(args))

    def trainer(config: Any) -> StreamTrainer:
        texts = random_texts(model, config.per_device_train_batch_size)
        return TRAINERS[settings.model](model, config, texts)

    title = f"pretrain {settings.model} {settings.preset or start or 'tiny'}"
    dry_run.show(title, estimate, training, trainer)


def _config_of(source: str | Path) -> Any:
    return AutoConfig.from_pretrained(check_folder(source), trust_remote_code=False)


def _outline(folder: Path, config: Any) -> BlocksModel:
    """The shape of `_twin`, on the meta device: no weights are read."""
    if isinstance(config, CausalConfig):
        with torch.device("meta"):
            return CausalLM(config)
    return _ours(load_outline(folder), folder)


def _twin(folder: Path) -> BlocksModel:
    """A model of ours, masked or causal, as the folder's config says."""
    causal = _config_of(folder).model_type == CausalConfig.model_type
    return _ours(load_model(folder, causal=causal, dtype=torch.float32), folder)


def _ours(model: Any, folder: Path) -> BlocksModel:
    if not isinstance(model, BlocksModel):
        raise ValueError(
            f"cannot initialise from {folder}: {type(model).__name__} is not of our blocks"
        )
    return model


COMMAND = command(
    pretrain,
    withhold=WITHHELD,
    example="sdtt pretrain --data python-docs --output runs/teacher --max-steps 300",
)
