"""The autoregressive twin: the same blocks with causal attention. Baseline, and judge offline."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast

from sdtt.diffusion.denoiser import without
from sdtt.models.blocks import BlocksModel
from sdtt.models.config import BlocksConfig
from sdtt.models.contract import check_labels, check_some
from sdtt.models.mdlm import Objective


class CausalConfig(BlocksConfig):
    """The shape of a ``CausalLM``; see ``BlocksConfig`` for the keys."""

    model_type = "sdtt_causal"
    use_cache: bool = True

    def _check(self) -> None:
        super()._check()
        if self.conditioning == "time":
            raise ValueError(
                "a causal model masks nothing, so it has no time to be told: conditioning must be "
                "'none' or 'constant', got 'time'"
            )


class CausalLM(BlocksModel, GenerationMixin):
    """An autoregressive transformer, p(x_i | x_1 .. x_{i-1}), of the shape of an MDLM.

    It is trained on texts of ``model_length`` tokens behind one BOS, so that it gives a law of
    whole texts; hence it takes ``model_length + 1`` tokens. MASK has probability 0.
    """

    config: CausalConfig
    config_class = CausalConfig

    def __init__(self, config: CausalConfig) -> None:
        super().__init__(config, causal=True)
        self.loss_type = "ForCausalLM"  # so transformers' Trainer counts shifted labels

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "*B L"] | None = None,
        past_key_values: Cache | None = None,
        labels: Int[Tensor, "B L"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        *,
        rows: Int[Tensor, " N"] | None = None,
        objective: Objective | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """The transformers contract (labels are shifted inside), or an objective of some rows.

        Args:
            input_ids: Token ids.
            attention_mask: 1 where a token is real.
            position_ids: Positions; by default they go on from the cache.
            past_key_values: Keys and values of earlier tokens.
            labels: Targets, -100 where there is none: label i + 1 is predicted from tokens <= i.
            use_cache: Whether to return a cache.
            logits_to_keep: Only the last this many positions get logits; all if 0.
            rows: With ``objective``: the flat indices whose hidden rows it gets.
            objective: A function of (hidden rows, head) that gives a loss, called in here.
            num_items_in_batch: Targets of the whole update, by which transformers' Trainer has
                their sum divided, so that accumulation changes no gradient.

        Raises:
            ValueError: If there is no token, there are too many for one pass without positions or
                a cache, or labels are not like the ids.
        """
        check_some(input_ids)
        limit = self.config.model_length + 1  # BOS and a text
        alone = position_ids is None and past_key_values is None  # else positions may begin anew
        if alone and input_ids.shape[1] > limit:
            raise ValueError(
                f"{input_ids.shape[1]} tokens are more than the model's {limit}: BOS and a text of "
                f"{limit - 1}"
            )
        check_labels(self, labels, input_ids)
        cache = past_key_values
        if objective is not None:
            hidden = self._hidden(input_ids, attention_mask, position_ids, None, rows)
            return CausalLMOutputWithPast(loss=objective(hidden, self.head))
        if cache is None and use_cache:
            cache = DynamicCache(config=self.config)
        hidden = self._hidden(input_ids, attention_mask, position_ids, cache)
        batch, length = input_ids.shape
        hidden = hidden.view(batch, length, -1)
        loss = None
        if labels is not None:  # what is behind the last token is nobody's target
            before, behind = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            loss = self.loss_of(before, behind, num_items_in_batch)
        kept = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        scores = self.scores(kept.flatten(0, 1)).view(batch, kept.shape[1], -1)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=without(scores, self.excluded_ids),
            past_key_values=cache,
        )

    def _hidden(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        positions: Tensor | None,
        cache: Cache | None,
        rows: Tensor | None = None,
    ) -> Float[Tensor, "N D"]:
        seen = cache.get_seq_length() if cache is not None else 0
        packed = positions  # only positions that are given may begin anew within a row
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device) + seen
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=torch.empty(*ids.shape, 0, dtype=self.dtype, device=ids.device),
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=packed if packed is None or packed.dim() == 2 else packed[None],
        )
        hidden: Tensor = self.backbone(ids, positions, mask, rows, cache)
        return hidden
