"""Tokenizers with a MASK: any of Hugging Face, GPT-2's own files, or one trained on the corpus."""

import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sdtt.data.files import Document, open_bytes
from sdtt.models.formats.files import has_tokenizer
from sdtt.models.shipped import resolve

AnyTokenizer = TypeVar("AnyTokenizer", bound=PreTrainedTokenizerBase)

END_OF_TEXT = "<|endoftext|>"
MASK = "[MASK]"

SMALLEST_VOCABULARY = 258
"""256 bytes, the end of a text, and MASK."""


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer and give it a MASK if it has none (see `with_mask`).

    Args:
        source: See `read_tokenizer`.

    Raises:
        ValueError: Nothing that can be loaded is there.
    """
    return with_mask(read_tokenizer(source))


def read_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer as it is, with or without a MASK.

    Args:
        source: A name on the Hugging Face hub, the name of a shipped model, a folder that
            `save_pretrained` wrote, or a folder of GPT-2's own files `encoder.json` and
            `vocab.bpe`, each plain, .gz or .xz.

    Raises:
        ValueError: Nothing that can be loaded is there.
    """
    source = resolve(source)
    folder = Path(source).expanduser()
    encoder, merges = _find(folder, "encoder.json"), _find(folder, "vocab.bpe")
    if encoder and merges:
        return _load_gpt2(encoder, merges)
    if encoder or merges:
        missing = "vocab.bpe" if encoder else "encoder.json"
        raise ValueError(f"GPT-2's tokenizer in {folder} lacks {missing} (plain, .gz or .xz)")
    if folder.is_dir() and not has_tokenizer(folder):  # else transformers would ask the hub
        begun = (folder / "run.yaml").is_file()
        hint = "; its run has not ended: go on with --resume, or take one of its checkpoints"
        raise ValueError(
            f"cannot load a tokenizer from the folder {source}: there is none, as save_pretrained "
            "writes one" + hint * begun
        )
    try:
        place = str(folder) if folder.is_dir() else str(source)
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"cannot load a tokenizer from {str(source)!r} ({reason}); give a name on the Hugging "
            "Face hub, a folder written by save_pretrained, or a folder with GPT-2's encoder.json "
            "and vocab.bpe"
        ) from error


def train_tokenizer(texts: Iterable[Document], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE: the same texts always give the same tokenizer.

    Its alphabet is all 256 bytes, so that decode(encode(text)) = text for any text. Id 0 is
    `<|endoftext|>` (bos and eos); `[MASK]` is the last id.

    Args:
        texts: What to count pairs in, such as `corpus.documents(source)`.
        vocab_size: All ids, MASK included; at least 258. A corpus with too few pairs to merge
            gives fewer: `len(tokenizer)` is the number that counts.

    Raises:
        ValueError: vocab_size is below 258, or a document is token ids and not text.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocab_size must be at least {SMALLEST_VOCABULARY} (256 bytes, {END_OF_TEXT} and "
            f"{MASK}), got {vocab_size}"
        )
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # MASK comes after
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_only_text(texts), trainer)
    return with_mask(_wrap(backend))


def with_mask(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """Copy a tokenizer, with a mask token, a bos and an eos.

    A tokenizer without a mask token gets `[MASK]` behind its last id. A missing bos is its cls
    token, a missing eos its sep token; if only one of the two can be had, it serves as both.

    Args:
        tokenizer: Any tokenizer of transformers; it is left as it is.

    Raises:
        ValueError: There is no token that could end a text, or the id of the new MASK is taken.
    """
    tokenizer = copy.deepcopy(tokenizer)
    bos = tokenizer.bos_token or tokenizer.cls_token
    eos = tokenizer.eos_token or tokenizer.sep_token
    if bos is None and eos is None:
        raise ValueError(
            "the tokenizer has neither bos nor eos (nor cls or sep), so that nothing could part "
            f"documents: set tokenizer.eos_token = {END_OF_TEXT!r} or a token of its vocabulary"
        )
    tokenizer.bos_token = bos or eos
    tokenizer.eos_token = eos or bos
    if tokenizer.mask_token is None:
        taken = {id_: token for token, id_ in tokenizer.get_vocab().items()}
        tokenizer.add_special_tokens({"mask_token": MASK})
        other = taken.get(tokenizer.mask_token_id, MASK)
        if other != MASK:
            raise ValueError(
                f"the ids of the tokenizer have holes, so that a new {MASK} would get the id "
                f"{tokenizer.mask_token_id} of {other!r}: set tokenizer.mask_token to one of its "
                "unused tokens"
            )
    return tokenizer


def _only_text(texts: Iterable[Document]) -> Iterator[str]:
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(
                "a tokenizer is trained on text, but the corpus holds token ids: load the "
                "tokenizer that made them"
            )
        yield text


def _find(folder: Path, name: str) -> Path | None:
    return next((p for end in ("", ".gz", ".xz") if (p := folder / f"{name}{end}").is_file()), None)


def _load_gpt2(encoder: Path, merges: Path) -> PreTrainedTokenizerFast:
    with open_bytes(encoder) as stream:
        vocabulary = json.load(stream)
    with open_bytes(merges) as stream:
        lines = stream.read().decode().split("\n")[1:]  # the first line is a version
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines if line)]
    return _wrap(_byte_level(models.BPE(vocab=vocabulary, merges=pairs)))


def _byte_level(model: models.BPE) -> Tokenizer:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,  # else decoding would lose spaces before commas
    )
