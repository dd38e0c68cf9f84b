"""Which documents are kept for validation."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from sdtt.data.corpus import document_digest
from sdtt.data.files import Document


@dataclasses.dataclass(frozen=True)
class Assigned:
    """A document, or what one side of a cut has of it, and whether it is for validation."""

    document: Document
    validation: bool


def split_by_hash(documents: Iterable[Document], fraction: float) -> Iterator[Assigned]:
    """Give a document to validation if its hash, read as a number in [0, 1), is below `fraction`.

    The law asks nothing of the order or of the other documents, so the same text never lies on
    both sides, nor changes sides when a corpus grows.

    Args:
        documents: Texts, or arrays of token ids.
        fraction: The share of documents to expect in validation, in [0, 1).
    """
    for document in documents:
        number = int.from_bytes(document_digest(document)[:8]) / 2**64
        yield Assigned(document, number < fraction)


def split_tail(
    documents: Iterable[Document], head: int, window: int, eos: int
) -> Iterator[Assigned]:
    """Give what follows the first `head` characters (ids, if tokenised) to validation.

    The document in which the cut falls is cut in two, at a boundary where one lies at most
    `window` before: the start of the document, else the end of a paragraph, of a line, of a word;
    of ids, after an end of text.

    Args:
        documents: Texts, or arrays of token ids.
        head: Characters (ids) that stay in training, over all documents.
        window: Characters (ids) before the cut in which a boundary is looked for.
        eos: The id that ends a text.
    """
    before = 0
    for document in documents:
        size = len(document)
        cut = min(max(head - before, 0), size)
        if 0 < cut < size:
            cut = 0 if before and cut <= window else _boundary(document, cut, window, eos)
        before += size
        if cut > 0:
            yield Assigned(document[:cut], validation=False)
        if cut < size:
            yield Assigned(document[cut:], validation=True)


def _boundary(document: Document, cut: int, window: int, eos: int) -> int:
    start = max(cut - window, 0)
    if isinstance(document, str):
        for mark in ("\n\n", "\n", " "):
            found = document.rfind(mark, start, cut)
            if found >= 0:
                return found + len(mark)
        return cut
    ends = np.flatnonzero(document[start:cut] == eos)
    return start + int(ends[-1]) + 1 if len(ends) else cut
