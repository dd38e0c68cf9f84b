"""A corpus in parts that can be read from any document on: files, tables, shards of the hub."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from sdtt.data.corpus import PYTHON_DOCS, Source, load_tables, only_text, resolve
from sdtt.data.files import (
    Cursor,
    Document,
    file_format,
    read_file,
    read_ids_by_document,
    record_document,
)
from sdtt.data.python_docs import module_paths, python_docs

Position: TypeAlias = Any
"""Where reading stands in a part, as plain JSON; None at its beginning."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A part that is being read.

    Attributes:
        documents: What is left of it.
        position: Tells where the document after the last one yielded begins.
    """

    documents: Iterator[Document]
    position: Callable[[], Position]


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a corpus that is read in its own order.

    Attributes:
        identity: What another corpus would not have here: a name, and a size where it is cheap.
        open: Begins (None), or goes on at a position of an earlier reading.
    """

    identity: str
    open: Callable[[Position], Opened]


def parts_of(source: Source, *, text_column: str, eos: int) -> list[Part]:
    """Resolve a source to parts: a file each, a shard each of a dataset that is streamed.

    To go on in a file is to seek (in .txt, .jsonl, .bin), to read from the row group on (.parquet),
    or to decompress what lies before without looking at it. A dataset on disk has all its rows at
    hand, one of the hub goes on by `datasets`' own state within a shard; `python-docs` is read
    again. A .bin file is cut into documents at its ends of text.

    Args:
        source: See `corpus.documents`.
        text_column: The column of the text.
        eos: The id that ends a text.

    Raises:
        FileNotFoundError: The source finds nothing.
        ValueError: A dataset that cannot be loaded.
    """
    found: list[Part] = []
    for one in resolve(source):
        if isinstance(one, Path):
            found.append(_file(one, text_column, eos))
        elif one == PYTHON_DOCS:
            found.append(_python_docs())
        else:
            for table in load_tables(one, streaming=True):
                found += _table(only_text(table, text_column), text_column, one)
    return found


def parts_digest(parts: list[Part]) -> str:
    """Hash names and sizes (sha256): not the content, which may be too much to read."""
    return hashlib.sha256("\n".join(part.identity for part in parts).encode()).hexdigest()


def _file(path: Path, text_column: str, eos: int) -> Part:
    def open_at(position: Position) -> Opened:
        cursor = Cursor(*(position or ()))
        documents: Iterator[Document] = (
            read_ids_by_document(path, eos, cursor)
            if file_format(path) == ".bin"
            else read_file(path, text_column, cursor)
        )
        return Opened(documents, lambda: [cursor.offset, cursor.lines])

    return Part(f"{path.name} {path.stat().st_size}", open_at)


def _table(table: Any, text_column: str, name: str) -> list[Part]:
    if hasattr(table, "load_state_dict"):
        count = table.num_shards
        return [_shard(table, text_column, name, index, count) for index in range(count)]

    def read(cursor: Cursor) -> Iterator[Document]:
        for row in table.select(range(cursor.offset, len(table))):
            cursor.offset += 1
            where = f"row {cursor.offset - 1} of dataset {name}"
            yield record_document(row, text_column, where)

    def open_at(position: Position) -> Opened:
        cursor = Cursor(position or 0)
        return Opened(read(cursor), lambda: cursor.offset)

    return [Part(f"{Path(name).name} {len(table)}", open_at)]


def _shard(table: Any, text_column: str, name: str, index: int, count: int) -> Part:
    def open_at(position: Position) -> Opened:
        shard = table.shard(count, index)  # a copy, with a state of its own
        if position is not None:
            shard.load_state_dict(position)
        begun = False

        def read() -> Iterator[Document]:
            nonlocal begun
            for row in shard:
                begun = True
                yield record_document(row, text_column, f"a row of dataset {name}")

        return Opened(read(), lambda: shard.state_dict() if begun else position)

    return Part(f"{Path(name).name} {index} {count}", open_at)


def _python_docs() -> Part:
    def read(cursor: Cursor) -> Iterator[Document]:
        for document in itertools.islice(python_docs(), cursor.offset, None):
            cursor.offset += 1
            yield document

    def open_at(position: Position) -> Opened:
        cursor = Cursor(position or 0)
        return Opened(read(cursor), lambda: cursor.offset)

    sizes = [path.stat().st_size for path in module_paths()]
    return Part(f"{PYTHON_DOCS} {len(sizes)} {sum(sizes)}", open_at)
