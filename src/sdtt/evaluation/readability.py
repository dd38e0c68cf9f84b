"""Readability: the share of a text's word trigrams that occur in a large reference text."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

N = 3

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")

_APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"

_CHUNK = 2**22  # trigrams that wait for their duplicates to be dropped: 32 MiB


@dataclass(frozen=True)
class Readability:
    """How many word trigrams of some texts a reference knows.

    Attributes:
        trigrams: Known trigrams over trigrams, all texts together and repetitions counted.
        trigrams_se: Its standard error over texts, that of a ratio of sums; nan for one text.
        texts: Texts that were counted.
        left_out: Texts that were not: they have fewer than three words.
    """

    trigrams: float
    trigrams_se: float
    texts: int
    left_out: int


class _WordHashes(dict[str, int]):
    """The 64-bit hash of each word, computed when it is first met."""

    def __missing__(self, word: str) -> int:
        digest = blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, lower-cased, with apostrophes inside but not around.

    Digits, underscores and punctuation part words and are none, so a trigram may reach over the
    end of a sentence. A typographic apostrophe is a plain one.
    """
    return _WORD.findall(text.lower().replace(_APOSTROPHE, "'"))


def build_reference(documents: Iterable[str]) -> UInt64[np.ndarray, " M"]:
    """The hashes of the word trigrams of some documents, ascending, each once.

    A trigram (a, b, c) is f(f(f(a) + b) + c), where words are 64-bit BLAKE2b hashes and f is the
    bijection of splitmix64. A trigram that the reference lacks is taken for one of its M with
    chance M / 2^64: 1e-12 at M = 18 million. The same documents give the same hashes on any
    machine. No trigram reaches from one document into the next.

    Args:
        documents: Texts; each is read once and let go.

    Returns:
        8 bytes a different trigram; building takes about as much again.

    Raises:
        ValueError: If no document has three words.
    """
    hashes = _WordHashes()
    chunks: list[UInt64[np.ndarray, " _"]] = []
    waiting: list[UInt64[np.ndarray, " _"]] = []
    size = 0
    for document in documents:
        waiting.append(_trigrams(document, hashes))
        size += len(waiting[-1])
        if size >= _CHUNK:
            chunks.append(np.unique(np.concatenate(waiting)))
            waiting, size = [], 0
    found = np.concatenate([*chunks, *waiting]) if chunks or waiting else np.empty(0, np.uint64)
    chunks.clear()
    if len(found) == 0:
        raise ValueError("the reference has no trigram: no document has three words")
    found.sort()
    return found[np.concatenate([[True], found[1:] != found[:-1]])]


def save_reference(reference: UInt64[np.ndarray, " M"], path: Path) -> None:
    """Writes a reference as one .npy file, aside first and then renamed."""
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("wb") as file:
        np.save(file, reference, allow_pickle=False)
    aside.replace(path)


def load_reference(path: Path) -> UInt64[np.ndarray, " M"]:
    """A saved reference, mapped from its file rather than read.

    Raises:
        ValueError: If the file holds no reference.
    """
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.dtype != np.uint64 or found.ndim != 1 or not np.all(found[1:] > found[:-1]):
        raise ValueError(f"{path} holds no reference: ascending 64-bit hashes of trigrams")
    return found


def readability(texts: Sequence[str], reference: UInt64[np.ndarray, " M"]) -> Readability:
    """The share of the word trigrams of some texts that occur in a reference.

    With k_i known of n_i trigrams of text i and r = sum k / sum n, the standard error is
    sqrt(m / (m - 1) * sum (k_i - r n_i)^2) / sum n over m texts. Compare it with the share of real
    text that is not in the reference: even that is far below 1.

    Args:
        texts: Texts, decoded.
        reference: As `build_reference` makes it.

    Raises:
        ValueError: If no text has three words.
    """
    hashes = _WordHashes()
    grams = [_trigrams(text, hashes) for text in texts]
    counted = [hashed for hashed in grams if len(hashed)]
    if not counted:
        raise ValueError(f"none of the {len(texts)} texts has three words")
    k = np.array([_known(hashed, reference) for hashed in counted], dtype=float)
    n = np.array([len(hashed) for hashed in counted], dtype=float)
    m, share = len(n), k.sum() / n.sum()
    error = float("nan")
    if m > 1:
        error = float(np.sqrt(m / (m - 1) * ((k - share * n) ** 2).sum()) / n.sum())
    return Readability(float(share), error, m, len(grams) - m)


def _known(hashed: UInt64[np.ndarray, " _"], reference: UInt64[np.ndarray, " M"]) -> int:
    places = np.searchsorted(reference, hashed)
    return int((reference[np.minimum(places, len(reference) - 1)] == hashed).sum())


def _trigrams(text: str, hashes: _WordHashes) -> UInt64[np.ndarray, " _"]:
    words = words_of(text)
    count = len(words) - N + 1
    if count < 1:
        return np.empty(0, np.uint64)
    ids = np.fromiter(map(hashes.__getitem__, words), np.uint64, len(words))
    found = np.zeros(count, np.uint64)
    for i in range(N):
        found = _mix(found + ids[i : i + count])
    return found


def _mix(x: UInt64[np.ndarray, " _"]) -> UInt64[np.ndarray, " _"]:
    """The finaliser of splitmix64, a bijection of 64 bits; products wrap."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
