import math
from collections import Counter
from itertools import product

import pytest
import torch
from sampling.laws import (
    F64,
    PLAIN,
    Watched,
    counts_of,
    law_of_order,
    p_value,
    random_uniforms,
)
from sampling.laws import run as run_sampler

from sdtt.diffusion.noise import SCHEDULES, grid
from sdtt.models.exact import MarkovDenoiser, TableDenoiser
from sdtt.sampling.ancestral import AncestralSettings, ancestral, plan_ancestral, reveal_steps

LOG_LINEAR = SCHEDULES["log_linear"]
# chi-square tests of this file; each at the level 0.005 / their number
LEVEL = 0.005 / 11


def run(denoiser, z, u, v, steps, schedule="log_linear", counts="process"):
    return run_sampler(
        "ancestral", denoiser, z, u, v, steps=steps, schedule=schedule, counts=counts
    )


TWO = torch.tensor([[8, 1, 1], [1, 3, 1], [1, 1, 3]], dtype=F64) / 20
PRODUCT = TWO.sum(1, keepdim=True) * TWO.sum(0)


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_two_tokens_in_T_steps_are_product_over_T_and_else_the_joint_law(steps):
    texts, _ = run(
        TableDenoiser(TWO), torch.full((20_000, 2), 3), *random_uniforms(20_000, 2), steps
    )
    law = PRODUCT / steps + TWO * (1 - 1 / steps)
    assert p_value(counts_of(texts, TWO), law) > LEVEL


def test_the_chi_square_of_this_file_tells_the_joint_law_from_the_sampled_one():
    texts, _ = run(TableDenoiser(TWO), torch.full((20_000, 2), 3), *random_uniforms(20_000, 2), 3)
    assert p_value(counts_of(texts, TWO), TWO) < 1e-9


def test_the_sampler_draws_the_exact_law_of_one_token():
    law = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=F64)
    texts, _ = run(TableDenoiser(law), torch.full((20_000, 1), 4), *random_uniforms(20_000, 1), 7)
    assert p_value(counts_of(texts, law), law) > LEVEL


def law_of_sampler(denoiser, steps, schedule):
    """The law of what T steps draw: over all assignments of positions to steps, and all texts."""
    chances = -schedule.alpha(grid(steps).flip(0)).diff().flip(0)  # of each step, T of them
    law = torch.zeros_like(denoiser.law)
    for assigned in product(range(steps), repeat=denoiser.length):
        law += math.prod(chances[step].item() for step in assigned) * law_of_order(
            denoiser, assigned
        )
    return law


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_three_tokens_have_the_enumerated_law_of_their_schedule(name):
    weights = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(3), dtype=F64) ** 3 + 0.02
    denoiser = TableDenoiser(weights / weights.sum())
    law = law_of_sampler(denoiser, 3, SCHEDULES[name])
    assert law.sum().item() == pytest.approx(1, abs=1e-12)
    canvas = torch.full((20_000, 3), 2)
    texts, _ = run(denoiser, canvas, *random_uniforms(20_000, 3, seed=1), 3, name)
    assert p_value(counts_of(texts, denoiser.law), law) > LEVEL


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_each_step_reveals_its_share_of_the_positions(name, blind):
    canvas = torch.full((20, 1_000), 2)
    _, taken = run(blind([0.5, 0.5]), canvas, *random_uniforms(20, 1_000), 8, name)
    counts = torch.tensor([len(step.rows) for step in taken])
    due = SCHEDULES[name].alpha(grid(8)).diff()
    assert [step.index for step in taken] == list(range(8))
    assert p_value(counts, due) > LEVEL


def test_a_prompt_conditions_what_is_filled_in():
    chain = MarkovDenoiser(
        torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=F64), 3
    )
    canvas = torch.tensor([[1, 2, 0]]).expand(4_000, -1)  # MASK between 1 and 0
    texts, _ = run(chain, canvas, *random_uniforms(4_000, 3), 5)
    due = 0.7 * 0.3 / (0.7 * 0.3 + 0.3 * 0.9)
    deviation = math.sqrt(due * (1 - due) / 4_000)
    assert abs(texts[:, 1].double().mean().item() - due) < 4 * deviation


def test_one_of_1024_steps_over_50000_flat_tokens_reveals_39_of_40000(blind):
    flat = blind(torch.full((50_000,), 1 / 50_000))
    texts, length = 4, 40_000
    canvas = torch.full((texts, length), 50_000)
    u, v = random_uniforms(texts, length)
    settings = AncestralSettings(1024)
    step = next(ancestral(flat, canvas, settings, u, v, transform=PLAIN))
    due = texts * length / 1024  # 156.25: float32 Gumbel noise reveals one in forty of them
    assert step.index == 0
    assert abs(len(step.rows) - due) < 4 * math.sqrt(due)
    # of 156 tokens of a flat law hardly two are equal: 0.24 pairs are due
    assert len(step.tokens.unique()) >= len(step.rows) - 3


def test_a_position_is_revealed_in_the_step_that_holds_its_uniform():
    u = torch.tensor([[0.0, 0.24, 0.25, 0.5, 0.74, 0.75, 1 - 2.0**-53]], dtype=F64)
    assert reveal_steps(u, 4, LOG_LINEAR).tolist() == [[3, 3, 2, 1, 1, 0, 0]]


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_last_step_takes_what_is_left_and_the_first_starts_at_all_masked(name):
    u = torch.tensor([[0.0, 1 - 2.0**-53]], dtype=F64)
    for steps in (1, 2, 49, 1000):
        assert reveal_steps(u, steps, SCHEDULES[name]).tolist() == [[steps - 1, 0]]


def test_visible_tokens_stay_under_a_denoiser_that_does_not_look(blind):
    generator = torch.Generator().manual_seed(0)
    canvas = torch.randint(4, (30, 12), generator=generator)  # ids 0 .. 2, and MASK = 3
    filled, _ = run(blind([1e-12, 1e-12, 1 - 2e-12]), canvas, *random_uniforms(30, 12), 6)
    assert torch.equal(filled, torch.where(canvas == 3, 2, canvas))


def test_every_masked_row_is_asked_for_once_and_no_other(blind):
    canvas = torch.randint(4, (10, 20), generator=torch.Generator().manual_seed(0))
    watched = Watched(blind([0.2, 0.3, 0.5]))
    filled, _ = run(watched, canvas, *random_uniforms(10, 20), 7)
    asked = torch.cat(watched.asked)
    assert (asked == 3).all()
    assert len(asked) == (canvas == 3).sum()
    assert (filled != 3).all()


def test_there_are_at_most_as_many_passes_as_steps_and_as_tokens(blind):
    for steps, most in [(1, 1), (4, 4), (1000, 3)]:
        watched = Watched(blind([0.5, 0.5]))
        run(watched, torch.full((1, 3), 2), *random_uniforms(1, 3), steps)
        assert 1 <= len(watched.asked) <= most


def test_a_text_without_masks_costs_no_pass(blind):
    watched = Watched(blind([0.5, 0.5]))
    canvas = torch.tensor([[0, 1, 1]])
    filled, taken = run(watched, canvas, *random_uniforms(1, 3), 5)
    assert (watched.asked, taken) == ([], [])
    assert torch.equal(filled, canvas)


def test_a_pass_holds_only_texts_that_reveal_something(blind):
    watched = Watched(blind([0.5, 0.5]))
    canvas = torch.tensor([[0, 2, 2]]).repeat(50, 1)  # with a prompt: no text is blank
    u, v = random_uniforms(50, 3)
    run(watched, canvas, u, v, 10)
    texts_by_step = Counter(
        step for row in reveal_steps(u, 10, LOG_LINEAR)[:, 1:].tolist() for step in set(row)
    )
    assert [len(z) for z in watched.canvases] == [n for _, n in sorted(texts_by_step.items())]


def test_a_pass_sees_what_earlier_steps_revealed(blind):
    watched = Watched(blind([0.5, 0.5]))
    u = torch.tensor([[0.9, 0.1, 0.5]], dtype=F64)
    v = torch.tensor([[0.9, 0.9, 0.1]], dtype=F64)
    run(watched, torch.full((1, 3), 2), u, v, 3)
    seen = [z.tolist() for z in watched.canvases]
    assert seen == [[[2, 2, 2]], [[1, 2, 2]], [[1, 2, 0]]]


def test_the_canvas_that_is_given_stays_as_it_is(blind):
    canvas = torch.full((2, 4), 2)
    run(blind([0.5, 0.5]), canvas, *random_uniforms(2, 4), 3)
    assert (canvas == 2).all()


def some_free(length, free, texts=5):
    """Canvases with so many free positions, anywhere."""
    order = random_uniforms(texts, length, seed=7)[0].argsort(1)
    return order < free


def revealed_by_step(free, u, steps, counts):
    when = plan_ancestral(free, u, AncestralSettings(steps, counts)).when
    assert torch.equal(when >= 0, free)
    return torch.stack([(when == step).sum(1) for step in range(steps)], 1)


@pytest.mark.parametrize(
    ("length", "free", "steps"),
    [(12, 12, 4), (12, 7, 3), (12, 7, 5), (9, 4, 6), (9, 9, 1), (100_003, 100_003, 64)],
)
def test_even_counts_are_equal_to_within_one(length, free, steps):
    u = random_uniforms(5, length)[0]
    revealed = revealed_by_step(some_free(length, free), u, steps, "even")
    assert (revealed.sum(1) == free).all()
    assert (revealed.amax(1) - revealed.amin(1) <= 1).all()


@pytest.mark.parametrize(
    ("length", "free", "steps"),
    [(12, 12, 4), (12, 7, 3), (9, 5, 9), (9, 9, 1), (100_003, 100_003, 64)],
)
def test_cosine_counts_leave_the_floor_of_the_cosine_masked(length, free, steps):
    u = random_uniforms(5, length)[0]
    revealed = revealed_by_step(some_free(length, free), u, steps, "cosine")
    left = [math.floor(free * math.cos(math.pi * k / (2 * steps))) for k in range(1, steps)]
    assert (free - revealed.cumsum(1)).tolist() == [[*left, 0]] * 5


@pytest.mark.parametrize("counts", ["even", "cosine"])
def test_fixed_counts_take_the_positions_in_the_order_of_u(counts):
    u, free = random_uniforms(5, 20)[0], some_free(20, 14)
    when = plan_ancestral(free, u, AncestralSettings(4, counts)).when
    for own_u, own_when, own_free in zip(u, when, free, strict=True):
        in_order = own_when[own_free][own_u[own_free].argsort(descending=True)]
        assert in_order.tolist() == sorted(in_order.tolist())


def test_with_fixed_counts_the_network_is_told_the_share_that_is_masked():
    free, u = some_free(12, 5), random_uniforms(5, 12)[0]
    plan = plan_ancestral(free, u, AncestralSettings(3, "even"))
    assert plan.times.tolist() == [pytest.approx([1, 0.6, 0.2])] * 5


def test_two_tokens_in_two_even_steps_have_the_joint_law():
    canvas = torch.full((20_000, 2), 3)
    texts, _ = run(TableDenoiser(TWO), canvas, *random_uniforms(20_000, 2), 2, counts="even")
    assert p_value(counts_of(texts, TWO), TWO) > LEVEL


def test_two_of_four_positions_fall_together_in_two_even_steps_one_time_in_three():
    u = random_uniforms(20_000, 4)[0]
    when = plan_ancestral(torch.ones_like(u).bool(), u, AncestralSettings(2, "even")).when
    together = (when[:, 0] == when[:, 3]).sum()
    counts = torch.stack([together, 20_000 - together])
    assert p_value(counts, torch.tensor([1 / 3, 2 / 3], dtype=F64)) > LEVEL
