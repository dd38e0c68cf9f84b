"""The account of a checkpoint: what became of every key, and which ones are wrong."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sdtt.models.formats.layouts import EMBEDDING, Layout, Weights, rotary_base_is_ours
from sdtt.models.formats.names import ROOT, ROTARY, reason
from sdtt.models.formats.stored import Stored

HEAD = ROOT + "output_layer.linear.weight"
CONDITIONING = ("sigma_map.", "adaLN_modulation.")
"""What the names of weights of the conditioning have in them."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Account:
    """Every key of a checkpoint, once.

    Attributes:
        taken: Our name to the weight that it gets.
        left: Plain name to why it is not needed.
    """

    taken: Mapping[str, Stored]
    left: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """Of what is taken, in the file."""
        return sum(stored.bytes for stored in self.taken.values())

    @property
    def conditioning(self) -> tuple[str, ...]:
        """Names of the taken weights that folding multiplies into others."""
        return tuple(name for name in self.taken if any(part in name for part in CONDITIONING))


def account_of(
    layout: Layout, expected: Mapping[str, Shape], weights: Weights, tied: frozenset[str]
) -> Account:
    """What becomes of every key.

    Args:
        layout: Of the checkpoint.
        expected: Our names of all parameters, and their shapes.
        weights: By plain name.
        tied: Of ``expected`` those that share another's weight and need none of their own.

    Raises:
        ValueError: If a weight is missing, misshapen or of whole numbers, or the network has one
            that the model does not know: it would compute something else.
    """
    ours = {layout.ours(name): (name, stored) for name, stored in weights.items()}
    taken = {name: ours[name][1] for name in expected if name in ours and name not in tied}
    _check_missing([name for name in expected if name not in taken and name not in tied], ours)
    _check_vocabulary(taken)
    wrong = [name for name, stored in taken.items() if stored.shape != tuple(expected[name])]
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"{len(wrong)} weights are misshapen, such as {first}: it is "
            f"{list(taken[first].shape)} where the config makes it {list(expected[first])}"
        )
    whole = [name for name, stored in taken.items() if not stored.dtype.is_floating_point]
    if whole:
        kind = str(taken[whole[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"{len(whole)} weights are of whole numbers, such as {whole[0]} ({kind}): quantised "
            "checkpoints are not taken"
        )
    _check_tied([ours[name] for name in sorted(tied & ours.keys())], taken)
    left = {ours[name][0]: _why_left(ours[name], name, tied) for name in ours.keys() - taken}
    return Account(taken, left)


def _check_missing(missing: list[str], ours: Mapping[str, tuple[str, Stored]]) -> None:
    if not missing:
        return
    extra = sorted(ours)[:1]
    beside = f" (it has {len(ours)} weights, such as {extra[0]})" if extra else " (it has none)"
    raise ValueError(
        f"{len(missing)} weights are missing, such as {missing[0]}{beside}; "
        "the file is not of this model, or not whole"
    )


def _check_vocabulary(taken: Mapping[str, Stored]) -> None:
    embedding, head = taken.get(ROOT + EMBEDDING), taken.get(HEAD)
    if embedding and head and embedding.shape[:1] != head.shape[:1]:
        raise ValueError(
            f"the embedding has {_rows(embedding)} rows and the head {_rows(head)}: "
            "both must be the size of the vocabulary, MASK included"
        )


def _rows(stored: Stored) -> int:
    return stored.shape[0] if stored.shape else 0


def _check_tied(found: list[tuple[str, Stored]], taken: Mapping[str, Stored]) -> None:
    """Refuses a weight that should be the embedding's and is another."""
    for own, stored in found:
        if not torch.equal(stored.read(), taken[ROOT + EMBEDDING].read()):
            raise ValueError(
                f"its config ties the head to the embedding (tie_word_embeddings), but {own} is "
                "another weight than the embedding; set it to false in the config"
            )


def _why_left(found: tuple[str, Stored], name: str, tied: frozenset[str]) -> str:
    """Why a weight is not needed.

    Raises:
        ValueError: If the network has it and the model does not.
    """
    own, stored = found
    if name in tied:
        return "tied to the embedding"
    why = reason(own)
    if why is None and name.startswith(ROOT):
        raise ValueError(
            f"the network has a weight that this model does not: {own} {list(stored.shape)}; "
            "without it another law would come out"
        )
    if ROTARY.search(own) and not rotary_base_is_ours(stored.read()):
        raise ValueError(f"{own} holds other rotary frequencies than 10000^(-2 j / width)")
    return why or "unknown, and outside the network"
