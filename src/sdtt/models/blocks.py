"""The transformer that the masked and the causal model share: blocks, rotary positions, adaLN.

Parameter names and config keys follow the published MDLM layout (Sahoo et al. 2024), so that its
files load and save without a map.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sdtt.diffusion.denoiser import Head
from sdtt.diffusion.tiled import tiled_cross_entropy
from sdtt.models.attention import (
    ROTARY_BASE,
    Asked,
    attention_by_heads,
    eager_attention,
    rotary_angles,
    rotate,
    without_tiles,
)
from sdtt.models.config import BlocksConfig
from sdtt.models.linear import PackedLinear, QueryKeyValue, part_of
from sdtt.models.placement import head_of
from sdtt.models.resize import resize_vocabulary
from sdtt.models.reveal import LentMemory, RevealCache

SINUSOID_WIDTH = 256

MOST_SHAPES = 64
"""For which trunks are compiled: a cache has up to 8 widths by 4 reaches for texts of a size."""

FEW_ROWS = 32
"""Queries of a text that are too few to pay for a copy of its keys."""


class TokenEmbedding(nn.Module):
    """A row for each id, under the published name ``vocab_embed.embedding``."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden_dim))

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """The rows of ids, in float32 at least.

        In bfloat16 the residual stream would lose what late blocks add to it.
        """
        rows = nn.functional.embedding(ids, self.embedding)
        return rows.to(torch.promote_types(rows.dtype, torch.float32))


class Norm(nn.LayerNorm):
    """Layer norm in the precision of the residual stream, given in that of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(var + eps) * weight."""
        weight = self.weight.to(x.dtype)
        normal = nn.functional.layer_norm(x, self.normalized_shape, weight, eps=self.eps)
        return normal.to(self.weight.dtype)


class Modulation(nn.Linear):
    """Shifts, scales and gates of a condition; 0 in a fresh model (adaLN-zero, DiT sec. 3.2)."""


class Condition(nn.Module):
    """The adaLN input: a sinusoidal embedding of the noise level sigma = -log alpha, and an MLP.

    Published checkpoints that are not told the time are fed with sigma = 0.
    """

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        width = config.cond_dim or 0
        self.mlp = nn.Sequential(
            nn.Linear(SINUSOID_WIDTH, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(
        self, ids: Int[Tensor, "*B"], sigma: Float[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B 1 C"] | Float[Tensor, " C"]:
        """SiLU(MLP([cos sigma w_0, ..., sin sigma w_0, ...])), w_k = 10000^(-k / 128), k < 128.

        Args:
            ids: Any, of which only the device is read: that of a weight may be none (offloaded).
            sigma: One a text; without it 0, and one condition for every text and time.
        """
        dtype = next(self.mlp.parameters()).dtype
        exact, device = torch.promote_types(dtype, torch.float32), ids.device
        levels = torch.zeros((), dtype=exact, device=device)
        if sigma is not None:
            levels = sigma[:, None].to(device, exact)
        half = SINUSOID_WIDTH // 2
        frequencies = ROTARY_BASE ** -(torch.arange(half, device=device).to(exact) / half)
        angles = levels[..., None] * frequencies
        sinusoid = torch.cat([angles.cos(), angles.sin()], -1).to(dtype)
        return nn.functional.silu(self.mlp(sinusoid))

    def double_precision(self) -> Float[Tensor, " C"]:
        """The same in float64 on the CPU, for folding."""
        exact: Tensor = copy.deepcopy(self).cpu().double()(torch.zeros(1, dtype=torch.long))
        return exact


class Block(GradientCheckpointingLayer):
    """x + gate * Attention(norm(x)), then x + gate * MLP(norm(x)); gates only where conditioned."""

    def __init__(self, config: BlocksConfig, layer_idx: int, *, causal: bool) -> None:
        super().__init__()
        width = config.hidden_dim
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = causal
        self.head_width = width // config.n_heads
        self.rotate = rotate
        self.without_tiles = without_tiles()
        self.norm1 = Norm(width, bias=False)
        self.attn_qkv = QueryKeyValue(width, 3 * width, bias=config.attention_bias)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = Norm(width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), ACT2FN[config.hidden_act], nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(config.dropout)
        if config.conditioning != "none":
            self.adaLN_modulation = Modulation(config.cond_dim or 0, 6 * width)
        self._compiled: Callable[..., Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not compiled."""
        return super().__getstate__() | {"_compiled": None}  # type: ignore[no-untyped-call]

    def compile_for_training(self, **options: Any) -> None:
        """Compiles passes with gradients; blocks of one shape share what is compiled."""
        self._compiled = torch.compile(self._compute, dynamic=False, **options)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        angles: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        condition: Tensor | None,
        cache: Cache | RevealCache | None,
        asked: Asked | None = None,
    ) -> Float[Tensor, "B L D"] | Float[Tensor, "N D"]:
        """One block; of the asked rows only, if they are given (the last block of a pass)."""
        compute = self._compute
        if self._compiled is not None and torch.is_grad_enabled() and cache is None:
            compute = self._compiled
        return compute(x, angles, attention_mask, condition, cache, asked)

    def _compute(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        condition: Tensor | None,
        cache: Cache | RevealCache | None,
        asked: Asked | None,
    ) -> Tensor:
        modulation = None
        if condition is not None:
            modulation = self.adaLN_modulation(condition).chunk(6, -1)
        h = self.norm1(x)
        h = h if modulation is None else modulate(h, *modulation[:2])
        a = self.dropout(self._attend(h, angles, attention_mask, cache, asked))
        if asked is not None:
            modulation = of_texts(modulation, asked.rows // x.shape[1])
            x = x.flatten(0, 1)[asked.rows]
        x = x + (a if modulation is None else modulation[2] * a)
        h = self.norm2(x)
        h = h if modulation is None else modulate(h, *modulation[3:5])
        m = self.dropout(self.mlp(h))
        return x + (m if modulation is None else modulation[5] * m)

    def _attend(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Cache | RevealCache | None,
        asked: Asked | None,
    ) -> Tensor:
        batch, length, width = x.shape
        if asked is None:
            heads = width // self.head_width
            qkv = self.attn_qkv(x).view(batch, length, 3, heads, self.head_width)
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            query, key = self.rotate(query, *angles), self.rotate(key, *angles)
        else:
            query, key, value = self._of_asked(x, angles, asked)
            attention_mask = self._mask_of(asked, attention_mask, length)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        out, _ = self._attention(query, key)(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_width**-0.5,
            is_causal=self.is_causal and attention_mask is None and length > 1,
        )
        out = out.reshape(*out.shape[:2], width)
        return self.attn_out(out if asked is None else out.flatten(0, 1)[asked.picked])

    def _attention(self, query: Tensor, key: Tensor) -> Callable[..., tuple[Tensor, Tensor | None]]:
        """The function that the config names, or a faster one of the same law."""
        name = self.config._attn_implementation
        low = query.dtype in (torch.bfloat16, torch.float16)
        masked = not self.is_causal or query.shape[2] == 1  # one token sees what its mask says
        plain = name == "sdpa" and masked and not torch.is_grad_enabled()
        # products of low precision copy keys that lie with gaps: too much for few rows
        few = query.shape[2] < FEW_ROWS and not key.is_contiguous()
        if low and plain and not few and query.device.type == "cpu" and self.without_tiles:
            return attention_by_heads
        return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)

    def _mask_of(self, asked: Asked, mask: Tensor | None, length: int) -> Tensor | None:
        """What the asked rows see."""
        if mask is None or self.config.attention == "bidirectional":
            # padding hides keys, whoever asks: one row of the mask serves all queries
            return None if mask is None else mask[:, :, :1]
        return mask.take_along_dim((asked.padded % length)[:, None, :, None], 2)

    def _of_asked(
        self, x: Tensor, angles: tuple[Tensor, Tensor], asked: Asked
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the asked rows, keys and values of all."""
        batch, length, width = x.shape
        rows = x.flatten(0, 1)[asked.padded]  # B R D
        query = part_of(self.attn_qkv, 0, rows)
        heads = width // self.head_width
        query = query.unflatten(-1, (heads, self.head_width)).transpose(1, 2)
        pair = part_of(self.attn_qkv, 1, x).view(batch, length, 2, heads, self.head_width)
        key, value = pair.permute(2, 0, 3, 1, 4)
        places = asked.padded % length
        own = [of_places(part.squeeze(-3), places).unsqueeze(1) for part in angles]
        return self.rotate(query, *own), self.rotate(key, *angles), value


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The adaptive part of a layer norm: x (1 + scale) + shift [DiT, sec. 3.2]."""
    return x * (1 + scale) + shift


def of_texts(
    parts: Sequence[Tensor] | None, text: Int[Tensor, " N"] | None
) -> Sequence[Tensor] | None:
    """The modulation of single rows, from that of whole texts (B, 1, D): each takes its text's.

    Args:
        parts: Shifts, scales, gates; if there is one for all texts, (D,), it serves all rows.
        text: Which text each row is of; None for whole texts.
    """
    if parts is None or text is None or parts[0].dim() == 1:
        return parts
    there = text.to(parts[0].device, non_blocking=True)
    return [part.squeeze(1)[there] for part in parts]


def of_places(
    parts: Float[Tensor, "L H"] | Float[Tensor, "B L H"], places: Int[Tensor, "B R"]
) -> Float[Tensor, "B R H"]:
    """The entries of some places, from those of all: the same for each text, or its own."""
    if parts.dim() == 2:
        return parts[places]
    return parts.take_along_dim(places[..., None], 1)


class OutputLayer(nn.Module):
    """The final norm and the head."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.norm_final = Norm(config.hidden_dim, bias=False)
        self.linear = nn.Linear(config.hidden_dim, config.vocab_size)
        if config.conditioning != "none":
            self.adaLN_modulation = Modulation(config.cond_dim or 0, 2 * config.hidden_dim)

    def forward(
        self,
        x: Float[Tensor, "N D"],
        condition: Tensor | None,
        text: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The normalised rows that the head takes; ``text`` says whose condition each row has."""
        x = self.norm_final(x)
        if condition is None:
            return x
        modulation = of_texts(self.adaLN_modulation(condition).chunk(2, -1), text)
        assert modulation is not None
        return modulate(x, *modulation)


class Backbone(nn.Module):
    """Embedding, blocks and output layer, under the published names."""

    def __init__(self, config: BlocksConfig, *, causal: bool) -> None:
        super().__init__()
        self.vocab_embed = TokenEmbedding(config)
        self.blocks = nn.ModuleList(
            Block(config, index, causal=causal) for index in range(config.n_blocks)
        )
        self.output_layer = OutputLayer(config)
        self.head_width = config.hidden_dim // config.n_heads
        if config.conditioning != "none":
            self.sigma_map = Condition(config)
        self._compiled_trunk: Callable[..., Tensor] | None = None
        self.lent_memory = LentMemory()

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not compiled: its compiled trunk would run on the weights of the original."""
        return self.__dict__ | {"_compiled_trunk": None, "lent_memory": LentMemory()}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Where weights go elsewhere, memory that is kept for caches goes."""
        self.lent_memory = LentMemory()
        applied: nn.Module = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return applied

    @property
    def is_compiled(self) -> bool:
        """Whether passes without gradients run a compiled trunk."""
        return self._compiled_trunk is not None

    @property
    def has_graphs(self) -> bool:
        """Whether the compiled trunk runs as CUDA graphs, which write to fixed addresses."""
        return self.is_compiled and self.vocab_embed.embedding.device.type == "cuda"

    def compile_trunk(self, backend: str = "inductor") -> None:
        """Compiles the trunk, for each shape that it meets; on an accelerator as CUDA graphs."""
        if self._compiled_trunk is None:
            on_cpu = self.vocab_embed.embedding.device.type == "cpu"
            mode = None if on_cpu or backend != "inductor" else "reduce-overhead"
            self._compiled_trunk = torch.compile(
                self.trunk, dynamic=False, mode=mode, backend=backend, **several_shapes()
            )

    def compile_for_training(self, **options: Any) -> None:
        """Compiles the blocks for passes with gradients: see ``Block.compile_for_training``."""
        blocks: list[Any] = list(self.blocks)
        for block in blocks:
            block.compile_for_training(**options)

    def _trunk_for(self, ids: Int[Tensor, "B L"]) -> Callable[..., Tensor]:
        """The compiled trunk, but for training and for the one token of a blank text."""
        if self._compiled_trunk is None or torch.is_grad_enabled() or ids.shape[1] == 1:
            return self.trunk
        torch.compiler.cudagraph_mark_step_begin()
        return self._compiled_trunk

    def forward(
        self,
        ids: Int[Tensor, "B L"],
        positions: Int[Tensor, "*B L"],
        attention_mask: Tensor | None,
        rows: Int[Tensor, " N"] | None,
        cache: Cache | RevealCache | None = None,
        sigma: Float[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The rows that the head takes: all B*L of them, or those asked for.

        Args:
            ids: Token ids.
            positions: Their places.
            attention_mask: As the attention takes it.
            rows: Flat indices into B*L; all if None.
            cache: Keys and values of earlier tokens.
            sigma: The noise level of each text, of a model that is told it.
        """
        condition = self.sigma_map(ids, sigma) if hasattr(self, "sigma_map") else None
        angles = rotary_angles(positions, self.head_width)
        x = self._trunk_for(ids)(ids, angles, attention_mask, condition, cache)
        last = self.blocks[-1]
        whole = cache is not None and not isinstance(cache, RevealCache)
        if rows is None or whole or last.is_causal or torch.is_grad_enabled():
            x = last(x, angles, attention_mask, condition, cache).flatten(0, 1)
            x = x if rows is None else x[rows.to(x.device)]
        else:
            asked = Asked.of(rows, ids.shape[0], ids.shape[1], ids.device)
            x = last(x, angles, attention_mask, condition, cache, asked)
        return self.output_layer(x, condition, texts_of(rows, ids))

    def trunk(
        self,
        ids: Int[Tensor, "B L"],
        angles: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        condition: Tensor | None,
        cache: Cache | RevealCache | None,
    ) -> Float[Tensor, "B L D"]:
        """All blocks but the last: what has the same shape whichever rows are asked for."""
        x = self.vocab_embed(ids)
        for block in self.blocks[:-1]:
            x = block(x, angles, attention_mask, condition, cache)
        return x


def several_shapes() -> dict[str, Any]:
    """How a function is compiled for up to ``MOST_SHAPES`` shapes, those of all models together.

    A torch that cannot be told so runs the ninth shape uncompiled.
    """
    is_known = "recompile_limit" in inspect.signature(torch.compile).parameters
    return {"recompile_limit": MOST_SHAPES} if is_known else {}


def texts_of(rows: Int[Tensor, " N"] | None, ids: Int[Tensor, "B L"]) -> Int[Tensor, " N"]:
    """Which text each of the rows is of; of all B*L rows if None."""
    every = torch.arange(ids.numel(), device=ids.device) if rows is None else rows
    return every // ids.shape[1]


class BlocksModel(PreTrainedModel):
    """What the masked and the causal model share beyond the blocks."""

    config: BlocksConfig
    config_class = BlocksConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers declares it so
    _supports_sdpa = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012
    _tied_weights_keys = {  # noqa: RUF012
        "backbone.output_layer.linear.weight": "backbone.vocab_embed.embedding"
    }

    def __init__(self, config: BlocksConfig, *, causal: bool) -> None:
        super().__init__(config)
        self.backbone = Backbone(config, causal=causal)
        self.mask_token_id: int = config.mask_token_id  # type: ignore[assignment]
        self.excluded_ids: tuple[int, ...] = (self.mask_token_id,)
        self._packed_head: PackedLinear | None = None
        self.post_init()  # type: ignore[no-untyped-call]

    accepts_loss_kwargs = True
    """``forward`` takes ``num_items_in_batch``: what transformers' Trainer asks."""

    def loss_of(
        self,
        hidden: Float[Tensor, "N D"],
        targets: Int[Tensor, " N"],
        items: Tensor | int | None = None,
    ) -> Float[Tensor, ""]:
        """The cross-entropy of rows, summed over those with a target and divided.

        Args:
            hidden: Rows that the head takes.
            targets: Ids, -100 where there is none.
            items: By how many, at least 1; by that of the targets if None.

        Raises:
            ValueError: If the model is packed, and a gradient is wanted.
        """
        if self.is_packed and torch.is_grad_enabled():
            raise ValueError("a packed model cannot be trained: train the model it was made of")
        asked = (targets != -100).nonzero().squeeze(-1)
        ones = torch.ones(asked.shape, device=hidden.device)
        total = tiled_cross_entropy(
            hidden[asked], self.head, targets[asked], ones, excluded_ids=self.excluded_ids
        )
        items = len(asked) if items is None else items
        return total / (items.clamp_min(1) if isinstance(items, Tensor) else max(items, 1))

    def scores(self, h: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """The head of hidden rows, one column for every id."""
        result: Tensor = (self._packed_head or self.backbone.output_layer.linear)(h)
        return result.to(h.device)

    def compile_for_training(self, **options: Any) -> None:
        """Compiles the blocks, one by one, for passes with gradients; copies are not compiled.

        Everything else stays as it is: the rows that a loss asks for are never the same number.

        Args:
            **options: ``backend`` and ``mode`` of ``torch.compile``.
        """
        self.backbone.compile_for_training(**options)

    def pack_head(self) -> None:
        """Packs the head; its own weight stays for those who ask for ``head``."""
        linear = self.backbone.output_layer.linear
        self._packed_head = PackedLinear(linear.weight, linear.bias)

    @property
    def is_packed(self) -> bool:
        """Whether this model was made by ``pack``: it can only be sampled from."""
        return self._packed_head is not None

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """Saves config and weights; see transformers.

        Raises:
            ValueError: If the model is packed: its weights lie in the order of this machine.
        """
        if self.is_packed:
            raise ValueError("a packed model cannot be saved: save the model that it was made of")
        super().save_pretrained(*arguments, **options)

    @property
    def device(self) -> torch.device:
        """Where the model computes, and ids belong: offloaded weights lie elsewhere."""
        hook = getattr(self.backbone.vocab_embed, "_hf_hook", None)
        place = getattr(hook, "execution_device", None)
        return super().device if place is None else torch.device(place)

    @property
    def head(self) -> Head:
        """The final linear map alone, as plain tensors: whole if offloaded, dense if quantised."""
        return head_of(self.backbone.output_layer.linear)

    def resize_token_embeddings(  # type: ignore[override]
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Module:
        """Gives embedding and head another number of ids; MASK stays where it is.

        Args:
            new_num_tokens: Ids from now on, MASK included; None changes nothing.
            pad_to_multiple_of: Refused: ids that no tokenizer makes would have a probability.
            mean_resizing: New ids begin as the mean of all ids but MASK, so that no new id is
                likelier than these are on average; else drawn as in a fresh model.

        Returns:
            The token embedding.

        Raises:
            ValueError: If MASK would have no row, the rows would be padded, or the model is packed.
        """
        if self.is_packed:
            raise ValueError("a packed model cannot be resized: resize the model it was made of")
        if pad_to_multiple_of is not None:
            raise ValueError(
                f"pad_to_multiple_of={pad_to_multiple_of} would add ids that no tokenizer makes, "
                "and give them a probability: leave it out"
            )
        if new_num_tokens is not None and new_num_tokens != self.config.vocab_size:
            resize_vocabulary(self, new_num_tokens, mean_resizing=mean_resizing)
        return self.get_input_embeddings()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """What casts and moves a module.

        Raises:
            ValueError: If the model is packed, and would change.
        """
        if self.is_packed:
            probe = torch.empty(0, dtype=self.dtype, device=self.device)
            after = fn(probe)
            if (after.dtype, after.device) != (probe.dtype, probe.device):
                raise ValueError(
                    "a packed model cannot be cast or moved: its weights lie in the order of this "
                    "machine; cast the model it was made of, and pack that"
                )
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.backbone.vocab_embed

    def get_output_embeddings(self) -> nn.Module:
        """The final linear."""
        return self.backbone.output_layer.linear

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights, zero biases; adaLN modulations and a conditioned head start at zero."""
        normal: Callable[[Tensor], Tensor] = partial(
            init.normal_, std=self.config.initializer_range
        )
        head = self.backbone.output_layer.linear
        flat_head = self.config.conditioning != "none" and not self.config.tie_word_embeddings
        if isinstance(module, nn.Linear):
            zero = isinstance(module, Modulation) or (module is head and flat_head)
            (init.zeros_ if zero else normal)(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        elif isinstance(module, TokenEmbedding):
            normal(module.embedding)
