from collections import defaultdict
from itertools import product

import pytest
import torch
from sampling.laws import F64, OfPlace, counts_of, p_value, random_uniforms, run

from sdtt.diffusion.noise import SCHEDULES, grid
from sdtt.models.exact import MarkovDenoiser, TableDenoiser
from sdtt.sampling.analytic import total_score

# chi-square tests of this file; each at the level 0.005 / their number
LEVEL = 0.005 / 5


def chain(length=12):
    transition = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], dtype=F64)
    return MarkovDenoiser(torch.tensor([0.5, 0.3, 0.2], dtype=F64), transition, length)


class Scaled:
    """Ratios of an exact law that sum to r, which hangs on how many tokens of the text are seen."""

    unnormalised_scores = True

    def __init__(self, denoiser, *totals):
        self.denoiser, self.totals = denoiser, torch.tensor(totals, dtype=F64)
        self.mask_token_id, self.excluded_ids = denoiser.mask_token_id, denoiser.excluded_ids
        self.head, self.logits = denoiser.head, denoiser.logits

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):
        seen = (z != self.mask_token_id).sum(1)[rows // z.shape[1]]
        scale = self.totals[seen.clamp_max(len(self.totals) - 1)].log()
        return self.denoiser.hidden(z, rows, attention_mask=attention_mask, t=t) + scale[:, None]


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_a_normalised_denoiser_gives_the_ancestral_text(schedule, steps):
    canvas = torch.full((40, 12), 3)
    canvas[::2, 3:6] = 1
    u, v = random_uniforms(40, 12)
    settings = {"steps": steps, "schedule": schedule}
    texts, _ = run("analytic", chain(), canvas, u, v, **settings)
    assert torch.equal(texts, run("ancestral", chain(), canvas, u, v, **settings)[0])


def shares(total, steps, schedule):
    """Of the positions those that each step reveals, where the ratios always sum to ``total``."""
    alpha = SCHEDULES[schedule].alpha(grid(steps))
    rho = (alpha[1:] - alpha[:-1]) / (1 - alpha[:-1])
    chance = (total * rho).clamp_max(1)
    chance[-1] = 1
    left = torch.cat([torch.ones(1, dtype=F64), (1 - chance).cumprod(0)[:-1]])
    return left * chance


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_step_reveals_with_r_times_the_chance_of_the_process(schedule):
    denoiser = Scaled(OfPlace([[0.5, 0.5]] * 1_000), 0.5, 0.5)
    canvas = torch.full((20, 1_000), 2)
    u, v = random_uniforms(20, 1_000)
    _, taken = run("analytic", denoiser, canvas, u, v, steps=4, schedule=schedule)
    counts = torch.tensor([len(step.rows) for step in taken])
    assert p_value(counts, shares(0.5, 4, schedule)) > LEVEL


def test_a_chance_above_one_reveals_all():
    denoiser = Scaled(OfPlace([[0.5, 0.5]] * 10), 4.5)
    canvas = torch.full((3, 10), 2)
    _, taken = run("analytic", denoiser, canvas, *random_uniforms(3, 10), steps=4)
    assert [len(step.rows) for step in taken] == [30]  # 4.5 times 1/4


def law_of_analytic(table, totals, steps):
    """The law that T steps draw, by every set that a step may reveal and all that it may become."""
    mask_id, length = table.vocabulary, table.length
    canvases = {(mask_id,) * length: 1.0}
    for index, rho in enumerate((1 / torch.arange(steps, 0, -1)).tolist()):
        after = defaultdict(float)
        for z, chance in canvases.items():
            laws = table.hidden(torch.tensor([z])).exp()
            total = totals[min(length - z.count(mask_id), len(totals) - 1)]
            revealed = 1.0 if index == steps - 1 else min(1.0, total * rho)
            ways = []
            for i, token in enumerate(z):
                stays = {mask_id: 1 - revealed} if token == mask_id else {token: 1.0}
                turns = {x: revealed * laws[i, x].item() for x in range(mask_id)}
                ways.append(stays | turns if token == mask_id else stays)
            for end in product(*ways):
                p = chance
                for i, token in enumerate(end):
                    p *= ways[i][token]
                after[end] += p
        canvases = after
    law = torch.zeros_like(table.law)
    for z, chance in canvases.items():
        if mask_id not in z:
            law[z] = chance
    return law


@pytest.mark.parametrize("totals", [(0.5, 0.5, 0.5), (0.4, 2.0, 0.7), (1.0, 1.0, 1.0)])
def test_unnormalised_ratios_have_the_enumerated_law(totals):
    weights = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(3), dtype=F64) ** 3 + 0.02
    table = TableDenoiser(weights / weights.sum())
    law = law_of_analytic(table, totals, 3)
    assert law.sum().item() == pytest.approx(1, abs=1e-12)
    canvas = torch.full((20_000, 3), 2)
    texts, _ = run("analytic", Scaled(table, *totals), canvas, *random_uniforms(20_000, 3), steps=3)
    assert p_value(counts_of(texts, law), law) > LEVEL


def test_the_last_step_reveals_what_is_left():
    denoiser = Scaled(OfPlace([[0.5, 0.5]] * 10), 1e-9)
    texts, taken = run(
        "analytic", denoiser, torch.full((3, 10), 2), *random_uniforms(3, 10), steps=4
    )
    assert [len(step.rows) for step in taken] == [0, 0, 0, 30]
    assert (texts != 2).all()


def test_logits_of_a_denoiser_that_declares_nothing_hold_up_to_a_constant():
    denoiser = OfPlace([[2.0, 3.0]])
    hidden = denoiser.hidden(torch.tensor([[2]]))
    assert total_score(denoiser, hidden).tolist() == [1]


def test_the_total_of_declared_ratios_is_their_sum():
    denoiser = OfPlace([[2.0, 3.0], [0.5, 0.2]])
    denoiser.unnormalised_scores = True
    hidden = denoiser.hidden(torch.tensor([[2, 2]]))
    assert total_score(denoiser, hidden).tolist() == pytest.approx([5, 0.7])


def test_a_text_without_masks_costs_no_pass():
    canvas = torch.tensor([[0, 1, 1]])
    texts, taken = run("analytic", OfPlace([[0.5, 0.5]] * 3), canvas, *random_uniforms(1, 3))
    assert taken == []
    assert torch.equal(texts, canvas)
