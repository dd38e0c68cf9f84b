"""The transformer that the masked and the causal model share: blocks, rotary positions, adaLN.

Parameter names and config keys follow the published MDLM layout (Sahoo et al. 2024), so that its
files load and save without a map.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sdtt.diffusion.denoiser import Head

SHAPE = (
    *("vocab_size", "model_length", "hidden_dim", "n_blocks", "n_heads", "conditioning"),
    *("cond_dim", "dropout", "hidden_act", "initializer_range", "tie_word_embeddings"),
    *("mask_token_id", "bos_token_id", "eos_token_id", "pad_token_id"),
)
SINUSOID_WIDTH = 256
ROTARY_BASE = 10000.0


class BlocksConfig(PreTrainedConfig):
    """The shape of the network; keys as in the published MDLM configs.

    Args:
        vocab_size: Embedding rows, MASK included.
        model_length: The longest text, L.
        hidden_dim: Width D.
        n_blocks: Number of blocks.
        n_heads: Attention heads; D / n_heads must be even (rotary positions).
        conditioning: "none", or "constant": adaLN fed with a constant, as in published checkpoints.
            By default "constant" where cond_dim is given.
        cond_dim: Width of the conditioning, 128 in published checkpoints.
        dropout: Chance of dropping an element of a residual branch, in training only.
        hidden_act: The MLP's non-linearity; published: tanh-GELU.
        mask_token_id: The id of MASK; the last id by default.
        tie_word_embeddings: Whether the head shares its weight with the embedding.
    """

    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "hidden_dim",
        "num_hidden_layers": "n_blocks",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "model_length",
    }

    vocab_size: int = 50258
    model_length: int = 1024
    hidden_dim: int = 768
    n_blocks: int = 12
    n_heads: int = 12
    conditioning: Literal["none", "constant"] | None = None
    cond_dim: int | None = None
    time_conditioning: bool = False
    dropout: float = 0.0
    hidden_act: str = "gelu_pytorch_tanh"
    initializer_range: float = 0.02
    mask_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills in what follows from the rest, and refuses what cannot be."""
        if self.conditioning is None:
            self.conditioning = "constant" if self.cond_dim else "none"
        if self.mask_token_id is None:
            self.mask_token_id = self.vocab_size - 1
        kwargs.pop("return_dict", None)  # published configs say false, which breaks callers
        kwargs.pop("auto_map", None)  # this class needs no remote code
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self._check()

    @property
    def shape(self) -> dict[str, Any]:
        """The fields that a masked and a causal model of one shape share."""
        return {name: getattr(self, name) for name in SHAPE}

    def _check(self) -> None:
        if self.hidden_dim % (2 * self.n_heads):
            raise ValueError(
                f"hidden_dim must be a multiple of 2 * n_heads (rotary positions), "
                f"got {self.hidden_dim} and {self.n_heads} heads"
            )
        if self.conditioning not in ("none", "constant"):
            raise ValueError(
                f"conditioning must be 'none' or 'constant', got {self.conditioning!r}"
            )
        if (self.conditioning == "constant") != bool(self.cond_dim):
            raise ValueError(
                f"conditioning={self.conditioning!r} does not go with cond_dim={self.cond_dim}; "
                "'constant' needs a width, such as 128, 'none' takes none"
            )
        if self.time_conditioning:
            raise ValueError(
                "time_conditioning=True is not supported: the denoiser is not told t "
                "(published MDLM and SDTT checkpoints say false)"
            )
        if not 0 <= (self.mask_token_id or 0) < self.vocab_size:
            raise ValueError(
                f"mask_token_id must lie in [0, {self.vocab_size}), got {self.mask_token_id}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


class TokenEmbedding(nn.Module):
    """A row for each id, under the published name ``vocab_embed.embedding``."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden_dim))

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """The rows of ids."""
        return nn.functional.embedding(ids, self.embedding)


class Modulation(nn.Linear):
    """Shifts, scales and gates of a condition; 0 in a fresh model (adaLN-zero, DiT sec. 3.2)."""


class ConstantCondition(nn.Module):
    """The adaLN input of published checkpoints: a sinusoidal embedding of sigma = 0 and an MLP."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        width = config.cond_dim or 0
        self.mlp = nn.Sequential(
            nn.Linear(SINUSOID_WIDTH, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self) -> Float[Tensor, " C"]:
        """SiLU(MLP([cos 0, ..., sin 0, ...])): the same for every text and time."""
        half = SINUSOID_WIDTH // 2
        like = next(self.mlp.parameters())
        sinusoid = torch.cat([like.new_ones(half), like.new_zeros(half)])
        return nn.functional.silu(self.mlp(sinusoid))


def rotary_angles(
    positions: Int[Tensor, "*B L"], width: int
) -> tuple[Float[Tensor, "*B 1 L H"], Float[Tensor, "*B 1 L H"]]:
    """Cosine and sine of position * 10000^(-2 j / width), j < width / 2, in float32."""
    exponents = torch.arange(0, width, 2, device=positions.device).float() / width
    angles = positions[..., None].float() * ROTARY_BASE**-exponents
    return angles.cos().unsqueeze(-3), angles.sin().unsqueeze(-3)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns the pairs (x_j, x_{j + H}) of each head by the angles (half-split rotary, RoFormer)."""
    first, second = x.float().chunk(2, -1)
    turned = torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)
    return turned.to(x.dtype)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T scaling + mask) v, written out: on a CPU the fastest backward at L <= 128."""
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


class Block(GradientCheckpointingLayer):
    """x + gate * Attention(norm(x)), then x + gate * MLP(norm(x)); gates only where conditioned."""

    def __init__(self, config: BlocksConfig, layer_idx: int, *, causal: bool) -> None:
        super().__init__()
        width = config.hidden_dim
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = causal
        self.head_width = width // config.n_heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), ACT2FN[config.hidden_act], nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(config.dropout)
        if config.conditioning == "constant":
            self.adaLN_modulation = Modulation(config.cond_dim or 0, 6 * width)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        angles: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        condition: Tensor | None,
        cache: Cache | None,
    ) -> Float[Tensor, "B L D"]:
        """One block."""
        if condition is None:
            x = x + self.dropout(self._attend(self.norm1(x), angles, attention_mask, cache))
            return x + self.dropout(self.mlp(self.norm2(x)))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6)
        h = modulate(self.norm1(x), shift1, scale1)
        x = x + gate1 * self.dropout(self._attend(h, angles, attention_mask, cache))
        return x + gate2 * self.dropout(self.mlp(modulate(self.norm2(x), shift2, scale2)))

    def _attend(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        batch, length, width = x.shape
        qkv = self.attn_qkv(x).view(batch, length, 3, -1, self.head_width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, *angles), rotate(key, *angles)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        out, _ = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_width**-0.5,
            is_causal=self.is_causal and attention_mask is None and length > 1,
        )
        return self.attn_out(out.reshape(batch, length, width))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The adaptive part of a layer norm: x (1 + scale) + shift [DiT, sec. 3.2]."""
    return x * (1 + scale) + shift


class OutputLayer(nn.Module):
    """The final norm and the head."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(config.hidden_dim, bias=False)
        self.linear = nn.Linear(config.hidden_dim, config.vocab_size)
        if config.conditioning == "constant":
            self.adaLN_modulation = Modulation(config.cond_dim or 0, 2 * config.hidden_dim)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """The normalised rows that the head takes."""
        x = self.norm_final(x)
        return x if condition is None else modulate(x, *self.adaLN_modulation(condition).chunk(2))


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
        if config.conditioning == "constant":
            self.sigma_map = ConstantCondition(config)

    def forward(
        self,
        ids: Int[Tensor, "B L"],
        positions: Int[Tensor, "*B L"],
        attention_mask: Tensor | None,
        rows: Int[Tensor, " N"] | None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "N D"]:
        """The rows that the head takes: all B*L of them, or those asked for."""
        x = self.vocab_embed(ids)
        condition = self.sigma_map() if hasattr(self, "sigma_map") else None
        angles = rotary_angles(positions, self.head_width)
        for block in self.blocks:
            x = block(x, angles, attention_mask, condition, cache)
        x = x.flatten(0, 1)
        return self.output_layer(x if rows is None else x[rows], condition)


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
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def head(self) -> Head:
        """The final linear map alone."""
        linear = self.backbone.output_layer.linear
        return Head(linear.weight, linear.bias)

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
        flat_head = self.config.conditioning == "constant" and not self.config.tie_word_embeddings
        if isinstance(module, nn.Linear):
            zero = isinstance(module, Modulation) or (module is head and flat_head)
            (init.zeros_ if zero else normal)(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        elif isinstance(module, TokenEmbedding):
            normal(module.embedding)
