import math
from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate

import pytest
import torch

from sdtt.diffusion.categorical import (
    Transform,
    draw,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
)

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


@pytest.mark.parametrize("vocabulary", [255, 256, 257, 700, 768])
def test_a_draw_from_many_tokens_is_the_inverse_distribution_function(vocabulary):
    generator = torch.Generator().manual_seed(vocabulary)
    weights = torch.randint(-3, 6, (vocabulary,), generator=generator).clamp_min(0)
    weights[vocabulary // 2] += 4096 - weights.sum()
    ends = list(accumulate(weights.tolist()))
    cells = torch.arange(4096)
    expected = [bisect_right(ends, cell) for cell in cells.tolist()]
    v = (2 * cells + 1) / 8192
    assert draw(log(*weights.tolist()).expand(4096, -1), v.double()).tolist() == expected


def test_a_draw_in_pieces_is_a_draw_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(50, 7, generator=generator)
    v = torch.rand(50, generator=generator, dtype=torch.float64)
    whole = draw(scores, v)
    monkeypatch.setattr("sdtt.diffusion.categorical.DRAWN_NUMBERS", 7 * 3 + 1)
    assert torch.equal(draw(scores, v), whole)


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


@pytest.mark.parametrize("row", [[0.0, math.nan], [0.0, math.inf], [NEVER, NEVER]])
def test_scores_that_are_no_law_are_refused_in_words(row):
    logits = torch.tensor([[0.0, 1.0], row])
    with pytest.raises(ValueError, match="scores that are no law"):
        draw(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))


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


@pytest.mark.parametrize("value", [1e-37, 1e-39, 1e-300])
def test_a_temperature_beyond_float32_leaves_the_likeliest(value):
    logits = torch.tensor([[-100.0, -99.0, -101.0, NEVER]])
    assert law_of(temperature(logits, value)) == [0.0, 1.0, 0.0, 0.0]


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


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (1, [0, 1, 0, 0]),
        (2, [0, 2 / 3, 1 / 3, 0]),
        (3, [1 / 8, 1 / 2, 1 / 4, 1 / 8]),  # a token as likely as the last one stays too
        (4, [1 / 8, 1 / 2, 1 / 4, 1 / 8]),
        (9, [1 / 8, 1 / 2, 1 / 4, 1 / 8]),
    ],
)
def test_top_k_keeps_the_likeliest_tokens(count, kept):
    assert law_of(top_k(log(1 / 8, 1 / 2, 1 / 4, 1 / 8), count)) == pytest.approx(kept)


def seen(*tokens):
    return torch.tensor([tokens])


@pytest.mark.parametrize("penalty", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("constant", [-40.0, 0.0, 40.0])
def test_a_seen_token_has_its_probability_raised_to_the_penalty(penalty, constant):
    logits = log(0.5, 0.3, 0.2) + constant
    weights = [0.5, 0.3**penalty, 0.2**penalty]
    due = [weight / sum(weights) for weight in weights]
    assert law_of(repetition_penalty(logits, seen(1, 2, 2), penalty)) == pytest.approx(due)


def test_mask_in_the_text_counts_for_nothing():
    logits = log(0.5, 0.3, 0.2)
    changed = law_of(repetition_penalty(logits, seen(3, 3, 7), 2.0))
    assert changed == pytest.approx(law_of(logits))


def test_mask_within_the_vocabulary_keeps_its_probability_of_zero():
    changed = law_of(repetition_penalty(log(0.5, 0, 0.5), seen(1, 2), 2.0))
    assert changed == pytest.approx([2 / 3, 0, 1 / 3])


def test_each_row_is_penalised_by_its_own_text():
    logits = log(0.5, 0.5).expand(2, -1)
    law = repetition_penalty(logits, torch.tensor([[0, 2], [1, 2]]), 2.0).softmax(-1)
    assert law.tolist() == [pytest.approx([1 / 3, 2 / 3]), pytest.approx([2 / 3, 1 / 3])]


def test_a_banned_token_has_no_probability_and_the_others_share_it():
    assert law_of(Transform(banned=(1, 9))(log(5, 3, 3))) == pytest.approx([5 / 8, 0, 3 / 8])


def test_a_law_of_which_all_tokens_are_banned_is_refused():
    with pytest.raises(ValueError, match="all 3 tokens of the vocabulary are banned"):
        Transform(banned=(2, 0, 1, 1))(log(5, 3, 3))


def test_the_penalty_is_taken_before_tokens_are_banned():
    # 0.2 and 0.1^2 to 1; of the law without the banned token it would be 2/3 and (1/3)^2
    changed = Transform(repetition_penalty=2.0, banned=(0,))(log(0.7, 0.2, 0.1), seen(2))
    assert law_of(changed) == pytest.approx([0, 20 / 21, 1 / 21])


def test_the_penalty_is_taken_before_the_temperature():
    # at temperature 0 the likeliest of 0.6^3 = 0.216 and 0.4
    changed = Transform(temperature=0.0, repetition_penalty=3.0)(log(0.6, 0.4), seen(0))
    assert law_of(changed) == [0, 1]


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.1}])
def test_a_banned_token_takes_no_others_place(settings):
    assert law_of(Transform(banned=(0,), **settings)(log(5, 3, 2))) == [0, 1, 0]


def test_the_nucleus_is_taken_of_the_likeliest_tokens():
    # of (4, 3) / 7 the first alone is 0.57; of all it would be 0.4
    assert law_of(Transform(top_p=0.5, top_k=2)(log(4, 3, 3 - 1e-9))) == [1, 0, 0]
    assert law_of(Transform(top_p=0.5)(log(4, 3, 3 - 1e-9))) == pytest.approx([4 / 7, 3 / 7, 0])


def test_without_a_text_nothing_is_penalised():
    logits = log(5, 3, 2)
    assert torch.equal(Transform(repetition_penalty=3.0)(logits), logits)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be above 0, got inf"),
        ({"banned": (1, -2)}, "banned ids must be at least 0, got -2"),
    ],
)
def test_an_impossible_change_of_the_law_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Transform(**settings)
