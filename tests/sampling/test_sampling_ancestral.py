import math
from collections import Counter
from itertools import product

import pytest
import torch

from sdtt.diffusion.categorical import Transform
from sdtt.diffusion.noise import SCHEDULES, grid
from sdtt.models.exact import MarkovDenoiser, TableDenoiser
from sdtt.sampling.ancestral import AncestralSettings, ancestral, reveal_steps

F64 = torch.float64
LOG_LINEAR = SCHEDULES["log_linear"]
# chi-square tests of this file; each at the level 0.005 / their number
LEVEL = 0.005 / 9


def random_uniforms(count, length, seed=0):
    return torch.rand(2, count, length, generator=torch.Generator().manual_seed(seed), dtype=F64)


def run(denoiser, z, u, v, steps, schedule="log_linear", counts="process"):
    """The filled canvas and the steps that filled it."""
    settings = AncestralSettings(steps, counts, schedule)
    taken = list(ancestral(denoiser, z, settings, u, v, transform=Transform()))
    filled = z.flatten().clone()
    for step in taken:
        filled[step.rows] = step.tokens
    return filled.view_as(z), taken


def p_value(counts, law):
    due = law.flatten() * counts.sum()
    chi_square = ((counts - due) ** 2 / due).sum()
    degrees = torch.tensor((len(due) - 1) / 2, dtype=F64)
    return torch.special.gammaincc(degrees, chi_square.double() / 2).item()


def counts_of(texts, law):
    index = torch.zeros(len(texts), dtype=torch.long)
    for column in texts.unbind(1):
        index = index * law.shape[0] + column
    return torch.bincount(index, minlength=law.numel())


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
    mask_id, length = denoiser.mask_token_id, denoiser.length
    canvases = torch.tensor(list(product(range(mask_id + 1), repeat=length)))
    every = denoiser.hidden(canvases).exp().view(*[mask_id + 1] * length, length, mask_id)
    chances = -schedule.alpha(grid(steps).flip(0)).diff().flip(0)  # of each step, T of them
    law = torch.zeros_like(denoiser.law)
    for assigned in product(range(steps), repeat=length):
        chance = math.prod(chances[step].item() for step in assigned)
        for x in product(range(mask_id), repeat=length):
            p = chance
            for i, step in enumerate(assigned):
                z = [x[j] if assigned[j] < step else mask_id for j in range(length)]
                p *= every[(*z, i, x[i])].item()
            law[x] += p
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
    step = next(ancestral(flat, canvas, settings, u, v, transform=Transform()))
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


class Watched:
    """A denoiser that writes down each canvas that it sees and each row that it is asked for."""

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.mask_token_id, self.excluded_ids = denoiser.mask_token_id, denoiser.excluded_ids
        self.head, self.logits = denoiser.head, denoiser.logits
        self.canvases, self.asked = [], []

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):
        self.canvases.append(z.clone())
        self.asked.append(z.flatten()[rows])
        return self.denoiser.hidden(z, rows, attention_mask=attention_mask, t=t)


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
