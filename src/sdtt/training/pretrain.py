"""Pretraining: the masked model by its NELBO, the causal one by its likelihood."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer_utils import SchedulerType

from sdtt.diffusion.denoiser import follows_order
from sdtt.diffusion.elbo import SMALLEST_TIME, nelbo_weight
from sdtt.diffusion.noise import mask
from sdtt.diffusion.tiled import tiled_cross_entropy
from sdtt.models.blocks import BlocksModel
from sdtt.training.config import StreamConfig
from sdtt.training.finite import Batch
from sdtt.training.flops import Flops, masked_share
from sdtt.training.stream import DILATED_STEPS, Noise, in_dilated_orders, is_real
from sdtt.training.trainer import StreamTrainer


@dataclass
class PretrainConfig(StreamConfig):
    """How a model is pretrained."""

    max_steps: int = field(default=2000, metadata={"help": "updates"})
    learning_rate: float = field(default=1.5e-3, metadata={"help": "AdamW's, after the warm-up"})
    warmup_steps: float = field(
        default=100, metadata={"help": "updates of linear warm-up (below 1: a share of all)"}
    )
    decay_share: float = field(
        default=1 / 3, metadata={"help": "share of the updates, at the end, of linear decay to 0"}
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "AdamW's second beta"})
    noise_order: Literal["random", "dilated"] | None = field(
        default=None,
        metadata={
            "help": "mdlm: masks of the process, or those that dilated orders of "
            f"{', '.join(map(str, DILATED_STEPS))} steps meet; by default random, but dilated "
            "where attention follows the order"
        },
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="warmup_stable_decay", metadata={"help": "law of the learning rate"}
    )

    def __post_init__(self) -> None:
        """Warm-up, constant, linear decay to 0."""
        super().__post_init__()
        if self.noise_order not in (None, "random", "dilated"):
            raise ValueError(f"noise_order must be 'random' or 'dilated', got {self.noise_order!r}")
        if not 0 <= self.decay_share <= 1:
            raise ValueError(f"decay_share must lie in [0, 1], got {self.decay_share}")
        warmup = self.get_warmup_steps(self.max_steps)
        decay = min(round(self.decay_share * self.max_steps), self.max_steps - warmup)
        if decay < 0:
            raise ValueError(
                f"warmup_steps={warmup} is more than max_steps={self.max_steps}; lower the one or "
                "raise the other"
            )
        if self.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
            given = self.lr_scheduler_kwargs  # transformers has turned JSON text into a dict
            own = {"num_decay_steps": decay, "decay_type": "linear"}
            self.lr_scheduler_kwargs = own | (given if isinstance(given, dict) else {})


class MDLMTrainer(StreamTrainer):
    """Trains a denoiser by its NELBO, in nats per token [MDLM, eq. 10].

    The loss of an update is the mean over its B texts of
    1/L * -alpha'(t) / (1 - alpha(t)) * sum over masked of -log p(x_i | z_t).
    """

    smallest_time = SMALLEST_TIME

    args: PretrainConfig

    def items(self, x: Tensor, places: list[int]) -> int:
        """Tokens."""
        return self.tokens_of(places, x.shape[1])

    def noise(self, places: list[int], length: int) -> Noise:
        """The noise of the texts at these places, of the process or of dilated orders."""
        noise = super().noise(places, length)
        order = self.args.noise_order
        if order is None:
            denoiser = self.accelerator.unwrap_model(self.model)
            order = "dilated" if follows_order(denoiser) else "random"
        return noise if order == "random" else in_dilated_orders(noise, self.schedule)

    def lessons(self, x: Tensor, places: list[int], items: int) -> int:  # noqa: ARG002
        """Masked positions."""
        return int(self.noise(places, x.shape[1]).masked(self.schedule).sum())

    def update_flops(self) -> Flops:
        """A pass and its backward pass; the masked rows are projected."""
        return self.flops_with_rows(masked_share(self.schedule, self.smallest_time))

    def loss_sum(self, model: nn.Module, x: Tensor, places: list[int]) -> Tensor:
        """The NELBO of the texts, summed, in nats."""
        denoiser = self.accelerator.unwrap_model(self.model)
        noise = self.noise(places, x.shape[1])
        masked = noise.masked(self.schedule).to(x.device)
        rows = masked.flatten().nonzero().squeeze(-1)
        self.monitor.count(len(rows))
        weights = nelbo_weight(noise.t, self.schedule).float().to(x.device)[rows // x.shape[1]]

        def objective(hidden: Tensor, head: Any) -> Tensor:
            return tiled_cross_entropy(
                hidden,
                head,
                x.flatten()[rows],
                weights,
                excluded_ids=denoiser.excluded_ids,
                dtype=self.loss_dtype,
                products=self.loss_products,
            )

        z = mask(x, masked, denoiser.mask_token_id)
        real = noise.attention_mask(x.device)
        told = noise.told(self.schedule).to(x.device)
        order = noise.order_for(denoiser, x.device)
        loss: Tensor = model(
            input_ids=z, attention_mask=real, t=told, rows=rows, objective=objective, **order
        ).loss
        return loss


class CausalTrainer(StreamTrainer):
    """Trains the autoregressive twin by -log p(x | BOS), in nats per token.

    Raises:
        ValueError: If the model's config names no BOS.
    """

    def __init__(self, model: BlocksModel, *args: Any, **kwargs: Any) -> None:
        if model.config.bos_token_id is None:
            raise ValueError("a causal model is trained behind BOS: its config needs bos_token_id")
        super().__init__(model, *args, **kwargs)

    def batch_of(self, update: int) -> Batch:
        """All texts of an update; none of them is masked."""
        batch = super().batch_of(update)
        return replace(batch, t=torch.zeros_like(batch.t), masks=torch.zeros_like(batch.masks))

    def items(self, x: Tensor, places: list[int]) -> int:
        """Tokens."""
        return self.tokens_of(places, x.shape[1])

    def update_flops(self) -> Flops:
        """A pass and its backward pass; all rows are projected."""
        return self.flops_with_rows(1.0)

    def loss_sum(self, model: nn.Module, x: Tensor, places: list[int]) -> Tensor:
        """-log p of the texts, summed, in nats."""
        causal = self.accelerator.unwrap_model(self.model)
        start = torch.full_like(x[:, :1], causal.config.bos_token_id)
        # padding follows the text, where no real token sees it: its rows are left out, no more
        real = is_real(self.lengths(places, x.shape[1]), x.shape[1])
        rows = real.flatten().nonzero().squeeze(-1).to(x.device)

        def objective(hidden: Tensor, head: Any) -> Tensor:
            return tiled_cross_entropy(
                hidden,
                head,
                x.flatten()[rows],
                torch.ones(len(rows), device=x.device),
                excluded_ids=causal.excluded_ids,
                dtype=self.loss_dtype,
                products=self.loss_products,
            )

        ids = torch.cat([start, x[:, :-1]], 1)  # row i predicts token i from BOS and those before
        loss: Tensor = model(input_ids=ids, rows=rows, objective=objective).loss
        return loss


def initialise_from(model: BlocksModel, source: PreTrainedModel) -> None:
    """Copies the weights of a model of the same shape, causal or masked.

    Weights that an autoregressive model learned in a minute take a masked one off the plateau of
    the unigram law, where it would sit for long.

    Raises:
        ValueError: If a parameter is missing or has another shape.
    """
    weights = source.state_dict()
    extra = sorted(weights.keys() - model.state_dict().keys())
    if extra:
        raise ValueError(f"cannot initialise from {type(source).__name__}: {extra[0]} has no place")
    for name, parameter in model.state_dict().items():
        if name not in weights:
            raise ValueError(f"cannot initialise from {type(source).__name__}: it has no {name}")
        if weights[name].shape != parameter.shape:
            raise ValueError(
                f"cannot initialise from {type(source).__name__}: {name} is "
                f"{tuple(weights[name].shape)} there and {tuple(parameter.shape)} here"
            )
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
