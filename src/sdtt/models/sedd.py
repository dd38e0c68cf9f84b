"""The absorbing score model of SEDD as a denoiser (Lou et al. 2024, arXiv 2310.16834)."""

import copy
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput

from sdtt.diffusion.denoiser import Head
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.models.noise_level import geometric_level, log_linear_level


class SEDDConfig(MDLMConfig):
    """The shape of a ``SEDDForMaskedLM``; see ``BlocksConfig`` for the other keys.

    Args:
        cond_dim: Width of the conditioning; a score model is always told the time.
        scale_by_sigma: Whether the network's output lacks the factor 1 / ((e^sigma - 1) (V - 1)).
        noise: "loglinear" or "geometric": the noise of its training, so which sigma it knows.
        sigma_min: The smallest sigma of "geometric".
        sigma_max: Its largest.
    """

    model_type = "sedd"

    cond_dim: int | None = 128
    scale_by_sigma: bool = True
    noise: str = "loglinear"
    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self, **kwargs: Any) -> None:
        """A score model is told the time."""
        if self.conditioning is None:
            self.conditioning = "time"
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        super()._check()
        if self.conditioning != "time":
            raise ValueError(
                f"a score model is told the time: conditioning must be 'time', got "
                f"{self.conditioning!r}"
            )
        if self.noise not in ("loglinear", "geometric"):
            raise ValueError(f"noise must be 'loglinear' or 'geometric', got {self.noise!r}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"0 < sigma_min < sigma_max must hold, got {self.sigma_min} and {self.sigma_max}"
            )


def log_odds_masked(sigma: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """log((1 - alpha) / alpha) = log(e^sigma - 1), where alpha = e^-sigma; finite at sigma = 0."""
    return torch.expm1(sigma).clamp_min(torch.finfo(sigma.dtype).tiny).log()


class SEDDForMaskedLM(MDLMForMaskedLM):
    """A network of the ratios s(y) = q_t(z with y at position i) / q_t(z), where z_i is MASK.

    Where each token is MASK with the chance 1 - alpha, alpha = e^-sigma, independently,
    q_t(z) = (1 - alpha)^m alpha^(L - m) p(visible tokens of z), with m masked positions. To put y
    at one of them turns a factor 1 - alpha into alpha, and adds y to what is visible:

        s(y) = alpha / (1 - alpha) p(x_i = y | z),   so   p(x_i = y | z) = s(y) (e^sigma - 1).

    With ``scale_by_sigma`` the output o of the network gives log s(y) = o_y - log(e^sigma - 1) -
    log(V - 1), V columns, one of them of MASK. Hence

        log p(x_i = y | z) = o_y - log(V - 1),

    in which no sigma is left; without it, o_y = log s(y) and log p = o_y + log(e^sigma - 1), so
    each hidden row carries that number as one more component.

    These are its logits as a ``Denoiser``. Only for exact ratios do they sum to 1
    (``unnormalised_scores``): the analytic sampler takes the sum as a rate, all else the law in
    proportion to it.
    """

    config: SEDDConfig
    config_class = SEDDConfig

    unnormalised_scores = True

    def noise_level(self, share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """sigma, by the noise that the config names, where a share of the tokens is masked."""
        if self.config.noise == "geometric":
            return geometric_level(share, self.config.sigma_min, self.config.sigma_max)
        return log_linear_level(share)

    def hidden(
        self,
        z: Int[Tensor, "B L"],
        rows: Int[Tensor, " N"] | None = None,
        *,
        attention_mask: Tensor | None = None,
        t: Float[Tensor, " B"] | None = None,
        revealed: Int[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The rows that the head takes, see ``MDLMForMaskedLM.hidden``.

        Without ``scale_by_sigma`` they are one wider than the network, by log(e^sigma - 1).
        """
        hidden = super().hidden(z, rows, attention_mask=attention_mask, t=t, revealed=revealed)
        if self.config.scale_by_sigma:
            return hidden
        level = log_odds_masked(self._sigma(z, t, attention_mask))
        every = torch.arange(z.numel()) if rows is None else rows
        own = level[(every // z.shape[1]).to(level.device)]
        return torch.cat([hidden, own[:, None].to(hidden)], 1)

    def scores(self, h: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """The log of p(x_i | z), one column for every id; that of MASK means nothing.

        In float32 at least: low precision would lose in the constant what tells tokens apart.
        """
        scaled, width = self.config.scale_by_sigma, self.config.hidden_dim
        raw = super().scores(h[:, :width])
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return raw - math.log(self.config.vocab_size - 1) if scaled else raw + h[:, width:]

    @property
    def head(self) -> Head:
        """The linear map from hidden rows to ``scores``, up to the constant of each row."""
        head = super().head
        if self.config.scale_by_sigma:
            return head
        return Head(torch.cat([head.weight, torch.zeros_like(head.weight[:, :1])], 1), head.bias)

    def log_ratios(
        self,
        z: Int[Tensor, "B L"],
        t: Float[Tensor, " B"] | None = None,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "B L V"]:
        """What the published model gives: log s(y) for every position and id.

        Of the token that stands at a position it is 0: the ratio of z to itself.

        Args:
            z: Token ids, MASK among them.
            t: See ``hidden``; above 0, for without noise there are no ratios.
            attention_mask: True or 1 where a token is real.
        """
        level = log_odds_masked(self._sigma(z, t, attention_mask))
        log_law = self.scores(self.hidden(z, attention_mask=attention_mask, t=t))
        ratios = log_law.view(*z.shape, -1) - level[:, None, None].to(log_law)
        return ratios.scatter(-1, z[..., None], 0.0)

    def as_mdlm(self) -> MDLMForMaskedLM:
        """The same normalised law as an MDLM that is told the time; the weights are shared.

        It can be trained, and be a student: losses of laws leave the scale of ratios as it comes.

        Raises:
            ValueError: If its noise is not the one that an MDLM knows.
        """
        if self.config.noise != "loglinear":
            raise ValueError(
                f"an MDLM is told the levels of loglinear noise, this model those of "
                f"{self.config.noise!r}: let it teach an MDLM instead"
            )
        config = MDLMConfig(**self.config.shape)
        with torch.device("meta"):  # every weight is put in below
            model = MDLMForMaskedLM(config)
        model.load_state_dict(self.state_dict(keep_vars=True), strict=True, assign=True)
        model.tie_weights()
        model.excluded_ids = self.excluded_ids
        model.generation_config = copy.deepcopy(self.generation_config)
        model.train(self.training)
        return model

    def forward(self, *arguments: Any, **options: Any) -> MaskedLMOutput | tuple[Tensor, ...]:
        """The transformers contract, see ``MDLMForMaskedLM.forward``; objectives are refused.

        Raises:
            ValueError: If an objective is given.
        """
        if options.get("objective") is not None:
            raise ValueError(UNTRAINABLE)
        return super().forward(*arguments, **options)


UNTRAINABLE = (
    "a score model is not trained here: losses of normalised laws leave the sum of its ratios to "
    "itself, which the analytic sampler reads as a rate; train model.as_mdlm(), which has the same "
    "law, or let the score model teach an MDLM"
)
