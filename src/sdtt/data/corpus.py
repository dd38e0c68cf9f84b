"""Where text comes from: files, folders, Hugging Face datasets, or what Python itself carries."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from sdtt.data.detokenise import check_rule, detokenised
from sdtt.data.files import FORMATS, Document, file_format, read_file, record_document
from sdtt.data.python_docs import module_paths, python_docs

Source: TypeAlias = str | Path | Sequence[str | Path]
"""A file, folder, glob pattern, dataset, `python-docs`, or a list of these."""

PYTHON_DOCS = "python-docs"
"""The default corpus; it needs no download."""

_TABLES = {".parquet", ".arrow", ".csv"}
"""What a folder that `datasets` reads is known by."""

_SAVED = (("dataset_dict.json",), ("state.json", "dataset_info.json"))
"""What a folder that `save_to_disk` wrote is known by."""

_NOTES = ("README", "LICENSE", "LICENCE", "NOTICE", "CITATION")
"""Names, whatever their ending, of files that lie beside a corpus and are none of it."""


def documents(
    source: Source,
    *,
    text_column: str = "text",
    unwrap: bool = False,
    detokenise: str | None = None,
) -> Iterator[Document]:
    """Yield the documents of a source in an order that depends on its content and names alone.

    Empty documents (white space only) are left out.

    Args:
        source: One of these, or a list of them:
            a file (.txt, .jsonl, each also .gz, .xz or .zst; .parquet; .bin of uint16 token ids);
            a folder, searched to its depth for such files, in sorted order (what is linked in it
            as well);
            a glob pattern (`**` included), in sorted order, a file once;
            a folder written by `datasets.save_to_disk` or readable by `datasets.load_dataset`;
            the name of a dataset on the Hugging Face hub, `name` or `name:config`;
            `python-docs`, the documentation inside the running Python.
            Of a dataset in splits, "train" is read, or all of them where none is named so.
        text_column: The column of the text in .jsonl and .parquet files and datasets. Where there
            is no such column but one named `input_ids`, the documents are those token ids.
        unwrap: Join hard-wrapped lines: a single line end becomes a space.
        detokenise: Undo a word tokenizer by one of the rules of `detokenise.RULES`.

    Returns:
        An iterator of texts, or of arrays of token ids where the source is tokenised.

    Raises:
        FileNotFoundError: A path or a pattern finds nothing.
        ValueError: A source that cannot be read, or holds no text at all; an unknown rule.
    """
    found = _checked(resolve(source), source, text_column, unwrap)
    if detokenise is None:
        return found
    check_rule(detokenise)
    return (
        detokenised(document, detokenise) if isinstance(document, str) else document
        for document in found
    )


def content_digest(source: Source, *, text_column: str = "text") -> str:
    """Hash what a source holds (sha256): the bytes of files, else the documents themselves."""
    digest = hashlib.sha256()
    for part in resolve(source):
        digest.update(_part_digest(part, text_column))
    return digest.hexdigest()


def document_digest(document: Document) -> bytes:
    """Hash one document (sha256): its UTF-8 bytes, or its ids as they lie in memory."""
    return hashlib.sha256(
        document.encode() if isinstance(document, str) else document.data
    ).digest()


def _part_digest(part: Path | str, text_column: str) -> bytes:
    if isinstance(part, Path):
        return _file_digest(part)
    digest = hashlib.sha256(part.encode())
    if part == PYTHON_DOCS:
        # the files are hashed in a tenth of a second, their docstrings are found in five
        from pydoc_data.topics import topics

        digest.update(repr(sorted(topics.items())).encode())
        for path in module_paths():
            digest.update(_file_digest(path))
        return digest.digest()
    for document in _read(part, text_column):
        digest.update(document_digest(document))
    return digest.digest()


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").digest()
    return hashlib.sha256(f"{file_format(path)} {path.suffix} ".encode() + content).digest()


def _checked(
    parts: list[Path | str], source: Source, text_column: str, unwrap: bool
) -> Iterator[Document]:
    empty = True
    for part in parts:
        for document in _read(part, text_column):
            if is_empty(document):
                continue
            empty = False
            yield unwrapped(document) if unwrap else document
    if empty:
        raise ValueError(f"there is no text in {source}: every document of it is empty")


def is_empty(document: Document) -> bool:
    """Whether a document holds nothing but white space."""
    return len(document) == 0 or (isinstance(document, str) and document.isspace())


def unwrapped(document: Document) -> Document:
    """Join the hard-wrapped lines of a text: a single line end becomes a space."""
    if not isinstance(document, str):
        return document
    return re.sub(r"(?<!\n)\n(?!\n)", " ", document.replace("\r\n", "\n"))


def _read(part: Path | str, text_column: str) -> Iterator[Document]:
    if isinstance(part, Path):
        yield from read_file(part, text_column)
    elif part == PYTHON_DOCS:
        yield from python_docs()
    else:
        for table in load_tables(part):
            for number, row in enumerate(only_text(table, text_column)):
                yield record_document(row, text_column, f"row {number} of dataset {part}")


def resolve(source: Source) -> list[Path | str]:
    """Resolve a source to files (paths) and things with a name: a dataset or `python-docs`."""
    if isinstance(source, str | Path):
        return _resolve(source)
    if not source:
        raise ValueError("the list of sources is empty: name at least one file or dataset")
    return [part for one in source for part in _resolve(one)]


def _resolve(source: str | Path) -> list[Path | str]:
    name = str(source)
    if isinstance(source, str) and not source.strip():
        raise ValueError("one of the sources is empty: name a file, a folder or a dataset")
    if "://" in name:
        raise ValueError(
            f"{name!r} is an address: fetch the file first, or name a dataset of the hub as "
            "owner/name"
        )
    path = Path(source).expanduser()
    if name == PYTHON_DOCS:
        return [name]
    if path.is_dir():
        return _resolve_folder(path)
    if path.exists():
        if file_format(path) is None:
            hint = "; of tables name the folder" if path.suffix.lower() in _TABLES else ""
            raise ValueError(f"cannot read {path}: its name must end in {FORMATS}{hint}")
        return [path]
    if any(sign in name for sign in "*?["):
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not found:
            raise FileNotFoundError(f"no file matches the pattern {name!r}: look at its folder")
        # a pattern may find a folder and what lies in it
        parts = dict.fromkeys(part for one in found for part in _resolve(one))
        whole = {Path(part) for part in parts if isinstance(part, str)}  # folders of tables
        return [part for part in parts if not whole.intersection(Path(part).parents)]
    # what looks like owner/name or name:config may be a dataset; all else was meant as a path
    looks_named = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(:.+)?", name)
    if isinstance(source, str) and looks_named and file_format(path) is None:
        return [name]
    raise FileNotFoundError(f"there is no file or folder {name!r}: check the path")


def _resolve_folder(folder: Path) -> list[Path | str]:
    if _is_saved(folder):
        return [str(folder)]
    inside = _files_in(folder)
    files: list[Path | str] = [path for path in inside if file_format(path)]
    tables = [path for path in inside if path.suffix in _TABLES]
    texts = [path for path in inside if file_format(path) and path not in tables]
    # a table's folder may well hold a README.txt, which is not the corpus; its splits have names
    texts = [path for path in texts if path.name.upper().split(".")[0] not in _NOTES]
    if tables and not texts:
        return [str(folder)]
    unread = [path for path in tables if not file_format(path)]
    if unread:
        raise ValueError(
            f"the folder {folder} holds tables ({unread[0].name}) and text ({texts[0].name}): name "
            f"the text by a pattern, such as '{folder}/**/*{texts[0].suffix}', or the folder of "
            "the tables alone"
        )
    if not files:
        raise FileNotFoundError(
            f"the folder {folder} holds no text: files must end in {FORMATS}, "
            "or be a dataset in .parquet, .arrow or .csv"
        )
    return files


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any(all((folder / mark).is_file() for mark in marks) for marks in _SAVED)


def _files_in(folder: Path) -> list[Path]:
    """All files of a folder, through links, but for hidden ones; sorted.

    Raises:
        OSError: A folder in it cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        # lost+found is of the disk, and nobody may read it
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "lost+found")
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def only_text(table: Any, text_column: str) -> Any:
    """A dataset without the columns that are not asked for, if it has one that is."""
    columns = [one for one in (text_column, "input_ids") if one in (table.column_names or ())]
    return table.select_columns(columns[:1]) if columns else table


def load_tables(name: str, *, streaming: bool = False) -> list[Any]:
    """Load the tables of a dataset: its split "train", or all where none is named so.

    Args:
        name: A folder, or `name` or `name:config` on the Hugging Face hub.
        streaming: Read it as it is used, without a copy in datasets' cache (a dataset written by
            `save_to_disk` lies on disk already, and is mapped from there).

    Returns:
        `datasets.Dataset`s, or `IterableDataset`s.

    Raises:
        ValueError: It cannot be loaded.
    """
    import datasets  # takes a second or two, and most sources do not need it

    path, _, config = (name, "", "") if Path(name).is_dir() else name.partition(":")
    saved = _is_saved(Path(path))
    how = {"streaming": True} if streaming else {}
    try:
        if saved:
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, config or None, **how)
    except Exception as error:  # its kinds are many: network, builder, arrow, pandas
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{name!r} is no file of text, and datasets cannot load it "
            f"({type(error).__name__}: {reason}); give a path, `name:config` of a dataset on the "
            f"hub, or {PYTHON_DOCS!r}, which needs no download"
        ) from error
    if not isinstance(loaded, dict):
        tables = [loaded]
    else:
        tables = [loaded["train"]] if "train" in loaded else list(loaded.values())
    return [table.with_format(None) for table in tables]  # rows of Python's own types
