"""Denoisers with a known joint law: a table, a Markov chain. The oracle of the tests.

Both are exact in float64. Their hidden rows are log-probabilities and their head is the identity,
so that samplers, rollouts and the tiled losses run on them as on a network.
"""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from sdtt.diffusion.denoiser import Head, exclude


class _Exact:
    """What both share: ids 0 .. V - 1, MASK = V, and an identity for a head."""

    def __init__(self, vocabulary: int, length: int) -> None:
        self.vocabulary = vocabulary
        self.length = length
        self.mask_token_id = vocabulary
        self.excluded_ids: tuple[int, ...] = (vocabulary,)

    @property
    def head(self) -> Head:
        """The identity, and a row of zeros for MASK, which ``logits`` slices off."""
        return Head(torch.eye(self.vocabulary + 1, self.vocabulary, dtype=torch.float64))

    def logits(self, h: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """The log-probabilities themselves."""
        return exclude(self.head.scores(h), self.excluded_ids)

    def hidden(
        self,
        z: Int[Tensor, "B L"],
        rows: Int[Tensor, " N"] | None = None,
        *,
        attention_mask: Tensor | None = None,
        t: Tensor | None = None,  # noqa: ARG002 - the protocol's; the law knows no time
    ) -> Float64[Tensor, "N V"]:
        """The law of each row, log p(x_i | the other visible tokens of z).

        Args:
            z: Token ids, MASK among them; exactly ``length`` in a row.
            rows: Flat indices into B*L; all rows if None.
            attention_mask: None: every position counts.
            t: Not used.

        Raises:
            ValueError: If the texts have another length, or an attention mask is given.
        """
        if z.shape[1] != self.length:
            raise ValueError(f"the law is over texts of {self.length} tokens, got {z.shape[1]}")
        if attention_mask is not None:
            raise ValueError("an exact law knows no padding: leave attention_mask out")
        flat = torch.arange(z.numel(), device=z.device) if rows is None else rows
        return self._log_law(z, flat // self.length, flat % self.length)

    def _log_law(self, z: Tensor, text: Tensor, position: Tensor) -> Tensor:
        raise NotImplementedError


class TableDenoiser(_Exact):
    """p(x_i | visible) = p(visible, x_i) / p(visible), sums over the table of the joint law.

    Args:
        law: p(x) for every x: L axes of V tokens each, float64, positive, with sum 1. It costs
            (V + 1)^L numbers.

    Raises:
        ValueError: If it is not such a law.
    """

    def __init__(self, law: Float64[Tensor, "..."]) -> None:
        if law.dim() == 0 or len(set(law.shape)) > 1:
            raise ValueError(f"a joint law needs L axes of equal size, got {tuple(law.shape)}")
        _check_law(law, "law", tuple(range(law.dim())))
        super().__init__(law.shape[0], law.dim())
        self.law = law
        marginal = law
        for axis in range(law.dim()):  # index V of an axis: its sum, so that marginal[z] = p(z)
            marginal = torch.cat([marginal, marginal.sum(axis, keepdim=True)], axis)
        self._log_marginal = marginal.log()

    def log_prob(self, x: Int[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """The log-probability of each text in nats; positions that hold MASK are summed over."""
        return self._log_marginal[tuple(x.unbind(1))]

    @property
    def entropy(self) -> float:
        """- sum p log p of a whole text, in nats."""
        return -(self.law * self.law.log()).sum().item()

    def _log_law(self, z: Tensor, text: Tensor, position: Tensor) -> Tensor:
        tokens = torch.arange(self.vocabulary, device=z.device)
        candidates = z[text, None].repeat(1, self.vocabulary, 1)  # N V L
        candidates[torch.arange(len(text), device=z.device), :, position] = tokens
        joint = self.log_prob(candidates.flatten(0, 1)).view(-1, self.vocabulary)
        return joint.log_softmax(-1)


class MarkovDenoiser(_Exact):
    """p(x_i | visible) of a chain, from its nearest visible neighbours a (left) and b (right).

    p(x_i = x | x_{i-d} = a, x_{i+e} = b) is proportional to P^d[a, x] P^e[x, b]; without a left
    neighbour the first factor is the marginal of x_i, without a right one the second is 1.

    Args:
        initial: p(x_1), float64, positive.
        transition: P[x, y] = p(x_{i+1} = y | x_i = x), float64, positive.
        length: L.

    Raises:
        ValueError: If these are not laws, or length is below 1.
    """

    def __init__(
        self, initial: Float64[Tensor, " V"], transition: Float64[Tensor, "V V"], length: int
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        _check_law(initial, "initial", (0,))
        _check_law(transition, "transition", (1,))
        super().__init__(initial.shape[0], length)
        self.initial = initial
        self.transition = transition
        powers = [torch.eye(len(initial)).to(transition)]
        for _ in range(length - 1):
            powers.append(powers[-1] @ transition)
        self._powers = torch.stack(powers)  # L V V
        self._marginals = initial @ self._powers  # L V

    def log_prob(self, x: Int[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """The sum log p(x_1) + sum log P[x_i, x_{i+1}] of each text, in nats; x holds no MASK."""
        steps = self.transition[x[:, :-1], x[:, 1:]].log().sum(1)
        return self.initial[x[:, 0]].log() + steps

    @property
    def entropy(self) -> float:
        """H(x_1) + sum_i H(x_{i+1} | x_i) of a whole text, in nats."""
        first = -(self.initial * self.initial.log()).sum()
        following = -(self.transition * self.transition.log()).sum(1)
        return (first + (self._marginals[:-1] @ following).sum()).item()

    def _log_law(self, z: Tensor, text: Tensor, position: Tensor) -> Tensor:
        length, own = self.length, torch.arange(self.length, device=z.device)
        visible = z != self.mask_token_id
        beyond = torch.full_like(z[:, :1], -1)  # -1 and L: there is no visible neighbour
        left = torch.cat([beyond, torch.where(visible, own, -1).cummax(1).values[:, :-1]], 1)
        mirrored = torch.where(visible, own, length).flip(1).cummin(1).values.flip(1)
        right = torch.cat([mirrored[:, 1:], beyond + length + 1], 1)
        left, right = left[text, position], right[text, position]
        # a row without a neighbour looks up what its marginal, or 1, then replaces
        tokens = z.clamp_max(self.vocabulary - 1)
        a = tokens[text, left.clamp_min(0)]
        b = tokens[text, right.clamp_max(length - 1)]
        forward = self._powers[(position - left).clamp_max(length - 1), a]
        backward = self._powers[(right - position).clamp_max(length - 1), :, b]
        forward = torch.where((left < 0)[:, None], self._marginals[position], forward)
        law = torch.where((right == length)[:, None], forward, forward * backward)
        return (law / law.sum(-1, keepdim=True)).log()


def _check_law(law: Tensor, name: str, axes: tuple[int, ...]) -> None:
    if not bool((law > 0).all()):
        raise ValueError(f"{name} must be positive everywhere, got {law.min().item()}")
    off = (law.sum(axes) - 1).abs().max().item()
    if off > 1e-9:
        raise ValueError(f"{name} must sum to 1, got a sum that is {off:.3g} away")
