import math
from itertools import permutations, product

import numpy as np
import pytest
import torch

from sdtt.diffusion.elbo import bits_per_byte, exact_nelbo, nelbo_sum, nelbo_weight
from sdtt.diffusion.noise import SCHEDULES
from sdtt.models.exact import MarkovDenoiser, TableDenoiser

F64 = torch.float64


def random_law(*shape, seed=0):
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return (weights + 0.02) ** 2


def table(vocabulary, length, seed=0):
    law = random_law(*[vocabulary] * length, seed=seed)
    return TableDenoiser(law / law.sum())


def markov(vocabulary, length):
    transition = random_law(vocabulary, vocabulary, seed=1)
    initial = random_law(vocabulary, seed=2)
    return MarkovDenoiser(
        initial / initial.sum(), transition / transition.sum(1, keepdim=True), length
    )


def texts(vocabulary, length):
    return torch.tensor(list(product(range(vocabulary), repeat=length)))


@pytest.mark.parametrize("denoiser", [table(3, 4), markov(2, 4), table(4, 1)])
def test_the_nelbo_of_an_exact_denoiser_is_minus_log_p_of_every_text(denoiser):
    every = texts(denoiser.vocabulary, denoiser.length)
    nelbo = torch.tensor([exact_nelbo(denoiser, x) for x in every], dtype=F64)
    torch.testing.assert_close(nelbo, -denoiser.log_prob(every), rtol=1e-10, atol=0)


def log_p_in_every_order(denoiser, x):
    """log of what a denoiser gives x when it reveals one token at a time, for each order."""
    totals = []
    for order in permutations(range(len(x))):
        z, total = torch.full_like(x, denoiser.mask_token_id)[None], 0.0
        for i in order:
            row = denoiser.logits(denoiser.hidden(z, torch.tensor([i])))
            total += row.log_softmax(-1)[0, x[i]].item()
            z[0, i] = x[i]
        totals.append(total)
    return torch.tensor(totals, dtype=F64)


def test_the_nelbo_is_the_mean_of_minus_log_p_over_the_orders_of_revelation(table_student):
    wrong = table_student(3, 3)
    for x in texts(3, 3)[::5]:
        orders = log_p_in_every_order(wrong, x)
        assert exact_nelbo(wrong, x) == pytest.approx(-orders.mean().item(), abs=1e-12)


def test_the_nelbo_of_a_wrong_denoiser_bounds_minus_log_p_of_its_own_law(table_student):
    wrong = table_student(3, 3)
    for x in texts(3, 3)[::5]:
        own = log_p_in_every_order(wrong, x).logsumexp(0) - math.log(6)
        assert exact_nelbo(wrong, x) > -own.item()


def test_no_denoiser_beats_the_entropy_of_the_data(table_student):
    data = table(2, 3)
    every = texts(2, 3)
    weights = data.log_prob(every).exp()
    for denoiser, excess in [(data, 0.0), (table_student(2, 3), 0.1)]:
        nelbo = torch.tensor([exact_nelbo(denoiser, x) for x in every], dtype=F64)
        assert (weights @ nelbo).item() >= data.entropy + excess - 1e-12


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_mean_of_nelbo_sum_over_times_and_masks_is_the_exact_nelbo(name, table_student):
    # no draws: Gauss-Legendre over t, and every mask set with its chance (1 - alpha)^m alpha^(L-m)
    schedule, wrong, x = SCHEDULES[name], table_student(3, 3), torch.tensor([[2, 0, 1]])
    nodes, weights = np.polynomial.legendre.leggauss(8)
    total = 0.0
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        t = torch.tensor([node], dtype=F64)
        alpha = schedule.alpha(t).item()
        for masked in product([True, False], repeat=3):
            u = torch.tensor([[0.0 if one else 1 - 2.0**-53 for one in masked]], dtype=F64)
            chance = math.prod(1 - alpha if one else alpha for one in masked)
            total += weight * chance * nelbo_sum(wrong, x, t, u, schedule).item()
    assert total == pytest.approx(exact_nelbo(wrong, x[0]), rel=1e-5)


def test_nelbo_sum_with_drawn_masks_is_unbiased():
    denoiser, x, n = table(3, 4), torch.tensor([[2, 0, 1, 1]]), 20_000
    generator = torch.Generator().manual_seed(0)
    t = (torch.randperm(n, generator=generator) + 0.5).double() / n
    u = torch.rand(n, 4, generator=generator, dtype=F64)
    batches = torch.stack(
        [
            nelbo_sum(denoiser, x.expand(500, -1), t_part, u_part, SCHEDULES["log_linear"]) / 500
            for t_part, u_part in zip(t.split(500), u.split(500), strict=True)
        ]
    )
    error = (batches.mean() - -denoiser.log_prob(x)).abs().item()
    assert error < 4 * batches.std().item() / math.sqrt(len(batches))


def test_nelbo_sum_adds_over_texts(table_student):
    wrong, x = table_student(3, 3), texts(3, 3)[:6]
    t = torch.linspace(0.2, 0.9, 6, dtype=F64)
    u = torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    one = [
        nelbo_sum(wrong, *row, SCHEDULES["cosine"])
        for row in zip(*(y.split(1) for y in (x, t, u)), strict=True)
    ]
    together = nelbo_sum(wrong, x, t, u, SCHEDULES["cosine"])
    assert together.item() == pytest.approx(sum(one).item(), rel=1e-6)


def test_the_weight_of_the_log_linear_schedule_is_one_over_t():
    t = torch.tensor([1e-3, 0.25, 1.0], dtype=F64)
    torch.testing.assert_close(nelbo_weight(t, SCHEDULES["log_linear"]), 1 / t)


def test_the_weight_counts_the_tokens_that_fall_masked_in_an_instant():
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    masked, h = lambda t: 1 - SCHEDULES["cosine"].alpha(t), 1e-6
    by_difference = (masked(t + h) - masked(t - h)) / (2 * h) / masked(t)
    torch.testing.assert_close(
        nelbo_weight(t, SCHEDULES["cosine"]), by_difference, rtol=1e-8, atol=0
    )


def test_two_bits_a_token_of_four_bytes_are_half_a_bit_a_byte():
    assert bits_per_byte(2 * math.log(2), 4.0) == pytest.approx(0.5)
