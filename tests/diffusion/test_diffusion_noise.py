import math
from itertools import combinations, pairwise

import pytest
import torch

from sdtt.diffusion.noise import (
    SCHEDULES,
    grid,
    is_masked,
    mask,
    pairs,
    reveal_probability,
    stratified_times,
    teacher_times,
)

TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.fixture(params=sorted(SCHEDULES))
def schedule(request):
    return SCHEDULES[request.param]


def test_alpha_falls_from_one_to_zero(schedule):
    alpha = schedule.alpha(TIMES)
    assert alpha[0] == 1
    assert alpha[-1].item() == pytest.approx(0, abs=1e-15)
    assert (alpha.diff() < 0).all()


def test_alpha_prime_is_the_derivative_of_alpha(schedule):
    t = TIMES.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.alpha_prime(TIMES), derivative, rtol=1e-14, atol=1e-15)


def test_the_schedules_are_those_of_the_literature():
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    torch.testing.assert_close(SCHEDULES["log_linear"].alpha(t), 1 - t)
    by_hand = torch.tensor([math.cos(math.pi / 8), math.sqrt(0.5)], dtype=torch.float64)
    torch.testing.assert_close(SCHEDULES["cosine"].alpha(t), by_hand)


def test_masks_of_the_same_uniforms_are_nested_in_time(schedule):
    u = torch.rand(20, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = [is_masked(u, t.expand(20), schedule) for t in TIMES]
    assert all((earlier <= later).all() for earlier, later in pairwise(masks))
    assert not masks[0].any()
    assert masks[-1].all()


def test_a_token_is_masked_with_chance_one_minus_alpha(schedule):
    n = 10_000  # midpoints in place of draws: the share is exact to 1 / n
    u = (torch.arange(n, dtype=torch.float64)[None] + 0.5) / n
    for t in TIMES:
        share = is_masked(u, t[None], schedule).double().mean()
        assert (share - (1 - schedule.alpha(t))).abs() <= 1 / n


def test_each_text_is_masked_at_its_own_time(schedule):
    u = torch.full((2, 3), 0.3, dtype=torch.float64)
    masked = is_masked(u, torch.tensor([0.01, 0.99], dtype=torch.float64), schedule)
    assert masked.tolist() == [[False] * 3, [True] * 3]


def test_mask_writes_mask_where_told_and_nothing_elsewhere():
    x = torch.tensor([[5, 6, 7]])
    assert mask(x, torch.tensor([[True, False, True]]), 9).tolist() == [[9, 6, 9]]
    assert x.tolist() == [[5, 6, 7]]


def test_reveal_probability_is_bayes_rule_of_the_forward_process(schedule):
    for s, t in combinations(TIMES[::5], 2):
        alpha_s, alpha_t = schedule.alpha(s), schedule.alpha(t)
        # forward: visible at s with chance alpha_s; then still visible at t with alpha_t / alpha_s
        visible_then_masked = alpha_s * (1 - alpha_t / alpha_s)
        masked_already = 1 - alpha_s
        bayes = visible_then_masked / (visible_then_masked + masked_already)
        torch.testing.assert_close(reveal_probability(alpha_t, alpha_s), bayes)


def test_reveal_probability_satisfies_chapman_kolmogorov(schedule):
    for r, s, t in combinations(schedule.alpha(TIMES[::10]), 3):
        in_two = (1 - reveal_probability(t, s)) * (1 - reveal_probability(s, r))
        torch.testing.assert_close(1 - reveal_probability(t, r), in_two, rtol=1e-12, atol=1e-15)


def test_masks_from_one_uniform_are_lifted_with_the_reveal_probability(schedule):
    n = 10_000
    u = (torch.arange(n, dtype=torch.float64)[None] + 0.5) / n
    t, s = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.45], dtype=torch.float64)
    before, after = is_masked(u, t, schedule), is_masked(u, s, schedule)
    share = (before & ~after).sum() / before.sum()
    due = reveal_probability(schedule.alpha(t), schedule.alpha(s))
    assert (share - due).abs().item() < 10 / n


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 49, 1000, 1024])
def test_the_grid_falls_evenly_from_one_to_exactly_zero(steps):
    times = grid(steps)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (1, 0)
    torch.testing.assert_close(times.diff(), torch.full((steps,), -1 / steps).double())


def test_a_grid_without_steps_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        grid(0)


def test_pairs_are_contiguous_and_run_down_the_grid():
    steps = [(t.item(), s.item()) for t, s in pairs(grid(4))]
    assert steps == [(1, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0)]


def test_a_teacher_visits_t_then_steps_of_dt_and_never_falls_below_zero():
    t = torch.tensor([0.5, 0.3, 0.1], dtype=torch.float64)
    times = teacher_times(t, 0.125, 3)
    by_hand = [[0.5, 0.375, 0.25, 0.125], [0.3, 0.175, 0.05, 0], [0.1, 0, 0, 0]]
    torch.testing.assert_close(times, torch.tensor(by_hand, dtype=torch.float64))
    assert (times >= 0).all()


def test_there_is_one_time_in_each_stratum():
    strata = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    u = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = stratified_times(u, strata, 64)
    assert torch.equal((times * 64).floor().long(), strata)


@pytest.mark.parametrize("smallest", [0.0, 1e-3])
def test_a_time_of_a_random_stratum_is_uniform(smallest):
    count, per_stratum = 8, 50  # every stratum once with every midpoint, in place of draws
    u = ((torch.arange(per_stratum, dtype=torch.float64) + 0.5) / per_stratum).repeat(count)
    strata = torch.arange(count).repeat_interleave(per_stratum)
    times = stratified_times(u, strata, count, smallest).sort().values
    n = count * per_stratum
    even = smallest + (1 - smallest) * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    torch.testing.assert_close(times, even)
