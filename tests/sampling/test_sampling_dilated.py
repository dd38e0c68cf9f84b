from itertools import permutations

import pytest
import torch
from sampling.laws import F64, counts_of, law_of_order, p_value, random_uniforms, run

from sdtt.models.exact import MarkovDenoiser, TableDenoiser
from sdtt.sampling.dilated import DilatedSettings, plan_dilated
from sdtt.sampling.reveal import rank_of_free

# chi-square tests of this file; each at the level 0.005 / their number
LEVEL = 0.005 / 7
SHAPES = [(12, 12, 4), (12, 12, 5), (12, 7, 3), (12, 7, 7), (9, 4, 30), (9, 9, 1), (9, 0, 3)]


def chain(length):
    transition = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=F64)
    return MarkovDenoiser(torch.tensor([0.4, 0.6], dtype=F64), transition, length)


def some_free(length, free, texts=40):
    """Canvases with so many free positions, anywhere."""
    return random_uniforms(texts, length, seed=7)[0].argsort(1) < free


def plan(free, steps, *, seed=0, stratified=False):
    u = random_uniforms(*free.shape, seed=seed)[0]
    return plan_dilated(free, u, DilatedSettings(steps, stratified))


@pytest.mark.parametrize("steps", [3, 64])
def test_with_a_step_for_each_token_an_exact_denoiser_gives_its_joint_law(steps):
    weights = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(3), dtype=F64) ** 3 + 0.02
    denoiser, canvas = TableDenoiser(weights / weights.sum()), torch.full((20_000, 3), 2)
    texts, _ = run("dilated", denoiser, canvas, *random_uniforms(20_000, 3), steps=steps)
    assert p_value(counts_of(texts, denoiser.law), denoiser.law) > LEVEL


@pytest.mark.parametrize("steps", [2, 3])
def test_a_chain_has_the_law_of_an_independent_first_step(steps):
    denoiser, canvas = chain(6), torch.full((20_000, 6), 2)
    texts, _ = run("dilated", denoiser, canvas, *random_uniforms(20_000, 6), steps=steps)
    place = torch.arange(6)
    # on a chain only the first residue matters, and each is the first one as often
    firsts = [law_of_order(denoiser, (place - first) % steps) for first in range(steps)]
    counts = counts_of(texts, firsts[0])
    assert p_value(counts, sum(firsts) / steps) > LEVEL
    assert p_value(counts, law_of_order(denoiser, place)) < 1e-9  # the chain itself


@pytest.mark.parametrize(("length", "steps"), [(6, 2), (6, 3), (7, 3), (5, 4)])
def test_on_a_chain_the_error_is_the_dependence_of_the_first_residue(length, steps):
    denoiser, place = chain(length), torch.arange(length)
    law = law_of_order(denoiser, place)
    for order in permutations(range(steps)):
        drawn = law_of_order(denoiser, torch.tensor(order)[place % steps])
        divergence = (law * (law / drawn).log()).sum().item()
        first = order.index(0)
        others = [i for i in range(length) if i % steps != first]
        subchain = law.sum(others)
        marginals = [
            law.sum([j for j in range(length) if j != i]) for i in range(first, length, steps)
        ]
        entropies = [-(p * p.log()).sum().item() for p in [*marginals, subchain]]
        assert divergence == pytest.approx(sum(entropies[:-1]) - entropies[-1], abs=1e-12)


@pytest.mark.parametrize(("length", "free", "steps"), SHAPES)
def test_positions_are_revealed_together_just_where_their_ranks_are_equal_modulo_N(
    length, free, steps
):
    free = some_free(length, free)
    when, residue = plan(free, steps).when, rank_of_free(free) % steps
    together = when[:, :, None] == when[:, None]
    asked = free[:, :, None] & free[:, None]
    assert torch.equal(together & asked, (residue[:, :, None] == residue[:, None]) & asked)


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize(("length", "free", "steps"), SHAPES)
def test_every_free_position_has_its_step_and_no_step_is_empty(length, free, steps, stratified):
    where = some_free(length, free)
    when = plan(where, steps, stratified=stratified).when
    assert torch.equal(when >= 0, where)
    for row in when:
        assert set(row.tolist()) - {-1} == set(range(min(free, steps)))


def test_prompts_and_infilled_spans_take_no_turn():
    free = torch.zeros(1, 10, dtype=torch.bool)
    free[0, [1, 4, 5, 9]] = True
    when = plan(free, 2).when[0]
    assert when[1] == when[5] != when[4] == when[9]


def test_the_order_of_the_residues_is_a_fair_permutation():
    n = 6_000
    free = torch.zeros(n, 9, dtype=torch.bool)
    free[:, [1, 3, 4, 5, 7, 8]] = True
    order = plan(free, 3).when[:, [1, 3, 4]]
    counts = torch.tensor([(order == torch.tensor(p)).all(1).sum() for p in permutations(range(3))])
    assert counts.sum() == n
    assert p_value(counts, torch.full((6,), 1 / 6, dtype=F64)) > LEVEL


@pytest.mark.parametrize(("length", "free", "steps"), SHAPES)
def test_stratified_takes_one_position_of_each_run_of_neighbours(length, free, steps):
    where = some_free(length, free)
    when = plan(where, steps, stratified=True).when
    for row, own in zip(when, where, strict=True):
        for run_of in row[own].split(min(steps, max(free, 1))):
            assert len(run_of.unique()) == len(run_of)


@pytest.mark.parametrize("run_of", [[0, 1, 2], [6, 7]])
def test_stratified_takes_each_position_of_a_run_in_each_step_as_often(run_of):
    n = 6_000
    when = plan(torch.ones(n, 8, dtype=torch.bool), 3, stratified=True).when[:, run_of]
    orders = list(permutations(range(3), len(run_of)))
    counts = torch.tensor([(when == torch.tensor(p)).all(1).sum() for p in orders])
    assert counts.sum() == n
    assert p_value(counts, torch.full((6,), 1 / 6, dtype=F64)) > LEVEL


def test_stratified_runs_differ_in_their_order():
    when = plan(torch.ones(200, 6, dtype=torch.bool), 3, stratified=True).when
    equal = (when[:, :3] == when[:, 3:]).all(1).double().mean().item()
    assert abs(equal - 1 / 6) < 4 * (1 / 6 * 5 / 6 / 200) ** 0.5


@pytest.mark.parametrize("stratified", [False, True])
def test_a_padded_text_has_the_plan_that_it_has_alone(stratified):
    u, free = random_uniforms(30, 12)[0], some_free(12, 9, 30)
    free[:, 8:] = False
    settings = DilatedSettings(3, stratified)
    together = plan_dilated(free, u, settings)
    alone = plan_dilated(free[:, :8], u[:, :8], settings)
    assert torch.equal(together.when[:, :8], alone.when)
    assert torch.equal(together.times, alone.times)


def test_the_network_is_told_the_share_that_is_masked():
    free = torch.ones(30, 5, dtype=torch.bool)
    dilated = plan(free, 2)
    firsts = (dilated.when == 0).sum(1)
    assert set(firsts.tolist()) == {2, 3}
    assert torch.allclose(dilated.times[:, 0], torch.ones(30, dtype=F64))
    assert torch.allclose(dilated.times[:, 1], 1 - firsts.double() / 5)
