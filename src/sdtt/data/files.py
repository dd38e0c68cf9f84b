"""Documents from files: text, JSON lines, Parquet and raw token ids; text may be compressed."""

import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Integer

from sdtt.data.parquet import read_rows
from sdtt.data.zstandard import open_zstandard

Document: TypeAlias = str | Integer[np.ndarray, " _"]
"""A text, or the token ids of a text that somebody has tokenised."""

SEPARATOR = "<|endoftext|>"
"""A line of a .txt file that consists of this word parts two documents."""

FORMATS = ".txt or .jsonl (each plain, .gz, .xz or .zst), .parquet, or .bin (uint16 token ids)"

_PACKED = (".gz", ".xz", ".zst")
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
_CHUNK = 2**20


@dataclass
class Cursor:
    """Where reading stands in a file: before the document that follows the last one yielded.

    Attributes:
        offset: Bytes of the decompressed content (of .parquet: rows; of .bin: ids) before it.
        lines: Lines before it, in .jsonl.
    """

    offset: int = 0
    lines: int = 0


def file_format(path: Path) -> str | None:
    """Name the format of a file by its suffix, after a suffix of compression: `a.txt.xz` is .txt.

    Returns:
        ".txt", ".jsonl", ".parquet" or ".bin"; None where it is none that `read_file` knows.
    """
    packed = _is_packed(path)
    suffix = (Path(path.stem).suffix if packed else path.suffix).lower()
    known = (".txt", ".jsonl") if packed else (".txt", ".jsonl", ".parquet", ".bin")
    return suffix if suffix in known else None


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in _PACKED


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Open a file for reading bytes, decompressed where its suffix is .gz, .xz or .zst.

    Raises:
        ValueError: It is .zst, and the package zstandard is missing.
    """
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)
        case ".xz":
            return lzma.open(path)
        case ".zst":
            return open_zstandard(path)
    return path.open("rb")


def read_file(path: Path, text_column: str, cursor: Cursor | None = None) -> Iterator[Document]:
    """Yield the documents of one file, in its order.

    A .txt file is one document, or several with lines `<|endoftext|>` between them. A .jsonl file
    has one document a line, a .parquet file one a row. A .bin file (as nanoGPT writes it) is one
    tokenised document.

    Args:
        path: The file; its format goes by its suffix.
        text_column: The key of the text in a line of JSON, or its column in .parquet.
        cursor: Where to begin. It moves along, so that a later reading may begin with the document
            after the last one of this.

    Yields:
        A string each, or an array of token ids where the file holds ids.

    Raises:
        ValueError: The file is of no known format, damaged, or not what its suffix says.
    """
    cursor = cursor or Cursor()
    match file_format(path):
        case ".txt":
            yield from _read_text(path, cursor)
        case ".jsonl":
            yield from _read_json_lines(path, text_column, cursor)
        case ".parquet":
            yield from _read_parquet(path, text_column, cursor)
        case ".bin":
            yield from _read_ids(path, cursor)
        case _:
            raise ValueError(f"cannot read {path}: its name must end in {FORMATS}")


def record_document(record: Mapping[str, object], text_column: str, where: str) -> Document:
    """Take the document out of one record: its `text_column`, or else its `input_ids`.

    Args:
        record: A line of JSON or a row of a dataset.
        text_column: The key of the text; it may itself hold a list of ids.
        where: The place that an error names, such as "line 3 of a.jsonl".

    Raises:
        ValueError: There is no such column, or it holds neither text nor ids.
    """
    column = text_column if text_column in record else "input_ids"
    if column not in record:
        raise ValueError(
            f"{where} has no column {text_column!r}; its columns are "
            f"{', '.join(map(repr, record)) or 'none'}: choose one by text_column"
        )
    value = record[column]
    if isinstance(value, str):
        if _is_unicode(value):
            return value
        raise ValueError(
            f"{where}: column {column!r} holds half of a surrogate pair, mend the text"
        )
    if isinstance(value, list) and all(type(number) is int for number in value):
        try:
            return np.asarray(value, dtype=np.int64)
        except OverflowError as error:
            raise ValueError(
                f"{where}: column {column!r} holds the token id {max(value, key=abs)}, which no "
                "tokenizer has"
            ) from error
    raise ValueError(
        f"{where}: column {column!r} must hold text or a list of token ids, "
        f"got {type(value).__name__}: {str(value)[:40]}"
    )


def read_ids_by_document(
    path: Path, eos: int, cursor: Cursor
) -> Iterator[Integer[np.ndarray, "_"]]:
    """Yield the documents of a .bin file: runs of ids, each up to and with an end of text.

    Args:
        path: The file.
        eos: The id that ends a text.
        cursor: Where to begin; it moves along.

    Raises:
        ValueError: The size of the file is odd.
    """
    for ids in _read_ids(path, Cursor()):
        start = cursor.offset
        for first in range(start, len(ids), _CHUNK):
            for end in first + 1 + np.flatnonzero(ids[first : first + _CHUNK] == eos):
                document, start = ids[start:end], int(end)
                cursor.offset = start
                yield document
        if start < len(ids):
            cursor.offset = len(ids)
            yield ids[start:]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_text(path: Path, cursor: Cursor) -> Iterator[str]:
    parts: list[str] = []
    end = cursor.offset
    for line, end in _lines(path, cursor.offset):
        if re.fullmatch(rf"{re.escape(SEPARATOR)}\s*", line):
            cursor.offset = end
            yield "".join(parts)
            parts = []
        else:
            parts.append(line)
    cursor.offset = end
    yield "".join(parts)


def _read_json_lines(path: Path, text_column: str, cursor: Cursor) -> Iterator[Document]:
    lines = enumerate(_lines(path, cursor.offset), start=cursor.lines + 1)
    for number, (line, end) in lines:
        where = f"line {number} of {path}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # also numbers or lists beyond its limits
            raise ValueError(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(
                f"{where} must be a JSON object such as {{{text_column!r}: ...}}, got {line[:40]!r}"
            )
        cursor.offset, cursor.lines = end, number
        yield record_document(record, text_column, where)


def _read_parquet(path: Path, text_column: str, cursor: Cursor) -> Iterator[Document]:
    for row in read_rows(path, (text_column, "input_ids"), cursor.offset):
        cursor.offset += 1
        yield record_document(row, text_column, f"row {cursor.offset} of {path}")


def _read_ids(path: Path, cursor: Cursor) -> Iterator[Integer[np.ndarray, " N"]]:
    size = path.stat().st_size
    if size % 2:
        raise ValueError(f"{path} has {size} bytes: a .bin file of uint16 ids has an even number")
    if 2 * cursor.offset < size:
        begin, cursor.offset = cursor.offset, size // 2
        yield np.memmap(path, dtype="<u2", mode="r")[begin:]


def _lines(path: Path, offset: int) -> Iterator[tuple[str, int]]:
    """Yield the lines of UTF-8 text from a byte on, each with its end, and the byte after it.

    CR LF is read as LF, a BOM is dropped.
    """
    for line in _byte_lines(path, offset):
        start = 3 if offset == 0 and line.startswith(b"\xef\xbb\xbf") else 0
        nul = line.find(b"\0")
        try:
            text = line[start:].decode() if nul < 0 else ""
        except UnicodeDecodeError as error:
            nul = start + error.start
        if nul >= 0:
            raise ValueError(
                f"{path} is not UTF-8 text: byte {offset + nul} of its content is "
                f"0x{line[nul]:02x}; convert the file to UTF-8, or name token ids .bin"
            )
        offset += len(line)
        yield text.removesuffix("\r\n") + "\n" if text.endswith("\r\n") else text, offset


def _byte_lines(path: Path, offset: int) -> Iterator[bytes]:
    with open_bytes(path) as stream:
        try:
            _skip(stream, offset, seekable=not _is_packed(path))
            yield from stream
        except _DAMAGE as error:
            raise ValueError(f"{path} is cut short or damaged ({error}): fetch it again") from error


def _skip(stream: io.BufferedIOBase, offset: int, *, seekable: bool) -> None:
    """Go to a byte; what is compressed has to be decompressed up to there."""
    if seekable:
        stream.seek(offset)
        return
    while offset > 0:
        passed = len(stream.read(min(offset, _CHUNK)))
        if passed == 0:
            raise EOFError(f"it ends {offset} bytes before the place where reading stood")
        offset -= passed
