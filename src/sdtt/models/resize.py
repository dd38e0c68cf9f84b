"""Another number of token ids for embedding and head."""

from typing import Any

import torch
from torch import Tensor, nn

from sdtt.models.placement import is_plain


@torch.no_grad()
def resize_vocabulary(model: Any, ids: int, *, mean_resizing: bool = True) -> None:
    """Cuts or adds rows of embedding and head, in place; MASK stays where it is.

    A new row that is the mean of the old rows scores the mean of the old scores, and the
    exponential of a mean is at most the mean of exponentials: in every text a new id is at most as
    likely as an old one is on average.

    Args:
        model: A ``BlocksModel``, with a head of its own or tied.
        ids: Rows from now on.
        mean_resizing: Whether new rows are the mean of all rows but that of MASK, else drawn as in
            a fresh model, with a bias of 0.

    Raises:
        ValueError: If MASK would have no row, or weights are not plain tensors (``is_plain``).
    """
    mask = model.mask_token_id
    if ids <= mask:
        raise ValueError(
            f"{ids} ids leave no row for MASK, which is {mask}: keep at least {mask + 1}"
        )
    if not is_plain(model):
        raise ValueError(
            "a quantised, offloaded or adapted model keeps its vocabulary: resize the plain one"
        )
    embedding, linear = model.get_input_embeddings(), model.get_output_embeddings()
    spread = model.config.initializer_range

    def resized(old: nn.Parameter, std: float) -> nn.Parameter:
        extra = max(ids - len(old), 0)
        others = torch.cat([old[:mask], old[mask + 1 :]])
        mean = others.to("cpu", torch.float64).mean(0).to(old)  # MPS has no float64
        fresh = old.new_empty(extra, *old.shape[1:]).normal_(0, std) if std else mean.new_zeros(())
        rows: Tensor = mean if mean_resizing else fresh
        new = torch.cat([old[:ids], rows.expand(extra, *old.shape[1:])])
        return nn.Parameter(new, requires_grad=old.requires_grad)

    is_tied = linear.weight is embedding.embedding
    embedding.embedding = resized(embedding.embedding, spread)
    linear.weight = embedding.embedding if is_tied else resized(linear.weight, spread)
    linear.bias = resized(linear.bias, 0.0)
    linear.out_features = model.config.vocab_size = ids
