"""What the tests of the samplers share: a runner, chi-square, laws by enumeration, denoisers."""

from itertools import product

import torch

from sdtt.diffusion.categorical import Transform
from sdtt.diffusion.denoiser import Head, exclude
from sdtt.sampling.settings import SAMPLERS

F64 = torch.float64
PLAIN = Transform()


def random_uniforms(count, length, seed=0):
    return torch.rand(2, count, length, generator=torch.Generator().manual_seed(seed), dtype=F64)


def run(
    sampler, denoiser, z, u, v, *, transform=PLAIN, attention_mask=None, stop_ids=(), **settings
):
    """The filled canvas and the steps that filled it."""
    function, settings_type = SAMPLERS[sampler]
    taken = list(
        function(
            denoiser, z, settings_type(**settings), u, v,
            transform=transform, attention_mask=attention_mask, stop_ids=stop_ids,
        )
    )  # fmt: skip
    filled = z.flatten().clone()
    for step in taken:
        filled[step.rows] = step.tokens
    return filled.view_as(z), taken


def p_value(counts, law):
    """Of Pearson's chi-square."""
    due = law.flatten() * counts.sum()
    chi_square = ((counts.flatten() - due) ** 2 / due).sum()
    degrees = torch.tensor((len(due) - 1) / 2, dtype=F64)
    return torch.special.gammaincc(degrees, chi_square.double() / 2).item()


def counts_of(texts, law):
    """How often each text of the law's axes was drawn."""
    index = torch.zeros(len(texts), dtype=torch.long)
    for column in texts.unbind(1):
        index = index * law.shape[0] + column
    return torch.bincount(index, minlength=law.numel())


def all_texts(vocabulary, length):
    return torch.tensor(list(product(range(vocabulary), repeat=length)))


def law_of_order(denoiser, steps):
    """What is drawn where position i is revealed in the step steps[i]: one axis a position."""
    texts = all_texts(denoiser.vocabulary, denoiser.length)
    every = torch.arange(len(texts))
    steps = torch.as_tensor(steps)
    log_p = torch.zeros(len(texts), dtype=F64)
    for i, step in enumerate(steps.tolist()):
        seen = torch.where(steps < step, texts, denoiser.mask_token_id)
        log_p += denoiser.hidden(seen, every * denoiser.length + i)[every, texts[:, i]]
    return log_p.exp().view([denoiser.vocabulary] * denoiser.length)


class Watched:
    """A denoiser that writes down each canvas that it sees and each row that it is asked for."""

    def __init__(self, denoiser, **promises):
        self.denoiser = denoiser
        self.mask_token_id, self.excluded_ids = denoiser.mask_token_id, denoiser.excluded_ids
        self.head, self.logits = denoiser.head, denoiser.logits
        self.canvases, self.asked, self.rows, self.times = [], [], [], []
        for name, value in promises.items():
            setattr(self, name, value)

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):
        rows = torch.arange(z.numel()) if rows is None else rows
        self.canvases.append(z.clone())
        self.asked.append(z.flatten()[rows])
        self.rows.append(rows)
        self.times.append(t)
        return self.denoiser.hidden(z, rows, attention_mask=attention_mask, t=t)


class OfPlace:
    """A law for each position, whatever the canvas; MASK is the last id."""

    def __init__(self, laws):
        self.laws = torch.as_tensor(laws, dtype=F64)
        self.mask_token_id = self.laws.shape[1]
        self.excluded_ids = (self.mask_token_id,)
        self.head = Head(torch.eye(self.mask_token_id + 1, self.mask_token_id, dtype=F64))

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):  # noqa: ARG002
        rows = torch.arange(z.numel()) if rows is None else rows
        return self.laws.log()[rows % z.shape[1]]

    def logits(self, h):
        return exclude(self.head.scores(h), self.excluded_ids)


class OfTime(OfPlace):
    """Of three tokens the one that the time of the text names, whatever the canvas."""

    def __init__(self):
        super().__init__([[0.5, 0.3, 0.2]])

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):  # noqa: ARG002
        rows = torch.arange(z.numel()) if rows is None else rows
        t = (z == self.mask_token_id).double().mean(1) if t is None else t  # as a denoiser counts
        token = (t.double() * 997).long()[rows // z.shape[1]] % 3
        return torch.nn.functional.one_hot(token, 3) * 99.0 + torch.zeros(1, dtype=F64)
