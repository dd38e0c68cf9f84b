"""Documents as two flat files of token ids, made once and kept by the hash of what made them."""

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from transformers import PreTrainedTokenizerBase

from sdtt.data.files import Document
from sdtt.data.split import Assigned

PIECE = 2**18
"""Characters (or ids) of a long document that are encoded at once."""

BATCH = 2**21
"""Characters that are encoded in parallel; this bounds the memory."""


SIDES = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class Stream:
    """A file of token ids; `size` counts characters (ids, if tokenised), `text_bytes` UTF-8."""

    path: Path
    dtype: str
    tokens: int
    size: int
    text_bytes: int | None


@dataclasses.dataclass(frozen=True)
class Streams:
    """The two sides of a split, each a file."""

    train: Stream
    validation: Stream


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A stretch of a document that is encoded at once, and whether it opens or closes it."""

    content: Document
    validation: bool
    first: bool
    last: bool


def cached_streams(
    folder: Path,
    key: str,
    tokenizer: PreTrainedTokenizerBase,
    assign: Callable[[], Iterable[Assigned]],
) -> Streams:
    """Open the streams under `key` in `folder`; make them from `assign()` if they are not there.

    Files are written aside and renamed, the record of their sizes last: what a kill leaves is not
    taken for whole, and two processes that make the same streams replace like by like. A file of
    another size than its record says is made again.

    Raises:
        OSError: The folder cannot be written.
        ValueError: A document holds an id that the tokenizer does not have, or MASK.
    """
    streams = _open(folder, key)
    if streams is not None:
        return streams
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(dir=folder, prefix=".making-")
    except OSError as error:
        raise OSError(
            f"cannot write to the cache folder {folder} ({error}): "
            "name another by cache_dir or the variable SDTT_CACHE"
        ) from error
    with aside as name:
        record = _write(Path(name), tokenizer, assign())
        (Path(name) / "record.json").write_text(json.dumps(record))
        for file in ("train.bin", "validation.bin", "record.json"):
            (Path(name) / file).replace(folder / f"{key}-{file}")
    streams = _open(folder, key)
    assert streams is not None, "streams just written are whole"
    return streams


def _open(folder: Path, key: str) -> Streams | None:
    """Read the record under `key`; None if there is none, or a file is not as long as it says."""
    try:
        record = json.loads((folder / f"{key}-record.json").read_text())
        sides = {side: Stream(path=folder / f"{key}-{side}.bin", **record[side]) for side in SIDES}
        whole = all(
            stream.path.stat().st_size == stream.tokens * np.dtype(stream.dtype).itemsize
            for stream in sides.values()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Streams(**sides) if whole else None


class _Writer:
    """One side of a split as it is written: its file, and what has gone into it so far."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._file = path.open("wb")
        self._dtype = dtype
        self._tokens = self._size = 0
        self._text_bytes: int | None = 0

    def append(self, content: Document, ids: Integer[np.ndarray, " N"]) -> None:
        """Add the ids that `content` came to."""
        self._file.write(ids.astype(self._dtype).tobytes())
        self._tokens += len(ids)
        self._size += len(content)
        if isinstance(content, str) and self._text_bytes is not None:
            self._text_bytes += len(content.encode())
        else:
            self._text_bytes = None  # ids do not say how long their text was

    def close(self) -> dict[str, str | int | None]:
        """Close the file; return what `Stream` needs to know of it."""
        self._file.close()
        return {
            "dtype": self._dtype,
            "tokens": self._tokens,
            "size": self._size,
            "text_bytes": self._text_bytes,
        }


def _write(
    folder: Path, tokenizer: PreTrainedTokenizerBase, assigned: Iterable[Assigned]
) -> dict[str, dict[str, str | int | None]]:
    """Write train.bin and validation.bin; return the record of both."""
    vocabulary = 1 + max(tokenizer.get_vocab().values())
    dtype = "<u2" if vocabulary <= 2**16 else "<u4"
    writers = {side: _Writer(folder / f"{side}.bin", dtype) for side in SIDES}
    for piece, ids in _encode(_pieces(assigned), tokenizer):
        _check_ids(ids, vocabulary, tokenizer)
        writers[SIDES[piece.validation]].append(piece.content, _with_ends(ids, piece, tokenizer))
    return {side: writer.close() for side, writer in writers.items()}


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
    ids: Integer[np.ndarray, " N"], piece: _Piece, tokenizer: PreTrainedTokenizerBase
) -> Integer[np.ndarray, " M"]:
    """Put bos before the first piece of a document (if it is not eos), eos after the last."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    opens = piece.first and bos != eos and not (len(ids) and ids[0] == bos)
    closes = piece.last and not (len(ids) and ids[-1] == eos)
    return np.concatenate([[bos] * opens, ids, [eos] * closes]).astype(np.int64)


def _pieces(assigned: Iterable[Assigned]) -> Iterator[_Piece]:
    for one in assigned:
        contents = list(cut_long(one.document, PIECE))
        for number, content in enumerate(contents):
            last = number == len(contents) - 1
            yield _Piece(content, one.validation, first=number == 0, last=last)


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


def _last_break(text: str, start: int, stop: int) -> int:
    """Find the last place in the second half of text[start:stop] that may be cut."""
    middle = (start + stop) // 2
    for pattern in (r"(?<=\n)\n(?=\S)", r"\s(?=\S)"):
        found = [match.start() for match in re.compile(pattern).finditer(text, middle, stop)]
        if found:
            return found[-1]
    return stop


def _encode(
    pieces: Iterable[_Piece], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[_Piece, Integer[np.ndarray, " N"]]]:
    """Yield each piece with its ids, encoding text in batches of about `BATCH` characters."""
    batch: list[_Piece] = []
    waiting = 0
    for piece in pieces:
        batch.append(piece)
        waiting += len(piece.content)
        if waiting >= BATCH:
            yield from _encode_batch(batch, tokenizer)
            batch, waiting = [], 0
    yield from _encode_batch(batch, tokenizer)


def _encode_batch(
    batch: list[_Piece], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[_Piece, Integer[np.ndarray, " N"]]]:
    texts = [piece.content for piece in batch if isinstance(piece.content, str)]
    encoded = iter(encode_texts(tokenizer, texts))
    for piece in batch:
        ids = next(encoded) if isinstance(piece.content, str) else piece.content
        yield piece, np.asarray(ids, dtype=np.int64)


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
