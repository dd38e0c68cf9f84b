"""Other people's models as denoisers: masked language models, and networks inside wrappers."""

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdtt.diffusion.denoiser import Denoiser, Head, exclude


def network_of(model: Any) -> Any:
    """The network inside a ``peft`` wrapper, with its adapters at work; a plain model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class MaskedLMDenoiser(nn.Module):
    """A masked language model of transformers as a law p(x_i | z).

    It reads the ids as they are: no special tokens are put around a text. Its weights are those of
    the given model, not copies.

    Args:
        model: Such as ``BertForMaskedLM``; its scores are one linear map, the output embeddings, of
            hidden rows.
        mask_token_id: The id of MASK, the tokenizer's.
        excluded_ids: Ids of probability 0; MASK alone by default.

    Raises:
        ValueError: If the model has no output embeddings, or no such id.
    """

    def __init__(
        self, model: Any, mask_token_id: int, excluded_ids: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        memo = {id(p): p for p in model.parameters()}  # the structure is copied, the weights shared
        trunk = copy.deepcopy(model, memo)
        linear = getattr(trunk, "get_output_embeddings", lambda: None)()
        if not isinstance(linear, nn.Linear):
            raise ValueError(
                f"{type(model).__name__} is no masked language model: its output embeddings must "
                f"be a linear map, got {type(linear).__name__}"
            )
        if not 0 <= mask_token_id < linear.out_features:
            raise ValueError(
                f"mask_token_id must lie in [0, {linear.out_features}), got {mask_token_id}"
            )
        name = next(name for name, module in trunk.named_modules() if module is linear)
        trunk.set_submodule(
            name, nn.Identity().train(linear.training)
        )  # so that its "logits" are the hidden rows
        self.trunk, self.linear = trunk, linear
        self.config = trunk.config
        self.mask_token_id = mask_token_id
        self.excluded_ids = (mask_token_id,) if excluded_ids is None else excluded_ids
        self.training = model.training  # the parts have their own modes

    @property
    def device(self) -> torch.device:
        """Where ids belong."""
        return self.linear.weight.device

    def check_length(self, length: int) -> None:
        """Refuses texts that have more tokens than the model has positions.

        Raises:
            ValueError: If they have.
        """
        limit = getattr(self.config, "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise ValueError(f"a text of {length} tokens is longer than the model's {limit}")

    def set_attn_implementation(self, name: str) -> None:
        """Which attention the model uses; see transformers."""
        self.trunk.set_attn_implementation(name)

    def hidden(
        self,
        z: Int[Tensor, "B L"],
        rows: Int[Tensor, " N"] | None = None,
        *,
        attention_mask: Tensor | None = None,
        t: Tensor | None = None,  # noqa: ARG002 - the protocol's; such a model is not told t
    ) -> Float[Tensor, "N D"]:
        """The rows that the output embeddings take; see ``Denoiser.hidden``."""
        real = torch.ones_like(z) if attention_mask is None else attention_mask.to(z)
        hidden: Tensor = self.trunk(input_ids=z, attention_mask=real).logits.flatten(0, 1)
        return hidden if rows is None else hidden[rows.to(hidden.device)]

    @property
    def head(self) -> Head:
        """The output embeddings."""
        return Head(self.linear.weight, self.linear.bias)

    def logits(self, h: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Scores of each row without the excluded ids; see ``Denoiser.logits``."""
        return exclude(self.head.scores(h), self.excluded_ids)


def denoiser_from(model: Any, mask_token_id: int) -> Any:
    """The model, if it is a ``Denoiser``; else its law as a masked language model.

    Args:
        model: Any masked language model.
        mask_token_id: The id of MASK, the tokenizer's.
    """
    return model if isinstance(model, Denoiser) else MaskedLMDenoiser(model, mask_token_id)
