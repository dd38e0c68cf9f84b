"""The texts of published evaluations by name: a local file where there is one, else the hub."""

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sdtt.data.corpus import PYTHON_DOCS, content_digest
from sdtt.data.packing import Blocks, load_blocks
from sdtt.data.tokenizer import with_mask

PARQUET = "refs/convert/parquet"
"""The hub's own conversion of a dataset that is distributed as a script, which no longer runs."""


@dataclass(frozen=True)
class Text:
    """A text to be scored, and how it is read.

    Attributes:
        local: Its path below a folder of data; None if it has none.
        hub: Its name on the Hugging Face hub; None if it is not there.
        config: The dataset's config there.
        split: Its split there.
        column: The column of the text.
        revision: Of the repository there.
        joined: Whether the rows there are lines of one text, as in the file; else documents.
        unwrap: Whether lines are hard-wrapped, and to be joined.
        detokenise: A rule of ``data.detokenise.RULES``; the text is taken as it is if None.
    """

    local: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "test"
    column: str = "text"
    revision: str | None = None
    joined: bool = False
    unwrap: bool = False
    detokenise: str | None = None


def _wikitext(config: str, local: str | None = None) -> Text:
    return Text(local, "Salesforce/wikitext", config, joined=True, detokenise="wikitext")


TEXTS: Mapping[str, Text] = {
    # with <unk>, as the file has it
    "wikitext-2": _wikitext("wikitext-2-v1", "wikitext-2/test.txt.xz"),
    # the test texts of 2 and 103 are one
    "wikitext-103": _wikitext("wikitext-103-raw-v1"),
    "ptb": Text(
        hub="ptb-text-only/ptb_text_only",
        column="sentence",
        revision=PARQUET,
        detokenise="ptb",
    ),
    "lm1b": Text(hub="billion-word-benchmark/lm1b", revision=PARQUET, detokenise="lm1b"),
    "ag_news": Text(hub="fancyzhx/ag_news"),
    "lambada": Text("lambada/lambada_openai_test.jsonl.xz", "EleutherAI/lambada_openai", "default"),
    "gutenberg": Text("gutenberg/test.jsonl.xz", unwrap=True),
}
"""Test texts by name."""


@dataclass(frozen=True)
class TextSource:
    """A text that is found.

    Attributes:
        name: As it was asked for.
        text: How it is read.
        path: The file; None if it has to come from the hub.
    """

    name: str
    text: Text
    path: Path | None

    def file(self) -> Path:
        """The file, fetched from the hub into the cache if need be.

        Raises:
            ValueError: If it cannot be fetched.
        """
        return fetched(self.text) if self.path is None else self.path

    def settings(self) -> dict[str, Any]:
        """What a record says of it."""
        hub = ":".join(filter(None, [self.text.hub, self.text.config]))
        return {
            "text": self.name,
            "source": hub if self.path is None else self.path.name,
            "split": self.text.split,
            "unwrap": self.text.unwrap,
            "detokenise": self.text.detokenise,
        }


def text_source(name: str, data_root: Path | str | None = None) -> TextSource:
    """A text by its name in ``TEXTS``, or a file or folder of text as it is.

    Args:
        name: Such as "wikitext-2", "python-docs", or a path that ``data.corpus.documents`` reads.
        data_root: A folder with the files of ``Text.local``; those that it lacks come from the hub.

    Raises:
        ValueError: If there is no such text, or it is not on the hub and not below the folder.
    """
    if name == PYTHON_DOCS:
        return TextSource(name, Text(), Path(name))  # a name that ``data.corpus`` knows
    if name not in TEXTS:
        if Path(name).expanduser().exists():
            return TextSource(name, Text(), Path(name).expanduser())
        near = difflib.get_close_matches(name, TEXTS, n=3, cutoff=0.4)
        raise ValueError(
            f"there is no text {name!r}, nor a file of that name; "
            + (f"near it: {', '.join(near)}; " if near else "")
            + f"there are {', '.join([*TEXTS, PYTHON_DOCS])}"
        )
    text = TEXTS[name]
    local = local_copy(text, data_root)
    if local is not None:
        return TextSource(name, text, local)
    if text.hub is None:
        raise ValueError(
            f"the text {name!r} is not on the hub: give the folder that holds {text.local}"
        )
    return TextSource(name, text, None)


def local_copy(text: Text, data_root: Path | str | None) -> Path | None:
    """The file of a text below a folder of data; None where there is none.

    Raises:
        ValueError: If the folder itself is not there.
    """
    if data_root is None or text.local is None:
        return None
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise ValueError(f"there is no folder of texts {data_root}")
    path = root / text.local
    return path if path.exists() else None


def fingerprint_of_text(name: str, data_root: Path | str | None = None) -> str:
    """Of what a file or folder holds, a named text's copy too; "" for one of the hub."""
    path: Path | None = Path(name).expanduser()
    if name in TEXTS:
        path = local_copy(TEXTS[name], data_root)
    if name == PYTHON_DOCS or path is None or not path.exists():
        return ""
    return _content(str(path), _state(files_of(path)))


def fingerprint_of_folder(folder: str) -> str:
    """Of the names and contents of all files below a folder, but hidden ones and Python's caches.

    "" where there is no such folder.
    """
    path = Path(folder).expanduser()
    return _contents(str(path), _state(files_of(path))) if path.is_dir() else ""


def files_of(path: Path) -> list[Path]:
    """A file, or those below a folder in order; hidden ones and Python's caches are left out."""
    if path.is_file():
        return [path]
    inside = sorted(each for each in path.rglob("*") if each.is_file())
    parts = [(each, each.relative_to(path).parts) for each in inside]
    return [
        each
        for each, names in parts
        if not any(name.startswith(".") or name == "__pycache__" for name in names)
    ]


def _state(files: Sequence[Path]) -> tuple[Any, ...]:
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@cache
def _contents(folder: str, state: Any) -> str:  # noqa: ARG001 - part of the key
    """Read once as long as no file is touched."""
    digest = hashlib.sha256()
    for file in files_of(Path(folder)):
        digest.update(str(file.relative_to(folder)).encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


@cache
def _content(name: str, state: Any) -> str:  # noqa: ARG001 - part of the key
    """Read once as long as no file is touched."""
    path = Path(name).expanduser()
    if path.suffix == ".npy":  # a reference of readability
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return content_digest(path)[:16]


def source_blocks(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    cache_dir: str | Path | None = None,
) -> Blocks:
    """All of a text in blocks of ``length`` ids, encoded once; see ``data.packing.load_blocks``.

    A tokenizer without MASK, such as a causal model's, is taken with one: no text holds it.
    """
    return load_blocks(
        source.file(),
        with_mask(tokenizer),
        length,
        validation_fraction=0.0,
        text_column=source.text.column,
        unwrap=source.text.unwrap,
        detokenise=source.text.detokenise,
        cache_dir=cache_dir,
    ).train


def fetched(text: Text) -> Path:
    """The split of a text from the hub, as a file below the cache ($SDTT_CACHE, ~/.cache/sdtt).

    Raises:
        ValueError: If it cannot be loaded.
    """
    import datasets  # takes a second or two

    cache = Path(os.environ.get("SDTT_CACHE") or "~/.cache/sdtt").expanduser()
    parts = (text.hub, text.config, text.split)
    name = "-".join(part.replace("/", "--") for part in parts if part)
    path = cache / "texts" / f"{name}.{'txt' if text.joined else 'jsonl'}"
    if not path.exists():
        try:
            table = datasets.load_dataset(
                text.hub, text.config, split=text.split, revision=text.revision
            )
        except Exception as error:  # its kinds are many: network, builder, arrow
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"datasets cannot load {text.hub} ({type(error).__name__}: {reason}); "
                "give a folder that holds the text as a file"
            ) from error
        write_rows(path, table[text.column], text)
    return path


def write_rows(path: Path, rows: Iterable[str], text: Text) -> None:
    """Writes rows of a dataset as the file that they were: lines of one text, or documents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with aside.open("w", encoding="utf-8") as file:
        for row in rows:
            line = row.removesuffix("\n") if text.joined else json.dumps({text.column: row})
            file.write(line + "\n")
    aside.replace(path)
