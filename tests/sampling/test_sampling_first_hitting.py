from itertools import permutations

import pytest
import torch
from sampling.laws import F64, Watched, counts_of, law_of_order, p_value, random_uniforms, run

from sdtt.diffusion.noise import SCHEDULES
from sdtt.models.exact import MarkovDenoiser, TableDenoiser
from sdtt.sampling.first_hitting import FirstHittingSettings, plan_first_hitting

# chi-square tests of this file; each at the level 0.005 / their number
LEVEL = 0.005 / 3


def three_tokens():
    weights = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(3), dtype=F64) ** 3 + 0.02
    return TableDenoiser(weights / weights.sum())


def chain(length=12):
    transition = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], dtype=F64)
    return MarkovDenoiser(torch.tensor([0.5, 0.3, 0.2], dtype=F64), transition, length)


def test_an_exact_denoiser_gives_its_joint_law():
    denoiser, canvas = three_tokens(), torch.full((20_000, 3), 2)
    texts, _ = run("first_hitting", denoiser, canvas, *random_uniforms(20_000, 3))
    assert p_value(counts_of(texts, denoiser.law), denoiser.law) > LEVEL


@pytest.mark.parametrize("together", [2, 3])
def test_tokens_of_a_group_are_drawn_as_independent(together):
    denoiser, canvas = three_tokens(), torch.full((20_000, 3), 2)
    texts, _ = run(
        "first_hitting", denoiser, canvas, *random_uniforms(20_000, 3), tokens_per_pass=together
    )
    orders = [[rank // together for rank in ranks] for ranks in permutations(range(3))]
    law = sum(law_of_order(denoiser, order) for order in orders) / len(orders)
    counts = counts_of(texts, law)
    assert p_value(counts, law) > LEVEL
    assert p_value(counts, denoiser.law) < 1e-9


def test_one_group_of_all_tokens_has_the_product_law():
    denoiser = three_tokens()
    marginals = denoiser.hidden(torch.full((1, 3), 2)).exp()
    due = torch.einsum("i,j,k->ijk", *marginals)
    assert torch.allclose(law_of_order(denoiser, [0, 0, 0]), due)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_it_is_the_limit_of_the_ancestral_sampler_from_the_same_uniforms(schedule):
    canvas = torch.full((40, 12), 3)
    canvas[::2, 3:6] = 1
    u, v = random_uniforms(40, 12)
    texts, _ = run("first_hitting", chain(), canvas, u, v, schedule=schedule)
    limit, _ = run("ancestral", chain(), canvas, u, v, steps=10**6, schedule=schedule)
    assert torch.equal(texts, limit)


def test_there_is_a_pass_for_each_free_position_and_no_more(blind):
    canvas = torch.full((30, 8), 2)
    canvas[:, [0, 5]] = 1
    watched = Watched(blind([0.5, 0.5]))
    _, taken = run("first_hitting", watched, canvas, *random_uniforms(30, 8))
    assert len(watched.canvases) == len(taken) == 6
    assert all(len(step.rows) == 30 for step in taken)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_the_network_is_asked_at_the_time_at_which_a_token_is_due(schedule):
    u, free = random_uniforms(30, 8)[0], random_uniforms(30, 8, seed=1)[0] < 0.7
    plan = plan_first_hitting(free, u, FirstHittingSettings(schedule=schedule))
    own = plan.times.gather(1, plan.when.clamp_min(0))[free]
    assert torch.allclose(1 - SCHEDULES[schedule].alpha(own), u[free], rtol=0, atol=1e-9)


def test_times_decrease():
    u = random_uniforms(30, 8)[0]
    plan = plan_first_hitting(torch.ones_like(u).bool(), u, FirstHittingSettings())
    assert (plan.times.diff() < 0).all()


def test_a_group_is_asked_for_when_its_first_token_is_due():
    u = torch.tensor([[0.2, 0.9, 0.5, 0.7, 0.1]], dtype=F64)
    plan = plan_first_hitting(torch.ones_like(u).bool(), u, FirstHittingSettings(2))
    assert plan.when.tolist() == [[1, 0, 1, 0, 2]]
    assert plan.times.tolist() == [pytest.approx([0.9, 0.5, 0.1])]


def test_less_than_a_token_a_pass_is_refused():
    with pytest.raises(ValueError, match="tokens_per_pass must be at least 1, got 0"):
        FirstHittingSettings(tokens_per_pass=0)
