"""Denoisers of the tests: a table of logits that can be trained, and one that does not look."""

import pytest
import torch
from torch import nn

from sdtt.diffusion.denoiser import Head, exclude


class TableStudent(nn.Module):
    """A free row of V logits for each position of each partly masked text; MASK is id V."""

    def __init__(self, vocabulary, length, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = [vocabulary + 1] * length + [length, vocabulary]
        self.table = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        self.mask_token_id = vocabulary
        self.excluded_ids = (vocabulary,)

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):  # noqa: ARG002
        every = self.table[tuple(z.unbind(1))].flatten(0, 1)
        return every if rows is None else every[rows]

    @property
    def head(self):
        width = self.mask_token_id
        return Head(torch.eye(width + 1, width, dtype=torch.float64))

    def logits(self, h):
        return exclude(self.head.scores(h), self.excluded_ids)


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
def table_student():
    return TableStudent


@pytest.fixture(scope="session")
def blind():
    return Blind
