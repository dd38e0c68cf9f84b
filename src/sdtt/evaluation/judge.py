"""Generative perplexity: how well a causal judge predicts some texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from sdtt.evaluation.diversity import Ids, standard_error
from sdtt.models.causal import CausalLM
from sdtt.sampling.generate import evaluating


@dataclass(frozen=True)
class Judgement:
    """What a judge says of some texts.

    Attributes:
        perplexity: exp of the mean over texts of a text's mean token NLL [MDLM, sec. 5].
        nll_se: The standard error of that mean, in nats; a relative error of the perplexity.
        tokens: How many tokens were scored.
        prepended_bos: Whether the first token was scored too, behind a BOS.
    """

    perplexity: float
    nll_se: float
    tokens: int
    prepended_bos: bool


@torch.no_grad()
def token_nll(
    judge: Any, texts: Sequence[Ids], *, prepend_bos: bool, batch_size: int = 64
) -> list[Float64[np.ndarray, " L"]]:
    """-log p of each token of each text under a causal model, in nats.

    Args:
        judge: A transformers causal language model; evaluation mode meanwhile.
        texts: Token ids in the judge's vocabulary.
        prepend_bos: Score the first token too, behind a BOS; else it is only context.
        batch_size: Texts a pass.

    Returns:
        One array a text, of its scored tokens.
    """
    result: list[Float64[np.ndarray, " L"]] = []
    front = [judge.config.bos_token_id] if prepend_bos else []
    with evaluating(judge):
        for first in range(0, len(texts), batch_size):
            rows = [[*front, *text] for text in texts[first : first + batch_size]]
            width = max(len(row) for row in rows)
            # padding behind a text reaches no earlier position of a causal model
            padded = [row + [row[-1]] * (width - len(row)) for row in rows]
            ids = torch.tensor(padded, device=judge.device)
            mask = torch.tensor(
                [[1] * len(row) + [0] * (width - len(row)) for row in rows], device=judge.device
            )
            logits = judge(input_ids=ids, attention_mask=mask).logits[:, :-1]
            losses = _losses(logits, ids[:, 1:])
            for row, values in zip(rows, losses, strict=True):
                result.append(values[: len(row) - 1].numpy())
    return result


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropies in float32, a text at a time so that no float32 copy of all is made."""
    return torch.stack(
        [
            torch.nn.functional.cross_entropy(row.float(), target, reduction="none").double().cpu()
            for row, target in zip(logits, targets, strict=True)
        ]
    )


def judge_perplexity(judge: Any, texts: Sequence[Ids], *, batch_size: int = 64) -> Judgement:
    """Perplexity of texts under a judge; read it beside their entropy only.

    Our own ``CausalLM`` scores every token behind a BOS, as it was trained; any other causal model
    scores all but the first, as the papers do with GPT-2.

    Args:
        judge: A transformers causal language model.
        texts: Token ids in the judge's vocabulary.
        batch_size: Texts a pass.

    Raises:
        ValueError: If there is no text, one too short to score, an unknown id, or a loss that is
            not finite.
    """
    if len(texts) == 0:
        raise ValueError("there are no samples to judge")
    prepend_bos = isinstance(judge, CausalLM)
    if prepend_bos and judge.config.bos_token_id is None:
        raise ValueError("the judge scores behind BOS: its config needs bos_token_id")
    size = judge.config.vocab_size
    longest = getattr(judge.config, "max_position_embeddings", None)
    for index, text in enumerate(texts):
        if len(text) < (1 if prepend_bos else 2):
            raise ValueError(f"sample {index} has {len(text)} tokens: too few to be judged")
        if longest is not None and len(text) > longest:
            raise ValueError(
                f"sample {index} has {len(text)} tokens, more than the {longest} of the judge; "
                "use shorter samples or another judge"
            )
        unknown = [token for token in text if not 0 <= token < size]
        if unknown:
            raise ValueError(
                f"sample {index} has the id {unknown[0]}, the judge's vocabulary only {size}; "
                "use a judge with the model's tokenizer"
            )
    losses = token_nll(judge, texts, prepend_bos=prepend_bos, batch_size=batch_size)
    means = [float(values.mean()) for values in losses]
    wrong = [index for index, mean in enumerate(means) if not math.isfinite(mean)]
    if wrong:
        raise ValueError(f"the judge gives sample {wrong[0]} a loss of {means[wrong[0]]}")
    return Judgement(
        perplexity=math.exp(float(np.mean(means))),
        nll_se=standard_error(means),
        tokens=sum(len(values) for values in losses),
        prepended_bos=prepend_bos,
    )
