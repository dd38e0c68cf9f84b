"""Documents as two flat files of token ids, made once and kept by the hash of what made them."""

import dataclasses
import errno
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from transformers import PreTrainedTokenizerBase

from sdtt.data.encoding import Piece, encode_pieces, pieces_of
from sdtt.data.files import Document
from sdtt.data.split import Assigned
from sdtt.models.vocabulary import vocabulary_size

BATCH = 2**21
"""Characters that are encoded in parallel; this bounds the memory."""

SIDES = ("train", "validation")

_ASIDE = ".making-"
_ABANDONED = 86_400
"""Seconds after which what was being made, and has not grown since, is taken for left behind."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """A file of token ids.

    Attributes:
        path: The file.
        dtype: Of an id in it.
        tokens: How many there are.
        size: Characters of the text (ids, if it came tokenised).
        text_bytes: UTF-8 bytes of the text; None if it came tokenised.
        sha256: Of the file's bytes, in hexadecimal.
    """

    path: Path
    dtype: str
    tokens: int
    size: int
    text_bytes: int | None
    sha256: str


@dataclasses.dataclass(frozen=True)
class Streams:
    """The two sides of a split, each a file."""

    train: Stream
    validation: Stream


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
        _remove_abandoned(folder)
        aside = tempfile.TemporaryDirectory(dir=folder, prefix=_ASIDE)
    except OSError as error:
        raise _unwritable(folder, error) from error
    with aside as name:
        try:
            record = _write(Path(name), tokenizer, assign())
        except OSError as error:  # reading a source has errors of its own
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _unwritable(folder, error) from error
        (Path(name) / "record.json").write_text(json.dumps(record))
        for file in ("train.bin", "validation.bin", "record.json"):
            (Path(name) / file).replace(folder / f"{key}-{file}")
    streams = _open(folder, key)
    assert streams is not None, "streams just written are whole"
    return streams


def _unwritable(folder: Path, error: OSError) -> OSError:
    reason = (error.strerror or str(error)).lower()
    return OSError(
        f"cannot write to the cache folder {folder} ({reason}): "
        "name another by cache_dir or the variable SDTT_CACHE"
    )


def _remove_abandoned(folder: Path) -> None:
    """Removes what a process that was killed had been making."""
    for aside in folder.glob(f"{_ASIDE}*"):
        changed = [path.stat().st_mtime for path in (aside, *aside.glob("*")) if path.exists()]
        if changed and time.time() - max(changed) > _ABANDONED:
            shutil.rmtree(aside, ignore_errors=True)


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
        self._sha256 = hashlib.sha256()

    def append(self, content: Document, ids: Integer[np.ndarray, " N"]) -> None:
        """Add the ids that `content` came to."""
        data = ids.astype(self._dtype).tobytes()
        self._file.write(data)
        self._sha256.update(data)
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
            "sha256": self._sha256.hexdigest(),
        }


def _write(
    folder: Path, tokenizer: PreTrainedTokenizerBase, assigned: Iterable[Assigned]
) -> dict[str, dict[str, str | int | None]]:
    """Write train.bin and validation.bin; return the record of both."""
    vocabulary = vocabulary_size(tokenizer)
    dtype = "<u2" if vocabulary <= 2**16 else "<u4"
    writers = {side: _Writer(folder / f"{side}.bin", dtype) for side in SIDES}
    for batch in _batches(assigned):
        encoded = encode_pieces([piece for _, piece in batch], tokenizer, vocabulary)
        for (validation, piece), ids in zip(batch, encoded, strict=True):
            writers[SIDES[validation]].append(piece.content, ids)
    return {side: writer.close() for side, writer in writers.items()}


def _batches(assigned: Iterable[Assigned]) -> Iterator[list[tuple[bool, Piece]]]:
    """Cut documents into pieces, and these into batches of about `BATCH` characters."""
    batch: list[tuple[bool, Piece]] = []
    waiting = 0
    for one in assigned:
        for piece in pieces_of(one.document):
            batch.append((one.validation, piece))
            waiting += len(piece.content)
            if waiting >= BATCH:
                yield batch
                batch, waiting = [], 0
    if batch:
        yield batch
