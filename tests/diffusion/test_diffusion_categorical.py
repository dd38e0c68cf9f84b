import math
from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate

import pytest
import torch

from sdtt.diffusion.categorical import Transform, draw, temperature, top_p

NEVER = float("-inf")
ALMOST_ONE = 1 - 2.0**-53


def log(*law):
    return torch.tensor([law], dtype=torch.float64).log()


def law_of(logits):
    return logits.softmax(-1)[0].tolist()


def test_a_draw_is_the_inverse_distribution_function():
    weights = [3, 40, 0, 1, 20]  # of 64; v in the middles of 640 equal cells
    levels = [Fraction(2 * k + 1, 1280) for k in range(640)]
    ends = list(accumulate(Fraction(w, 64) for w in weights))
    expected = [bisect_right(ends, v) for v in levels]
    v = torch.tensor([float(level) for level in levels], dtype=torch.float64)
    assert draw(log(*weights).expand(640, -1), v).tolist() == expected


def test_raw_scores_draw_as_their_normalised_law():
    v = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = torch.randn(200, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(draw(scores + 30, v), draw(scores.log_softmax(-1), v))


def test_v_of_zero_takes_the_first_token_that_can_be():
    assert draw(log(0, 0, 1, 2, 0), torch.zeros(1, dtype=torch.float64)).item() == 2


def test_v_just_below_one_takes_the_last_token_that_can_be():
    v = torch.full((1,), ALMOST_ONE, dtype=torch.float64)
    assert draw(log(0, 3, 1, 0, 0), v).item() == 2


def test_v_just_below_one_stays_inside_a_large_vocabulary():
    scores = torch.randn(20, 50_257, generator=torch.Generator().manual_seed(0))
    v = torch.full((20,), ALMOST_ONE, dtype=torch.float64)
    assert (draw(scores, v) == 50_256).all()


def test_a_token_of_probability_zero_is_never_drawn():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2_000, 12, generator=generator)
    scores[torch.rand(2_000, 12, generator=generator) < 0.7] = NEVER
    scores[:, 4] = 0.0
    v = torch.rand(2_000, generator=generator, dtype=torch.float64)
    v[:500], v[500:1000] = 0, ALMOST_ONE
    drawn = scores.gather(1, draw(scores, v)[:, None])
    assert drawn.isfinite().all()


def test_a_token_of_chance_one_in_a_billion_has_its_interval():
    rare = 2.0**-30  # float32 cannot hold 1 - 2^-30
    v = torch.tensor([1 - 1.5 * rare, 1 - 0.5 * rare], dtype=torch.float64)
    assert draw(log(1 - rare, rare).expand(2, -1), v).tolist() == [0, 1]


def test_float32_scores_are_drawn_in_float64():
    rare = 2.0**-30
    scores = torch.tensor([[0.0, math.log(rare)]], dtype=torch.float32)
    v = torch.tensor([1 - 0.5 * rare], dtype=torch.float64)
    assert draw(scores, v).item() == 1


def test_draws_from_a_flat_law_collide_as_often_as_they_should():
    vocabulary, n, part = 50_000, 1_200, 200
    v = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = torch.zeros(1, vocabulary).expand(part, -1)
    tokens = torch.cat([draw(flat, level) for level in v.split(part)])
    _, counts = tokens.unique(return_counts=True)
    collisions = (counts * (counts - 1) / 2).sum().item()
    due = n * (n - 1) / 2 / vocabulary  # 14.4, Poisson; truncated noise gives several times that
    assert abs(collisions - due) < 4 * math.sqrt(due)


def test_temperature_raises_the_law_to_a_power():
    assert law_of(temperature(log(2, 1, 1), 0.5)) == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    assert law_of(temperature(log(64, 36), 2.0)) == pytest.approx([8 / 14, 6 / 14])


def test_temperature_zero_shares_all_mass_among_the_likeliest():
    assert law_of(temperature(log(0.1, 0.4, 0.4, 0.1), 0.0)) == [0, 0.5, 0.5, 0]


def test_temperature_keeps_what_cannot_be():
    assert law_of(temperature(log(1, 0, 3), 0.5)) == pytest.approx([0.1, 0, 0.9])


@pytest.mark.parametrize(
    ("mass", "kept"),
    [
        (0.4, [0, 1, 0, 0]),
        (0.5, [0, 1, 0, 0]),
        (0.51, [0, 2 / 3, 1 / 3, 0]),  # the token that crosses the mass stays
        (0.75, [0, 2 / 3, 1 / 3, 0]),
        (0.76, [1 / 7, 4 / 7, 2 / 7, 0]),  # of two equal tokens the first
        (0.99, [1 / 8, 1 / 2, 1 / 4, 1 / 8]),
    ],
)
def test_top_p_keeps_the_fewest_tokens_that_reach_the_mass(mass, kept):
    assert law_of(top_p(log(1 / 8, 1 / 2, 1 / 4, 1 / 8), mass)) == pytest.approx(kept)


def test_top_p_always_keeps_the_likeliest_token():
    assert law_of(top_p(log(0.3, 0.4, 0.3), 1e-9)) == [0, 1, 0]


def test_the_nucleus_is_taken_of_the_tempered_law():
    # squared and normalised (25, 9, 4) / 38: the first alone is 0.658
    assert law_of(Transform(0.5, 0.65)(log(5, 3, 2))) == [1, 0, 0]
    assert law_of(Transform(1.0, 0.65)(log(5, 3, 2))) == pytest.approx([5 / 8, 3 / 8, 0])


def test_no_change_is_asked_for_and_none_is_made():
    logits = log(5, 3, 2)
    assert torch.equal(Transform()(logits), logits)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_an_impossible_temperature_is_refused(value):
    with pytest.raises(ValueError, match="temperature must be a finite number of at least 0"):
        Transform(value, 1.0)


@pytest.mark.parametrize("mass", [0.0, -1.0, 1.1, float("nan")])
def test_an_impossible_nucleus_is_refused(mass):
    with pytest.raises(ValueError, match="top_p must lie in"):
        Transform(1.0, mass)
