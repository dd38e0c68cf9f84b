"""Documents from files: text, JSON lines and raw token ids; text may be compressed (.gz, .xz)."""

import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Integer

Document: TypeAlias = str | Integer[np.ndarray, " _"]
"""A text, or the token ids of a text that somebody has tokenised."""

SEPARATOR = "<|endoftext|>"
"""A line of a .txt file that consists of this word parts two documents."""

FORMATS = ".txt or .jsonl (each plain, .gz or .xz), or .bin (uint16 token ids)"

_PACKED = (".gz", ".xz")
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def file_format(path: Path) -> str | None:
    """Name the format of a file by its suffix, after a suffix of compression: `a.txt.xz` is .txt.

    Returns:
        ".txt", ".jsonl" or ".bin"; None where it is none that `read_file` knows.
    """
    packed = path.suffix in _PACKED
    suffix = Path(path.stem).suffix if packed else path.suffix
    known = (".txt", ".jsonl") if packed else (".txt", ".jsonl", ".bin")
    return suffix if suffix in known else None


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Open a file for reading bytes, decompressed where its suffix is .gz or .xz."""
    match path.suffix:
        case ".gz":
            return gzip.open(path)
        case ".xz":
            return lzma.open(path)
    return path.open("rb")


def read_file(path: Path, text_column: str) -> Iterator[Document]:
    """Yield the documents of one file, in its order.

    A .txt file is one document, or several with lines `<|endoftext|>` between them. A .jsonl file
    has one document a line. A .bin file (as nanoGPT writes it) is one tokenised document.

    Args:
        path: The file; its format goes by its suffix.
        text_column: The key of the text in a line of JSON.

    Yields:
        A string each, or an array of token ids where the file holds ids.

    Raises:
        ValueError: The file is of no known format, damaged, or not what its suffix says.
    """
    match file_format(path):
        case ".txt":
            yield from _read_text(path)
        case ".jsonl":
            yield from _read_json_lines(path, text_column)
        case ".bin":
            yield from _read_ids(path)
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
        return np.asarray(value, dtype=np.int64)
    raise ValueError(
        f"{where}: column {column!r} must hold text or a list of token ids, "
        f"got {type(value).__name__}: {str(value)[:40]}"
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_text(path: Path) -> Iterator[str]:
    parts: list[str] = []
    for line in _lines(path):
        if re.fullmatch(rf"{re.escape(SEPARATOR)}\s*", line):
            yield "".join(parts)
            parts = []
        else:
            parts.append(line)
    yield "".join(parts)


def _read_json_lines(path: Path, text_column: str) -> Iterator[Document]:
    for number, line in enumerate(_lines(path), start=1):
        where = f"line {number} of {path}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(
                f"{where} must be a JSON object such as {{{text_column!r}: ...}}, got {line[:40]!r}"
            )
        yield record_document(record, text_column, where)


def _read_ids(path: Path) -> Iterator[Integer[np.ndarray, " N"]]:
    size = path.stat().st_size
    if size % 2:
        raise ValueError(f"{path} has {size} bytes: a .bin file of uint16 ids has an even number")
    if size:
        yield np.memmap(path, dtype="<u2", mode="r")


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of UTF-8 text with their ends; CR LF is read as LF, a BOM is dropped."""
    offset = 0
    for line in _byte_lines(path):
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
        yield text.removesuffix("\r\n") + "\n" if text.endswith("\r\n") else text


def _byte_lines(path: Path) -> Iterator[bytes]:
    with open_bytes(path) as stream:
        try:
            yield from stream
        except _DAMAGE as error:
            raise ValueError(f"{path} is cut short or damaged ({error}): fetch it again") from error
