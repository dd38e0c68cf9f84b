"""Small models in which nothing has its initial value: modulations, gates, biases are random."""

import pytest
import torch

from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM

SHAPE = {"vocab_size": 11, "hidden_dim": 16, "n_blocks": 3, "n_heads": 2, "model_length": 12}


def random_network(kind="masked", scale=0.3, **settings):
    torch.manual_seed(0)
    if kind == "masked":
        model = MDLMForMaskedLM(MDLMConfig(**SHAPE | settings)).eval()
    else:
        model = CausalLM(CausalConfig(**SHAPE | {"bos_token_id": 0} | settings)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name), scale, generator=generator)
    return model


@pytest.fixture(scope="session")
def random_model():
    return random_network
