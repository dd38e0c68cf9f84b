"""The shape of the network, with the keys of the published configs."""

from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import torch
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from sdtt.sampling.settings import is_number

SHAPE = (
    *("vocab_size", "model_length", "hidden_dim", "n_blocks", "n_heads", "conditioning"),
    *("cond_dim", "attention_bias", "dropout", "hidden_act", "initializer_range"),
    "tie_word_embeddings",
    *("mask_token_id", "bos_token_id", "eos_token_id", "pad_token_id"),
)


class BlocksConfig(PreTrainedConfig):
    """The shape of the network; keys as in the published MDLM configs.

    Args:
        vocab_size: Embedding rows, MASK included.
        model_length: The longest text, L.
        hidden_dim: Width D.
        n_blocks: Number of blocks.
        n_heads: Attention heads; D / n_heads must be even (rotary positions).
        conditioning: "none"; or "constant": adaLN fed with a constant, as in published checkpoints;
            or "time": adaLN fed with the noise level of each text. By default "time" where
            time_conditioning is true, else "constant" where cond_dim is given.
        cond_dim: Width of the conditioning, 128 in published checkpoints.
        time_conditioning: The published key for "time".
        attention: "bidirectional", or "reveal_causal": it follows the order in which tokens become
            visible, so that sampling can keep a cache (see ``models.reveal``).
        attention_bias: Whether queries, keys and values have a bias: where conditioning is folded.
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
    conditioning: Literal["none", "constant", "time"] | None = None
    cond_dim: int | None = None
    attention: Literal["bidirectional", "reveal_causal"] = "bidirectional"
    attention_bias: bool = False
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
        self._check_kinds(kwargs.get("torch_dtype"))
        if self.conditioning is None:
            self.conditioning = "constant" if self.cond_dim else "none"
            if self.time_conditioning:
                self.conditioning = "time"
        self.time_conditioning |= self.conditioning == "time"
        if self.mask_token_id is None and is_number(self.vocab_size, Integral):
            self.mask_token_id = int(self.vocab_size) - 1
        self.return_dict = True  # published configs say false, which breaks callers
        kwargs.pop("auto_map", None)  # this class needs no remote code
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self._check_numbers()
        self._check()

    def to_dict(self) -> dict[str, Any]:
        """What is saved: no code of others goes with it, whoever set it."""
        fields = super().to_dict()
        fields.pop("auto_map", None)
        return fields

    @property
    def shape(self) -> dict[str, Any]:
        """The fields that a masked and a causal model of one shape share."""
        return {name: getattr(self, name) for name in SHAPE}

    def _check_kinds(self, torch_dtype: Any) -> None:
        """Refuses values of a kind with which nothing can be begun.

        Args:
            torch_dtype: What older configs call the dtype.
        """
        if not isinstance(self.time_conditioning, bool):
            raise ValueError(
                f"time_conditioning must be true or false, got {self.time_conditioning!r}"
            )
        said = torch_dtype if self.dtype is None else self.dtype
        found = getattr(torch, said, None) if isinstance(said, str) else said
        known = isinstance(found, torch.dtype) and found.is_floating_point
        if said is not None and not known:
            raise ValueError(
                f"dtype must be the name of a type of torch's, such as 'bfloat16', got {said!r}"
            )
        if not isinstance(self.hidden_act, str) or self.hidden_act not in ACT2FN:
            raise ValueError(f"unknown hidden_act {self.hidden_act!r}; 'gelu' is one")

    def _check_numbers(self) -> None:
        for name in ("vocab_size", "model_length", "hidden_dim", "n_blocks", "n_heads"):
            value, least = getattr(self, name), 2 if name == "vocab_size" else 1
            if not is_number(value, Integral) or value < least:
                raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
            setattr(self, name, int(value))
        width = self.cond_dim
        if width is not None and (not is_number(width, Integral) or width < 0):
            raise ValueError(f"cond_dim must be a whole number, such as 128, got {width!r}")
        mask = self.mask_token_id
        if not is_number(mask, Integral) or not 0 <= int(mask or 0) < self.vocab_size:
            raise ValueError(
                f"mask_token_id must lie in [0, {self.vocab_size}), got {self.mask_token_id!r}"
            )
        if not is_number(self.dropout, Real) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        self.dropout = float(self.dropout)

    def _check(self) -> None:
        if self.hidden_dim % (2 * self.n_heads):
            raise ValueError(
                f"hidden_dim must be a multiple of 2 * n_heads (rotary positions), "
                f"got {self.hidden_dim} and {self.n_heads} heads"
            )
        if self.conditioning not in ("none", "constant", "time"):
            raise ValueError(
                f"conditioning must be 'none', 'constant' or 'time', got {self.conditioning!r}"
            )
        if (self.conditioning != "none") != bool(self.cond_dim):
            raise ValueError(
                f"conditioning={self.conditioning!r} does not go with cond_dim={self.cond_dim}; "
                "'constant' and 'time' need a width, such as 128, 'none' takes none"
            )
        if self.time_conditioning and self.conditioning != "time":
            raise ValueError(
                f"time_conditioning=True does not go with conditioning={self.conditioning!r}: "
                "leave conditioning out, or say 'time'"
            )
        if self.attention not in ("bidirectional", "reveal_causal"):
            raise ValueError(
                f"attention must be 'bidirectional' or 'reveal_causal', got {self.attention!r}"
            )
        if self.attention == "reveal_causal" and self.conditioning == "time":
            raise ValueError(
                "attention='reveal_causal' does not go with conditioning='time': what is kept of a "
                "token must not change with the time"
            )
