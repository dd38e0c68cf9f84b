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
from sdtt.training.flops import Flops, masked_share, whole_order_flops
from sdtt.training.rates import check_schedule
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
    whole_orders: bool | None = field(
        default=None,
        metadata={
            "help": "mdlm whose attention follows the order: passes of 2 L tokens, which teach all "
            "steps of an order, in place of what is left after one of them; by default where "
            "orders are dilated"
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
            check_schedule(self.lr_scheduler_type, self.lr_scheduler_kwargs, warmup, self.max_steps)


def noise_order_of(args: PretrainConfig, model: Any) -> str:
    """Random or dilated: as the config says, or what suits the attention of the model."""
    return args.noise_order or ("dilated" if follows_order(model) else "random")


def has_whole_orders(args: PretrainConfig, model: Any) -> bool:
    """Whether a pass teaches all steps of an order: as the config says, or as the orders suit it.

    Raises:
        ValueError: If it is asked for, and attention does not follow the order.
    """
    follows = follows_order(model)
    if args.whole_orders and not follows:
        raise ValueError(
            "whole_orders=True is for masked models of attention='reveal_causal': of any other, "
            "leave it out"
        )
    if args.whole_orders is not None:
        return args.whole_orders
    return follows and noise_order_of(args, model) == "dilated"


class MDLMTrainer(StreamTrainer):
    """Trains a denoiser by its NELBO, in nats per token [MDLM, eq. 10].

    The loss of an update is the mean over its B texts of
    1/L * -alpha'(t) / (1 - alpha(t)) * sum over masked of -log p(x_i | z_t); in dilated orders the
    weight is 1 / share, and the share that is masked is drawn.

    With ``whole_orders`` it is the mean of 1/L * sum over all of -log p(x_i | x of earlier steps),
    each text in its own order: -log of the probability that a sampler of these steps gives it. In
    dilated orders it has the mean of the loss above, which takes one step of each order; here all
    steps are taken, by one pass over 2 L.

    Raises:
        ValueError: If ``whole_orders`` is asked for and attention does not follow the order.
    """

    smallest_time = SMALLEST_TIME

    args: PretrainConfig

    def __init__(self, model: Any, args: PretrainConfig, *others: Any, **kwargs: Any) -> None:
        self.noise_order = noise_order_of(args, model)
        self.whole_orders = has_whole_orders(args, model)
        super().__init__(model, args, *others, **kwargs)

    def items(self, x: Tensor, places: list[int]) -> int:
        """Tokens."""
        return self.tokens_of(places, x.shape[1])

    def noise(self, places: list[int], length: int) -> Noise:
        """The noise of the texts at these places, of the process or of dilated orders."""
        noise = super().noise(places, length)
        return noise if self.noise_order == "random" else in_dilated_orders(noise, self.schedule)

    def weights(self, noise: Noise) -> Tensor:
        """Of each masked token of a text: -alpha' / (1 - alpha), in dilated orders 1 / share."""
        if self.whole_orders:
            return torch.ones_like(noise.t)
        if self.noise_order == "random":
            return nelbo_weight(noise.t, self.schedule)
        return 1 / (1 - self.schedule.alpha(noise.t))

    def taught(self, noise: Noise) -> Tensor:
        """Which positions have a loss: the masked ones; in whole orders all, each in its step."""
        return noise.real if self.whole_orders else noise.masked(self.schedule)

    def lessons(self, x: Tensor, places: list[int], items: int) -> int:  # noqa: ARG002
        """Positions that have a loss."""
        return int(self.taught(self.noise_ahead(places, x.shape[1])).sum())

    def update_flops(self) -> Flops:
        """A pass and its backward pass; rows that have a loss are projected."""
        if self.whole_orders:
            texts, length = self.stream.batch, self.stream.length
            return whole_order_flops(self.network, texts=texts, length=length)
        return self.flops_with_rows(masked_share(self.schedule, self.smallest_time))

    def batch_of(self, update: int) -> Batch:
        """All texts of an update; of whole orders each token is masked, as at time 1."""
        batch = super().batch_of(update)
        if not self.whole_orders:
            return batch
        real = is_real(self.lengths(batch.places.tolist(), self.stream.length), self.stream.length)
        return replace(batch, t=torch.ones_like(batch.t), masks=real)

    def loss_sum(self, model: nn.Module, x: Tensor, places: list[int]) -> Tensor:
        """The NELBO of the texts, summed, in nats."""
        denoiser = self.accelerator.unwrap_model(self.model)
        noise = self.noise_of_loss(places, x.shape[1])
        taught = self.taught(noise).to(x.device)
        rows = taught.flatten().nonzero().squeeze(-1)
        self.monitor.count(len(rows))
        weights = self.weights(noise).float().to(x.device)[rows // x.shape[1]]
        z = x if self.whole_orders else mask(x, taught, denoiser.mask_token_id)

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

        loss: Tensor = model(
            input_ids=z,
            attention_mask=noise.attention_mask(x.device),
            t=noise.told(self.schedule).to(x.device),
            rows=rows,
            objective=objective,
            **noise.order_for(denoiser, x.device),
            **({"in_order": True} if self.whole_orders else {}),
        ).loss
        return loss


class CausalTrainer(StreamTrainer):
    """Trains the autoregressive twin by -log p(x | BOS), in nats per token.

    Raises:
        ValueError: If the model's config names no BOS, or whole orders are asked for.
    """

    def __init__(
        self, model: BlocksModel, args: PretrainConfig, *others: Any, **kwargs: Any
    ) -> None:
        if model.config.bos_token_id is None:
            raise ValueError("a causal model is trained behind BOS: its config needs bos_token_id")
        has_whole_orders(args, model)  # which it has not
        if args.noise_order is not None:
            raise ValueError(
                f"noise_order={args.noise_order!r} is for masked models: no token of a causal one "
                "is masked; leave it out"
            )
        super().__init__(model, args, *others, **kwargs)

    def batch_of(self, update: int) -> Batch:
        """All texts of an update; none of them is masked."""
        batch = super().batch_of(update)
        none = {name: torch.zeros_like(getattr(batch, name)) for name in ("t", "masks", "revealed")}
        return replace(batch, **none)

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
    check_same_shape(model, source)
    weights = source.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})


def check_same_shape(model: BlocksModel, source: PreTrainedModel) -> None:
    """Refuses a model that ``initialise_from`` cannot copy; both may be on the meta device.

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
