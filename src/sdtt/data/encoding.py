"""Documents to token ids: in pieces, with their ends; nothing in a text is taken for special."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Integer
from transformers import PreTrainedTokenizerBase

from sdtt.data.files import Document

PIECE = 2**18
"""Characters (or ids) of a long document that are encoded at once."""


_WORDS = 4096
"""Of the vocabulary, by which a tokenizer that is written in Python is known."""

_SPACES = " a  b\tc\nd\u00a0e. na\u00efve, 3.14 don't \u65e5\u672c"
"""Spaces, accents and signs, which such tokenizers treat in many ways."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of a document that is encoded at once, and whether it opens or closes it."""

    content: Document
    first: bool
    last: bool


def pieces_of(document: Document) -> Iterator[Piece]:
    """Cut a document into what is encoded at once."""
    contents = list(cut_long(document, PIECE))
    for number, content in enumerate(contents):
        yield Piece(content, first=number == 0, last=number == len(contents) - 1)


def encode_pieces(
    pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase, vocabulary: int
) -> Iterator[Integer[np.ndarray, " _"]]:
    """Encode pieces in parallel, each with the ends that it has: bos and eos of its document.

    Args:
        pieces: Stretches of documents.
        tokenizer: With mask, bos and eos.
        vocabulary: Its `vocabulary_size`, which takes too long to ask for each time.

    Raises:
        ValueError: A document holds an id that the tokenizer does not have, or MASK.
    """
    texts = [piece.content for piece in pieces if isinstance(piece.content, str)]
    encoded = iter(encode_texts(tokenizer, texts))
    for piece in pieces:
        ids = next(encoded) if isinstance(piece.content, str) else piece.content
        ids = np.asarray(ids, dtype=np.int64)
        _check_ids(ids, vocabulary, tokenizer)
        yield _with_ends(ids, piece, tokenizer)


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Encode texts as they are written: nothing is added, and "[MASK]" in a text is six letters."""
    if not texts:
        return []
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,  # of texts longer than the model: they are cut into blocks
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def cut_long(document: Document, limit: int) -> Iterator[Document]:
    """Cut a document into pieces of at most `limit` characters (ids), at paragraphs if it can.

    A cut falls *before* the last white space of a break, because byte-level BPE joins white space
    to the word that follows: so the pieces encode to the ids of the whole.
    """
    start = 0
    while len(document) - start > limit:
        cut = start + limit
        if isinstance(document, str):
            cut = _last_break(document, start, cut)
        yield document[start:cut]
        start = cut
    yield document[start:]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what decides the ids of a text: the backend, bos and eos.

    A tokenizer written in Python does not tell its law: its class, its vocabulary, and what it
    makes of words in small and capital letters stand for it.
    """
    if tokenizer.is_fast:
        law = json.loads(tokenizer.backend_tokenizer.to_str())
        # the state of the last call, not of the tokenizer
        law = {name: part for name, part in law.items() if name not in ("truncation", "padding")}
    else:
        vocabulary = sorted(tokenizer.get_vocab().items())
        some = vocabulary[:: max(1, len(vocabulary) // _WORDS)]
        words = " ".join(word for word, _ in some) + _SPACES
        looks = encode_texts(tokenizer, [words, words.upper(), words.lower()])
        law = {"class": type(tokenizer).__name__, "vocabulary": vocabulary, "encodes": looks}
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id]
    return hashlib.sha256(json.dumps([law, ends]).encode()).hexdigest()


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that could not part documents, or mask them.

    Raises:
        ValueError: It has no mask, bos or eos.
    """
    if None in (tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id):
        raise ValueError(
            f"the tokenizer must have mask, bos and eos, got {tokenizer.mask_token!r}, "
            f"{tokenizer.bos_token!r}, {tokenizer.eos_token!r}: pass it through "
            "sdtt.data.tokenizer.with_mask"
        )


def _check_ids(
    ids: Integer[np.ndarray, " N"], vocabulary: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    wrong = ids[(ids < 0) | (ids >= vocabulary)]
    if len(wrong):
        raise ValueError(
            f"the corpus holds the token id {wrong[0]}, but the vocabulary size is {vocabulary}: "
            "load the tokenizer that made these ids"
        )
    if (ids == tokenizer.mask_token_id).any():
        raise ValueError(
            f"the corpus holds the id {tokenizer.mask_token_id}, which is MASK "
            f"({tokenizer.mask_token}) and no text: load the tokenizer that made these ids"
        )


def _with_ends(
    ids: Integer[np.ndarray, " N"], piece: Piece, tokenizer: PreTrainedTokenizerBase
) -> Integer[np.ndarray, " M"]:
    """Put bos before the first piece of a document (if it is not eos), eos after the last."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    opens = piece.first and bos != eos and not (len(ids) and ids[0] == bos)
    closes = piece.last and not (len(ids) and ids[-1] == eos)
    return np.concatenate([[bos] * opens, ids, [eos] * closes]).astype(np.int64)


def _last_break(text: str, start: int, stop: int) -> int:
    """Find the last place in the second half of text[start:stop] that may be cut."""
    middle = (start + stop) // 2
    for pattern in (r"(?<=\n)\n(?=\S)", r"\s(?=\S)"):
        found = [match.start() for match in re.compile(pattern).finditer(text, middle, stop)]
        if found:
            return found[-1]
    return stop
