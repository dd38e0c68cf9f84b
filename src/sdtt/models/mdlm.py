"""The masked diffusion language model as a transformers model (MDLM, Sahoo et al. 2024)."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import MaskedLMOutput

from sdtt.diffusion.denoiser import Head, exclude, without
from sdtt.models.blocks import BlocksModel
from sdtt.models.config import BlocksConfig
from sdtt.models.contract import check_arguments, check_labels, check_some
from sdtt.models.copying import copy_with, shared
from sdtt.models.fold import fold
from sdtt.models.noise_level import log_linear_level, masked_share
from sdtt.models.pack import pack
from sdtt.models.placement import is_plain
from sdtt.models.precision import in_multiplied_dtype
from sdtt.models.reveal import KeyShape, RevealCache, order_mask, reveal_mask
from sdtt.sampling.generation import DiffusionGenerationMixin

Objective = Callable[[Tensor, Head], Tensor]

_PAPER = {"model_length": 1024, "vocab_size": 50258, "cond_dim": 128, "conditioning": "constant"}

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_dim": 128, "n_blocks": 4, "n_heads": 4, "model_length": 64, "vocab_size": 1024}
    | {"hidden_act": "gelu", "tie_word_embeddings": True},
    "mini": {"hidden_dim": 256, "n_blocks": 6, "n_heads": 4, "model_length": 128}
    | {"vocab_size": 4096, "hidden_act": "gelu", "tie_word_embeddings": True},
    "small": _PAPER | {"hidden_dim": 768, "n_blocks": 12, "n_heads": 12},
    "medium": _PAPER | {"hidden_dim": 1024, "n_blocks": 24, "n_heads": 16},
    "large": _PAPER | {"hidden_dim": 1536, "n_blocks": 24, "n_heads": 16},
    "1.3b": _PAPER | {"hidden_dim": 2048, "n_blocks": 24, "n_heads": 32},
    "3b": _PAPER | {"hidden_dim": 3072, "n_blocks": 26, "n_heads": 32},
    "8b": _PAPER | {"hidden_dim": 4096, "n_blocks": 40, "n_heads": 32},
}
"""Shapes for minutes and for an evening of two CPU cores, and the paper's sizes (SDTT, sec. 5):
169M, 424M, 863M, 1.3B, 3B, 8B."""


class MDLMConfig(BlocksConfig):
    """The shape of an ``MDLMForMaskedLM``; see ``BlocksConfig`` for the keys."""

    model_type = "mdlm"


class MDLMForMaskedLM(DiffusionGenerationMixin, BlocksModel):  # type: ignore[misc]
    """A bidirectional transformer that gives ``p(x_i | z)`` for the masked positions of z.

    It is a ``Denoiser`` and an ordinary transformers masked language model. It is not told t, for
    the number of masks says it, unless its config says ``time_conditioning``. MASK has
    probability 0.
    """

    config: MDLMConfig
    config_class = MDLMConfig

    blank_is_uniform = True
    """Where every token is MASK all values are alike, so attention, whatever its weights, gives
    that value: all positions have one hidden row, in a text of any length (and a given time)."""

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__(config, causal=False)

    @property
    def is_told_time(self) -> bool:
        """Whether the law depends on the t that ``hidden`` is given."""
        return self.config.conditioning == "time"

    def noise_level(self, share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The sigma that the network is told where the process has masked a share of the tokens."""
        return log_linear_level(share)

    def fold(self) -> "MDLMForMaskedLM":
        """The same law without constant conditioning: see ``models.fold.fold``."""
        return fold(self)

    def for_inference(self, *, keep_dtype: bool = False) -> "MDLMForMaskedLM":
        """The same law, to the rounding of the dtype, in the form that is fastest to sample from.

        Constant conditioning is folded, and on a CPU weights are packed: see ``models.pack.pack``.
        Half-precision weights become float32 where the CPU does not multiply their dtype
        (``models.precision``). A model that is quantised, offloaded or adapted stays as it is:
        itself. Packed weights know no autocast: cast the model before.

        Args:
            keep_dtype: Whatever the CPU multiplies.
        """
        if not is_plain(self):
            return self
        folded = fold(self)
        return pack(folded if keep_dtype else in_multiplied_dtype(folded))

    def compile_trunk(self, backend: str = "inductor") -> None:
        """Compiles all but the last block for passes without gradients; copies are not compiled."""
        self.backbone.compile_trunk(backend)

    @property
    def is_compiled(self) -> bool:
        """Whether passes without gradients are compiled, so that few shapes are best."""
        return self.backbone.is_compiled

    def hidden(
        self,
        z: Int[Tensor, "B L"],
        rows: Int[Tensor, " N"] | None = None,
        *,
        attention_mask: Bool[Tensor, "B L"] | Int[Tensor, "B L"] | None = None,
        t: Float[Tensor, " B"] | None = None,
        revealed: Int[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The rows that the head takes; see ``Denoiser.hidden``.

        Args:
            z: Token ids, MASK among them.
            rows: Flat indices into B*L; all rows if None.
            attention_mask: True or 1 where a token is real.
            t: For a model with ``time_conditioning``: the share that the process has masked, of
                each text; where it is None, the share of MASK among the real tokens of the text.
                It does not enter the law of other models.
            revealed: For a model with ``attention="reveal_causal"``: the step in which each visible
                token was revealed; where it is None, all of them in one.

        Raises:
            ValueError: If a text is longer than the model's ``model_length``.
        """
        length = z.shape[1]
        self.check_length(length)
        mask: Any = None
        if self.follows_order:
            order = torch.zeros_like(z) if revealed is None else revealed
            real = None if attention_mask is None else attention_mask.bool()
            mask = reveal_mask(z == self.mask_token_id, order, real)
        elif attention_mask is not None:
            mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=torch.empty(*z.shape, 0, dtype=self.dtype, device=z.device),
                attention_mask=attention_mask,
            )
        positions = torch.arange(length, device=z.device)
        sigma = self._sigma(z, t, attention_mask) if self.is_told_time else None
        hidden: Tensor = self.backbone(z, positions, mask, rows, sigma=sigma)
        return hidden.to(z.device)

    def hidden_in_order(
        self,
        x: Int[Tensor, "B L"],
        revealed: Int[Tensor, "B L"],
        rows: Int[Tensor, " N"] | None = None,
        *,
        attention_mask: Bool[Tensor, "B L"] | Int[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The row of each position as it stands when its step begins, all by one pass over 2 L.

        The masked position i sees the tokens of ``x`` that earlier steps reveal: the sum of its
        -log p(x_i) over all positions is -log of the probability that a sampler in this order,
        which reveals the positions of one step independently, gives exactly ``x``.

        Args:
            x: Clean texts.
            revealed: The step in which each position is revealed; any growing numbers.
            rows: Flat indices into B*L; all rows if None.
            attention_mask: True or 1 where a token is real.

        Raises:
            ValueError: If the attention of this model does not follow the order of revelation, or a
                text is longer than its ``model_length``.
        """
        if not self.follows_order:
            raise ValueError(
                "a model of bidirectional attention computes another law at each step: its passes "
                "cannot be one"
            )
        batch, length = x.shape
        self.check_length(length)
        columns = torch.cat([x, torch.full_like(x, self.mask_token_id)], 1)
        places = torch.arange(length, device=x.device).repeat(2)
        every = torch.arange(batch * length, device=x.device) if rows is None else rows
        asked = every // length * (2 * length) + length + every % length
        real = None if attention_mask is None else attention_mask.bool()
        sees = order_mask(revealed, real)
        hidden: Tensor = self.backbone(columns, places, sees, asked)
        return hidden.to(x.device)

    def check_length(self, length: int) -> None:
        """Refuses texts that are longer than ``model_length``.

        Raises:
            ValueError: If they are.
        """
        if length > self.config.model_length:
            raise ValueError(
                f"a text of {length} tokens is longer than the model's {self.config.model_length}"
            )

    def _sigma(
        self, z: Tensor, t: Tensor | None, attention_mask: Tensor | None
    ) -> Float[Tensor, " B"]:
        """The noise level of each text: as it is told, or else as its MASKs say."""
        share = masked_share(z, self.mask_token_id, attention_mask) if t is None else t
        return self.noise_level(share.to(z.device))

    def with_attention(self, attention: str) -> "MDLMForMaskedLM":
        """The same weights under another attention: another law, which training brings close.

        They share memory: a model that is trained further is to be copied first.

        Args:
            attention: "bidirectional" or "reveal_causal".

        Raises:
            ValueError: If there is no such attention, or it cannot be that of this network.
        """
        config = type(self.config)(**self.config.shape | {"attention": attention})
        model = copy_with(self, shared)
        model.config.attention = config.attention  # which every block reads, at every pass
        return model

    @property
    def follows_order(self) -> bool:
        """Whether the law depends on the order in which tokens became visible."""
        return bool(self.config.attention == "reveal_causal")

    def reveal_cache(self, batch: int, length: int) -> "CachedMDLM":
        """The same law for texts that only become more visible, with a cache of what is.

        Raises:
            ValueError: If the attention of this model does not follow the order.
        """
        return CachedMDLM(self, batch, length)

    def reveal_cache_bytes(self, length: int) -> int:
        """What the cache of one text of ``length`` tokens takes: keys and values of every block.

        And the memory of one more, through which they grow.
        """
        numbers = (2 * self.config.n_blocks + 1) * self.config.hidden_dim * (length + 1)
        return numbers * self.backbone.vocab_embed.embedding.element_size()

    def logits(self, h: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Scores of each row without the excluded ids; see ``Denoiser.logits``."""
        return exclude(self.scores(h), self.excluded_ids)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "B L"] | None = None,
        *,
        t: Float[Tensor, " B"] | None = None,
        rows: Int[Tensor, " N"] | None = None,
        objective: Objective | None = None,
        revealed: Int[Tensor, "B L"] | None = None,
        in_order: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """The transformers contract, or an objective of some rows.

        Args:
            input_ids: Token ids, MASK among them.
            attention_mask: True or 1 where a token is real.
            labels: Targets, clean tokens or -100 where there is none; the loss is their mean
                cross-entropy.
            t: See ``hidden``.
            rows: With ``objective``: the flat indices whose hidden rows it gets.
            objective: A function of (hidden rows, head) that gives a loss. It is called in here, so
                that the hooks of a wrapper (DDP, FSDP) see its gradients; no logits are made.
            revealed: See ``hidden``.
            in_order: The ids are clean, and the rows those of ``hidden_in_order``.
            num_items_in_batch: Targets of the whole update, by which transformers' Trainer has
                their sum divided, so that accumulation changes no gradient.
            return_dict: False for a tuple.
            **others: What transformers hands to any model, such as ``token_type_ids``.

        Returns:
            ``loss`` if asked for, and ``logits`` (B, L, vocab_size), -inf at excluded ids.

        Raises:
            ValueError: If ``in_order`` is asked for without ``revealed``, there is no token, labels
                are not like the ids, or an argument is of what is not done here; see ``hidden``.
        """
        check_arguments(self, others)
        check_some(input_ids)
        check_labels(self, labels, input_ids)
        asked_rows = None if objective is None else rows
        if in_order:
            if revealed is None:
                raise ValueError("in_order=True needs revealed: the step of each position")
            hidden = self.hidden_in_order(
                input_ids, revealed, asked_rows, attention_mask=attention_mask
            )
        else:
            order = {} if revealed is None else {"revealed": revealed}
            hidden = self.hidden(input_ids, asked_rows, attention_mask=attention_mask, t=t, **order)
        if objective is not None:
            return MaskedLMOutput(loss=objective(hidden, self.head))
        loss = None
        if labels is not None:
            loss = self.loss_of(hidden, labels.flatten(), num_items_in_batch)
        scores = without(self.scores(hidden), self.excluded_ids)
        output = MaskedLMOutput(
            loss=loss, logits=scores.view(*input_ids.shape, self.config.vocab_size)
        )
        return output.to_tuple() if return_dict is False else output


class CachedMDLM:
    """The law of a model with ``attention="reveal_causal"``, of texts that only gain tokens.

    Args:
        model: It.
        batch: B.
        length: L.

    Raises:
        ValueError: If the attention of the model does not follow the order of revelation, or a text
            is longer than its ``model_length``.
    """

    def __init__(self, model: MDLMForMaskedLM, batch: int, length: int) -> None:
        if not model.follows_order:
            raise ValueError("a model of bidirectional attention cannot keep a cache")
        model.check_length(length)
        self.model, backbone = model, model.backbone
        embedding, device = backbone.vocab_embed.embedding, model.device
        own = [p.dtype for p in backbone.blocks[0].parameters() if p.dim() == 2]  # packed: none
        dtype = own[0] if own else embedding.dtype
        if torch.is_autocast_enabled(device.type) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device.type)
        heads, blocks = model.config.n_heads, model.config.n_blocks
        self.cache = RevealCache(
            batch,
            length,
            KeyShape(blocks, heads, backbone.head_width, dtype, device),
            few_shapes=model.is_compiled,
            lent=backbone.lent_memory if backbone.has_graphs else None,
        )

    def hidden(
        self,
        canvas: Int[Tensor, "B L"],
        new: Int[Tensor, " M"],
        rows: Int[Tensor, " N"],
        texts: Int[Tensor, " K"],
    ) -> Float[Tensor, "N D"]:
        """The rows of masked positions, by a pass over them and what became visible.

        Args:
            canvas: The texts as they stand.
            new: Flat indices of visible tokens that no pass has seen, all of one step.
            rows: Flat indices of the masked positions, on the CPU like the others.
            texts: Their texts, ascending.
        """
        now = self.cache.plan(new, rows, texts)
        ids = canvas.flatten()[now.places]
        hidden: Tensor = self.model.backbone(
            ids, now.positions, now.sees, now.rows, cache=self.cache
        )
        return hidden


def preset(name: str, **overrides: Any) -> MDLMConfig:
    """A config by name: ``tiny``, ``mini``, or a size of the paper.

    Args:
        name: One of ``PRESETS``.
        **overrides: Fields that differ, such as ``vocab_size``.

    Raises:
        ValueError: If there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return MDLMConfig(**PRESETS[name] | overrides)
