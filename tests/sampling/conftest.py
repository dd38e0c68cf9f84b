"""A denoiser that does not look: an exact one would hide that a sampler redraws."""

import pytest
import torch

from sdtt.diffusion.denoiser import Head, exclude


class Blind:
    """One law for every position of every canvas: the bias of its head. MASK is the last id."""

    def __init__(self, law):
        self.bias = torch.cat([torch.as_tensor(law).double().log(), torch.zeros(1).double()])
        self.mask_token_id = len(law)
        self.excluded_ids = (len(law),)

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):  # noqa: ARG002
        return torch.zeros(z.numel() if rows is None else len(rows), 1, dtype=torch.float64)

    @property
    def head(self):
        return Head(torch.zeros(len(self.bias), 1, dtype=torch.float64), self.bias)

    def logits(self, h):
        return exclude(self.head.scores(h), self.excluded_ids)


@pytest.fixture(scope="session")
def blind():
    return Blind
