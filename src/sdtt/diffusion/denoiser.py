"""The one interface: what a network must offer to be sampled from, trained and distilled."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn


@dataclass(frozen=True)
class Head:
    """The last linear map of a denoiser, from a hidden row to one score for every token id."""

    weight: Float[Tensor, "V D"]
    bias: Float[Tensor, " V"] | None = None

    def scores(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """``hidden @ weight.T + bias``: raw scores, excluded ids not yet removed."""
        return nn.functional.linear(hidden, self.weight, self.bias)


@runtime_checkable
class Denoiser(Protocol):
    """A law ``p(x_i | z)`` for every position of a partly masked text ``z``.

    Visible tokens are copied by the callers and never asked for (SUBS, MDLM sec. 3.2).
    Callers ask for the rows that they need: a sampler for the positions that it reveals, a loss
    for the masked ones. Nobody needs a (B, L, V) tensor.

    A denoiser may also say: ``blank_is_uniform = True``, if in a text of MASKs alone all positions
    have one hidden row, in texts of any length; ``is_told_time = True``, if its law depends on t,
    else that row is the same at all times; ``unnormalised_scores = True``, if exp(logits) carries
    a scale (see ``sampling.analytic``); ``follows_order = True``, if the law depends on the order
    in which tokens became visible: then ``hidden`` takes ``revealed`` and ``reveal_cache(B, L)``
    gives the same law with a cache (see ``models.reveal``); and offer ``compile_trunk(backend)``
    with ``is_compiled``.

    Attributes:
        mask_token_id: The id of MASK.
        excluded_ids: MASK, and ids that no tokenizer makes: their probability is 0.
    """

    mask_token_id: int
    excluded_ids: tuple[int, ...]

    def hidden(
        self,
        z: Int[Tensor, "B L"],
        rows: Int[Tensor, " N"] | None = None,
        *,
        attention_mask: Bool[Tensor, "B L"] | None = None,
        t: Float[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """What the head needs of each asked row.

        Args:
            z: Token ids, MASK among them.
            rows: Flat indices into B*L; all rows if None. They may lie on the CPU wherever z is.
            attention_mask: True where a token is real, False where it is padding.
            t: The time of each text, for denoisers that are told it: 1 - alpha, the share of the
                tokens that the process has masked by then, whatever schedule the caller runs. None
                where the process is not followed: such a denoiser then counts its MASKs.
        """
        ...

    @property
    def head(self) -> Head:
        """The final linear map alone."""
        ...

    def logits(self, h: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Log-probabilities up to a constant of each row; column j is token id j.

        Excluded ids are -inf; where they are the last ids they are sliced off.
        """
        ...


def as_denoiser(model: object) -> Denoiser:
    """The model, if it offers the ``Denoiser`` interface.

    Raises:
        ValueError: If it does not.
    """
    if not isinstance(model, Denoiser):
        raise ValueError(
            f"{type(model).__name__} is no denoiser: it must offer mask_token_id, excluded_ids, "
            "hidden, head and logits, as MDLMForMaskedLM does"
        )
    return model


def follows_order(denoiser: object) -> bool:
    """Whether the law depends on the order in which tokens became visible."""
    return bool(getattr(denoiser, "follows_order", False))


def exclude(scores: Float[Tensor, "N K"], excluded_ids: tuple[int, ...]) -> Float[Tensor, "N V"]:
    """Removes excluded ids from raw scores: the trailing ones are sliced off, others become -inf.

    Args:
        scores: One column for every token id.
        excluded_ids: Ids of probability 0.

    Returns:
        Scores of the first V ids, V = K less the excluded ids at the end.
    """
    columns = scores.shape[-1]
    inner = sorted(set(excluded_ids))
    while inner and inner[-1] == columns - 1:
        columns = inner.pop()
    scores = scores[..., :columns]
    return without(scores, inner)


def without(scores: Float[Tensor, "*N V"], ids: Iterable[int]) -> Float[Tensor, "*N V"]:
    """The scores with -inf in the columns of some ids; nothing waits for the device."""
    column = torch.arange(scores.shape[-1], device=scores.device)
    for token in ids:
        scores = scores.masked_fill(column == token, float("-inf"))
    return scores


def hidden_of_rows(
    denoiser: Denoiser,
    z: Int[Tensor, "B L"],
    rows: Int[Tensor, " N"],
    t: Float[Tensor, " B"] | None = None,
    attention_mask: Bool[Tensor, "B L"] | None = None,
    revealed: Int[Tensor, "B L"] | None = None,
) -> Float[Tensor, "N D"]:
    """``denoiser.hidden(z, rows)`` by a pass over only the texts that own a row.

    For a compiled denoiser (``is_compiled``) these are filled up to one of few numbers: powers of
    two, an eighth of the batch at least.
    """
    length = z.shape[1]
    texts, owner = torch.unique(rows // length, return_inverse=True)
    if getattr(denoiser, "is_compiled", False):
        texts = filled(texts, len(z), least=len(z) // 8)
    times = None if t is None else t[texts]
    real = None if attention_mask is None else attention_mask[texts]
    order = {} if revealed is None else {"revealed": revealed[texts]}
    local = owner * length + rows % length
    return denoiser.hidden(z[texts], local, attention_mask=real, t=times, **order)


def filled(texts: Shaped[Tensor, " K"], most: int, least: int = 1) -> Shaped[Tensor, " M"]:
    """Repeats the last element up to a power of two, from ``least`` on, and at most ``most``."""
    size = min(most, 1 << (max(len(texts), least) - 1).bit_length())
    return torch.cat([texts, texts[-1:].expand(size - len(texts))])
