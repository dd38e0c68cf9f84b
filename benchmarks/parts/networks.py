"""Models of the presets with random weights: time does not depend on them."""

import torch

import sdtt
from sdtt.models.mdlm import MDLMForMaskedLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def network(size: str, dtype: torch.dtype, device: torch.device) -> MDLMForMaskedLM:
    """A model of a preset with random weights, its adaLN paths included, as published ones have."""
    torch.manual_seed(0)
    with torch.device(device):
        model = MDLMForMaskedLM(sdtt.preset(size)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "adaLN" in name or "bias" in name or "output_layer.linear.weight" in name:
                weight.normal_(std=0.02)
    return model.to(dtype)
