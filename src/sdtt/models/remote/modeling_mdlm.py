"""A masked diffusion language model in one file, to score and sample with torch and transformers.

    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained(FOLDER, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
    texts = model.generate(steps=16, num_return_sequences=4, seed=1)
    print(tokenizer.batch_decode(texts, skip_special_tokens=True))

It needs transformers 5. sdtt wrote it, which trains such models and distils them into fewer steps
(Deschenaux and Gulcehre, arXiv 2410.21035; the model is that of Sahoo et al., arXiv 2406.07524). It
has more samplers and faster ones: where it is imported, its own class is used instead of this one.
Licence: Apache-2.0.
"""

from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import MaskedLMOutput

SINUSOID_WIDTH = 256
STEPS = 64
"""Steps where neither the caller nor the model says how many."""


class MDLMConfig(PretrainedConfig):
    """The shape of the network, under the keys of the published MDLM configs."""

    model_type = "mdlm"

    def __init__(
        self,
        vocab_size: int = 50258,
        model_length: int = 1024,
        hidden_dim: int = 768,
        n_blocks: int = 12,
        n_heads: int = 12,
        conditioning: str | None = None,
        cond_dim: int | None = None,
        attention_bias: bool = False,
        dropout: float = 0.0,
        hidden_act: str = "gelu_pytorch_tanh",
        initializer_range: float = 0.02,
        mask_token_id: int | None = None,
        **others: Any,
    ) -> None:
        self.vocab_size, self.model_length = vocab_size, model_length
        self.hidden_dim, self.n_blocks, self.n_heads = hidden_dim, n_blocks, n_heads
        self.conditioning = conditioning or ("constant" if cond_dim else "none")
        self.cond_dim, self.attention_bias, self.dropout = cond_dim, attention_bias, dropout
        self.hidden_act, self.initializer_range = hidden_act, initializer_range
        self.mask_token_id = vocab_size - 1 if mask_token_id is None else mask_token_id
        super().__init__(**{"tie_word_embeddings": False} | others)


class Norm(nn.LayerNorm):
    """Layer norm in the precision of the residual stream, given in that of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps) * weight."""
        y = functional.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), eps=self.eps)
        return y.to(self.weight.dtype)


class Embedding(nn.Module):
    """A row for each id, MASK included."""

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        start = torch.randn(config.vocab_size, config.hidden_dim) * config.initializer_range
        self.embedding = nn.Parameter(start)


class Condition(nn.Module):
    """What published checkpoints tell their blocks: an embedding of noise level 0, a constant."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = nn.Linear(SINUSOID_WIDTH, width), nn.SiLU(), nn.Linear(width, width)
        self.mlp = nn.Sequential(*layers)

    def forward(self) -> Tensor:
        """The input of all modulations."""
        like, half = next(self.parameters()), SINUSOID_WIDTH // 2
        sinusoid = torch.cat([like.new_ones(half), like.new_zeros(half)])  # cos 0 and sin 0
        return functional.silu(self.mlp(sinusoid))


class Block(nn.Module):
    """x + gate * Attention(norm(x)), then x + gate * MLP(norm(x))."""

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        width, self.heads, self.dropout = config.hidden_dim, config.n_heads, config.dropout
        self.norm1, self.norm2 = Norm(width, bias=False), Norm(width, bias=False)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=config.attention_bias)
        self.attn_out = nn.Linear(width, width, bias=False)
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(up, ACT2FN[config.hidden_act], down)
        if config.conditioning == "constant":
            self.adaLN_modulation = nn.Linear(config.cond_dim or 0, 6 * width)

    def forward(self, x: Tensor, visible: Tensor | None, condition: Tensor | None) -> Tensor:
        """One block.

        Args:
            x: (B, L, D).
            visible: (B, 1, 1, L), True where a key may be seen; None if all may.
            condition: The constant, where the blocks have modulations.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = modulations(self, condition, 6)
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * functional.dropout(self.attend(h, visible), self.dropout, self.training)
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * functional.dropout(self.mlp(h), self.dropout, self.training)

    def attend(self, h: Tensor, visible: Tensor | None) -> Tensor:
        """Bidirectional attention with rotary positions."""
        qkv = self.attn_qkv(h).unflatten(-1, (3, self.heads, -1))  # B L 3 heads H
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(
            rotate(query), rotate(key), value, attn_mask=visible
        )
        return self.attn_out(out.transpose(1, 2).flatten(2))


def modulations(module: nn.Module, condition: Tensor | None, parts: int) -> Any:
    """Shifts, scales and gates of a module; those that change nothing where there are none."""
    if condition is None:
        return (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)[:parts]
    layer: Any = module.adaLN_modulation
    return layer(condition).chunk(parts)


def rotate(x: Tensor) -> Tensor:
    """Turns the pairs (x_j, x_{j + H/2}) of each head by position * 10000^(-2j / H), in float32."""
    length, width = x.shape[-2:]
    rates = 10000.0 ** -(torch.arange(0, width, 2, device=x.device).float() / width)
    angles = torch.arange(length, device=x.device).float()[:, None] * rates
    first, second = x.float().chunk(2, -1)
    cosine, sine = angles.cos(), angles.sin()
    turned = first * cosine - second * sine, first * sine + second * cosine
    return torch.cat(turned, -1).to(x.dtype)


class Head(nn.Module):
    """The last linear map; where it is tied, only its bias is its own."""

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        if not config.tie_word_embeddings:
            self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.hidden_dim))


class OutputLayer(nn.Module):
    """The final norm and the head."""

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        self.norm_final, self.linear = Norm(config.hidden_dim, bias=False), Head(config)
        if config.conditioning == "constant":
            self.adaLN_modulation = nn.Linear(config.cond_dim or 0, 2 * config.hidden_dim)


class Backbone(nn.Module):
    """All parameters, under the published names."""

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        self.vocab_embed = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.output_layer = OutputLayer(config)
        if config.conditioning == "constant":
            self.sigma_map = Condition(config.cond_dim or 0)


class MDLMForMaskedLM(PreTrainedModel, GenerationMixin):
    """p(x_i | z) for the masked positions of a text z; MASK has probability 0."""

    config_class = MDLMConfig
    base_model_prefix = "backbone"
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012 - as declared

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The rows that the head takes, (B, L, D)."""
        if ids.shape[1] > self.config.model_length:
            limit = self.config.model_length
            raise ValueError(f"a text of {ids.shape[1]} tokens is longer than the model's {limit}")
        net = self.backbone
        visible = None if attention_mask is None else attention_mask.bool()[:, None, None]
        condition = net.sigma_map() if hasattr(net, "sigma_map") else None
        x = functional.embedding(ids, net.vocab_embed.embedding).float()  # the residual stream
        for block in net.blocks:
            x = block(x, visible, condition)
        shift, scale = modulations(net.output_layer, condition, 2)
        return net.output_layer.norm_final(x) * (1 + scale) + shift

    def logits(self, hidden: Tensor) -> Tensor:
        """Log-probabilities up to a constant of hidden rows; MASK's is -inf."""
        own = self.backbone.output_layer.linear
        tied = self.config.tie_word_embeddings
        weight = self.backbone.vocab_embed.embedding if tied else own.weight
        mask = torch.arange(self.config.vocab_size, device=hidden.device)
        scores = functional.linear(hidden, weight, own.bias)
        return scores.masked_fill(mask == self.config.mask_token_id, float("-inf"))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> MaskedLMOutput:
        """Logits (B, L, V) of ids (B, L), and the mean cross-entropy of labels other than -100.

        Of ``num_items_in_batch`` targets, where transformers' Trainer says so of a whole update.
        """
        logits = self.logits(self.hidden(input_ids, attention_mask))
        loss = None
        if labels is not None:
            total = functional.cross_entropy(logits.mT.float(), labels, reduction="sum")
            items = first_given(num_items_in_batch, (labels != -100).sum())
            loss = total / torch.as_tensor(items, device=total.device).clamp_min(1)
        return MaskedLMOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        temperature: float | None = None,
        num_return_sequences: int | None = None,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Samples texts; with sdtt the same settings give the same texts.

        What is not given is taken from generation_config.json.

        Args:
            input_ids: (B, P): prompts, each followed by MASK up to ``max_length``; where they hold
                MASK and no ``max_length`` is given, that is filled in. None for texts from nothing.
            attention_mask: All ones, as a tokenizer gives it: prompts of one call have one length.
            steps: Passes of the network, each revealing several tokens.
            sampler: "dilated": a step reveals positions ``steps`` places apart; "ancestral": those
                that the diffusion process reveals, at random.
            temperature: Of the law, p^(1 / temperature); 1 by default.
            num_return_sequences: Samples of each prompt, one after the other; 1 by default.
            max_length: Tokens of a text, the prompt included; the model's length by default.
            max_new_tokens: Instead of it: tokens behind the prompt.
            seed: Sample i is a function of the seed, i and its prompt; 0 by default.
            batch_size: Texts a pass, 16 by default; changes no text.

        Returns:
            Token ids (B * num_return_sequences, L).

        Raises:
            ValueError: If a setting is out of its range, or the model asks for another sampler.
        """
        saved = self.generation_config.to_diff_dict()  # without the defaults of other decoding
        check_saved(saved)
        if max_length is None and max_new_tokens is None:
            max_length = saved.get("max_length")
            max_new_tokens = saved.get("max_new_tokens")
        steps = first_given(steps, saved.get("steps"), STEPS)
        sampler = sampler or saved.get("sampler") or "dilated"
        temperature = first_given(temperature, saved.get("temperature"), 1.0)
        count = first_given(num_return_sequences, saved.get("num_return_sequences"), 1)
        seed = first_given(seed, saved.get("seed"), 0)
        batch_size = first_given(batch_size, saved.get("batch_size"), 16)
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        if steps < 1 or not 0 < temperature < float("inf"):
            raise ValueError(f"needs steps >= 1 and temperature > 0, got {steps}, {temperature}")
        if count < 1 or batch_size < 1:
            raise ValueError(f"needs texts and a batch of at least 1, got {count}, {batch_size}")
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("prompts with padding need sdtt: give prompts of one length")
        if max_new_tokens is not None:
            if max_length is not None:
                raise ValueError("max_length and max_new_tokens exclude each other: give one")
            max_length = max_new_tokens + (0 if input_ids is None else input_ids.shape[1])
        texts = self.canvas(input_ids, max_length).repeat_interleave(count, 0)
        for first in range(0, len(texts), batch_size):
            part = texts[first : first + batch_size]
            names = range(first, first + len(part))
            u, v = (
                uniforms(seed, f"sample/{purpose}", names, part.shape[1])
                for purpose in ("reveal", "token")
            )
            free = (part == self.config.mask_token_id).cpu()
            self.fill(part, SAMPLERS[sampler](free, u, steps), v, temperature)
        return texts

    def canvas(self, input_ids: Tensor | None, max_length: int | None) -> Tensor:
        """Prompts and the MASK behind them."""
        mask = self.config.mask_token_id
        if input_ids is None:
            input_ids = torch.empty(1, 0, dtype=torch.long)
        ids = input_ids.to(self.device)
        length = first_given(max_length, self.config.model_length)
        if max_length is None and bool((ids == mask).any()):
            length = ids.shape[1]
        if not ids.shape[1] <= length <= self.config.model_length:
            raise ValueError(
                f"a prompt of {ids.shape[1]} tokens and a text of {length} do not go with the "
                f"model's {self.config.model_length}"
            )
        return functional.pad(ids, (0, length - ids.shape[1]), value=mask)

    def fill(self, z: Tensor, when: Tensor, v: Tensor, temperature: float) -> None:
        """Reveals the positions of z, each in its step: ``when`` (B, L), -1 where it is visible.

        v (B, L) are uniforms: a token is the inverse distribution function of its law there.
        """
        for step in when[when >= 0].unique().tolist():
            now = when == step
            texts = now.any(1)
            rows = self.hidden(z[texts.to(z.device)])[now[texts].to(z.device)]
            z[now.to(z.device)] = draw(self.logits(rows).float() / temperature, v[now])


def ancestral(free: Tensor, u: Tensor, steps: int) -> Tensor:
    """The step of each free position: those with 1 - (s + 1) / T <= u < 1 - s / T in step s."""
    return torch.where(free, steps - 1 - (u * steps).long(), -1)


def dilated(free: Tensor, u: Tensor, steps: int) -> Tensor:
    """The step of each free position: its rank among them modulo N, the N steps in random order."""
    when = torch.full(free.shape, -1)
    for text in range(len(free)):
        places = free[text].nonzero().squeeze(1)
        count = min(steps, len(places))
        if count:
            step_of = u[text, places[:count]].argsort(stable=True).argsort()
            when[text, places] = step_of[torch.arange(len(places)) % count]
    return when


SAMPLERS = {"dilated": dilated, "ancestral": ancestral}
NOT_HERE: dict[str, tuple[Any, ...]] = {
    "counts": ("process",),
    "schedule": ("log_linear",),
    "stratified": (False,),
    "top_p": (1,),
    "top_k": (0,),
    "repetition_penalty": (1,),
    "banned": ([], ()),
    "forced_tokens": ([], ()),
    "stop_at_eos": (False,),
}
"""Settings that sdtt has and this file does not, and their values that ask for nothing."""


def check_saved(saved: dict[str, Any]) -> None:
    """Refuses a generation config that asks for what is not here."""
    for name, without in NOT_HERE.items():
        value = saved.get(name)
        if value not in (None, *without):
            raise ValueError(f"{name}={value!r} of generation_config.json needs sdtt")


def draw(logits: Tensor, v: Tensor) -> Tensor:
    """One token a row, in float64: lower precision loses rare tokens (Zheng et al. 2409.02908)."""
    place = "cpu" if logits.device.type == "mps" else logits.device
    ends = logits.to(place).double().softmax(-1).cumsum(-1)
    level = v.to(place)[:, None] * ends[:, -1:]
    # strictly below the total, or rounding could step past the last token
    level = torch.minimum(level, torch.nextafter(ends[:, -1:], torch.zeros_like(level)))
    return torch.searchsorted(ends, level, right=True).squeeze(1).to(logits.device)


def uniforms(seed: int, purpose: str, names: range, length: int) -> Tensor:
    """Numbers in [0, 1), float64: row b is a function of seed, purpose and the name of text b."""
    rows = []
    for name in names:
        digest = blake2b(f"{seed}/{purpose}/{name}".encode(), digest_size=16).digest()
        bits = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(length)
        rows.append((bits >> np.uint64(11)) * 2.0**-53)
    return torch.from_numpy(np.stack(rows))


def first_given(*values: Any) -> Any:
    """The first that is not None."""
    return next(value for value in values if value is not None)
