from itertools import pairwise

import pytest
import torch
from sampling.laws import F64, OfPlace, random_uniforms, run

from sdtt.diffusion.categorical import Transform
from sdtt.models.exact import MarkovDenoiser
from sdtt.sampling.confidence import ConfidenceSettings, margin
from sdtt.sampling.reveal import rank_of_free

# position: largest probability | margin | entropy in nats
LAWS = [
    [0.55, 0.44, 0.01],  # 0: 0.55 | 0.11 | 0.736
    [0.50, 0.25, 0.25],  # 1: 0.50 | 0.25 | 1.040
    [0.60, 0.20, 0.20],  # 2: 0.60 | 0.40 | 0.950
    [0.52, 0.40, 0.08],  # 3: 0.52 | 0.12 | 0.909
]
SUREST_FIRST = {
    "probability": [2, 0, 3, 1],
    "margin": [2, 1, 3, 0],
    "entropy": [0, 3, 2, 1],
}


def revealed(texts=1, *, u=None, transform=None, **settings):
    """The positions that each step reveals, on an empty canvas of four."""
    drawn, v = random_uniforms(texts, 4)
    canvas = torch.full((texts, 4), 3)
    _, taken = run(
        "confidence", OfPlace(LAWS), canvas, drawn if u is None else u, v,
        transform=transform or Transform(), **settings,
    )  # fmt: skip
    return [sorted((step.rows % 4).tolist()) for step in taken]


def chain(length=12):
    transition = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], dtype=F64)
    return MarkovDenoiser(torch.tensor([0.5, 0.3, 0.2], dtype=F64), transition, length)


def some_canvas(texts=20, length=12, free=0.7):
    """Canvases with MASK anywhere, other tokens 0 .. 2."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, (texts, length), generator=generator)
    return tokens.masked_fill(torch.rand(texts, length, generator=generator) < free, 3)


def steps_of(canvas, u, v, **settings):
    """The step that reveals each position; -1 where nothing is wanted."""
    filled, taken = run("confidence", chain(canvas.shape[1]), canvas, u, v, **settings)
    when = torch.full(canvas.shape, -1).flatten()
    for step in taken:
        assert (when[step.rows] == -1).all()
        when[step.rows] = step.index
    assert (filled != 3).all()
    assert torch.equal(when.view_as(canvas) >= 0, canvas == 3)
    return when.view_as(canvas)


@pytest.mark.parametrize("score", sorted(SUREST_FIRST))
def test_high_takes_the_surest_first(score):
    assert revealed(steps=4, score=score) == [[i] for i in SUREST_FIRST[score]]


@pytest.mark.parametrize("score", sorted(SUREST_FIRST))
def test_low_takes_the_least_sure_first(score):
    assert revealed(steps=4, score=score, order="low") == [[i] for i in SUREST_FIRST[score][::-1]]


def test_random_takes_the_largest_u_first():
    u = torch.tensor([[0.3, 0.9, 0.1, 0.5]], dtype=F64)
    assert revealed(u=u, steps=4, order="random") == [[1], [3], [0], [2]]


def test_the_score_is_of_the_law_without_what_is_banned():
    # without token 0 the likeliest have 0.98, 0.5, 0.5 and 0.83; of equal ones the first comes
    assert revealed(steps=4, transform=Transform(banned=(0,))) == [[0], [3], [1], [2]]


@pytest.mark.parametrize("sharp", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}])
@pytest.mark.parametrize("score", sorted(SUREST_FIRST))
def test_a_sharper_law_is_no_surer_one(score, sharp):
    assert revealed(steps=4, score=score, transform=Transform(**sharp)) == [
        [i] for i in SUREST_FIRST[score]
    ]
    bound = {"threshold": 0.54} if score == "probability" else {"entropy_bound": 0.74}
    plain = revealed(score=score, **bound)
    assert revealed(score=score, transform=Transform(**sharp), **bound) == plain


def test_the_margin_of_a_law_of_one_token_is_its_probability():
    assert margin(torch.ones(3, 1, dtype=F64)).tolist() == [1.0, 1.0, 1.0]


def test_a_threshold_takes_all_that_reach_it_and_else_the_best():
    assert revealed(threshold=0.54) == [[0, 2], [3], [1]]
    assert revealed(threshold=0.52) == [[0, 2, 3], [1]]  # 0.52 itself reaches it
    assert revealed(threshold=2.0) == [[2], [0], [3], [1]]
    assert revealed(threshold=0.0) == [[0, 1, 2, 3]]


def test_a_threshold_is_of_the_chosen_score():
    assert revealed(threshold=0.2, score="margin") == [[1, 2], [3], [0]]
    assert revealed(threshold=-0.92, score="entropy") == [[0, 3], [2], [1]]


def test_an_entropy_bound_takes_least_entropies_whose_sum_without_the_largest_is_within_it():
    assert revealed(entropy_bound=0.0, score="entropy") == [[0], [3], [2], [1]]
    assert revealed(entropy_bound=0.73, score="entropy") == [[0], [3], [2], [1]]
    assert revealed(entropy_bound=0.74, score="entropy") == [[0, 3], [2], [1]]
    assert revealed(entropy_bound=1.64, score="entropy") == [
        [0, 3],
        [1, 2],
    ]  # 0.736 + 0.909 = 1.645
    assert revealed(entropy_bound=1.65, score="entropy") == [[0, 2, 3], [1]]
    assert revealed(entropy_bound=9.0, score="entropy") == [[0, 1, 2, 3]]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 12])
def test_steps_reveal_equal_numbers_to_within_one_and_fill_the_canvas(steps):
    canvas = torch.full((20, 12), 3)
    when = steps_of(canvas, *random_uniforms(20, 12), steps=steps)
    counts = torch.stack([(when == step).sum(1) for step in range(steps)])
    assert (counts.sum(0) == 12).all()
    assert counts.max() - counts.min() <= 1


def test_more_steps_than_positions_take_a_position_each():
    canvas = some_canvas()
    when = steps_of(canvas, *random_uniforms(20, 12), steps=40)
    for row, free in zip(when, canvas == 3, strict=True):
        assert sorted(row[free].tolist()) == list(range(int(free.sum())))


@pytest.mark.parametrize("way", [{"steps": 12}, {"threshold": 0.6}, {"entropy_bound": 0.5}])
@pytest.mark.parametrize("block_length", [1, 3, 4, 50])
def test_blocks_fill_from_the_left(block_length, way):
    canvas = some_canvas()
    when = steps_of(canvas, *random_uniforms(20, 12), block_length=block_length, **way)
    block = rank_of_free(canvas == 3) // block_length
    for row, own, free in zip(when, block, canvas == 3, strict=True):
        spans = [row[free & (own == number)] for number in own[free].unique()]
        assert all(a.max() < b.min() for a, b in pairwise(spans))


def test_steps_are_shared_among_the_blocks():
    canvas = torch.full((20, 12), 3)
    when = steps_of(canvas, *random_uniforms(20, 12), steps=8, block_length=4)
    spans = [when[:, first : first + 4] for first in (0, 4, 8)]
    assert [sorted(set(span.flatten().tolist())) for span in spans] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7],
    ]


def test_without_blocks_the_surest_of_all_comes_first():
    assert revealed(steps=4, block_length=2) == [[0], [1], [2], [3]]
    assert revealed(steps=4, block_length=4) == [[2], [0], [3], [1]]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 12])
def test_random_order_gives_the_ancestral_text_of_even_counts(steps):
    canvas, (u, v) = torch.full((40, 12), 3), random_uniforms(40, 12)
    texts, _ = run("confidence", chain(), canvas, u, v, steps=steps, order="random")
    ancestral, _ = run("ancestral", chain(), canvas, u, v, steps=steps, counts="even")
    assert torch.equal(texts, ancestral)


@pytest.mark.parametrize("dilation", [1, 2, 4, 5, 30])
def test_positions_of_a_step_have_equal_ranks_modulo_the_dilation(dilation):
    canvas = some_canvas()
    when = steps_of(canvas, *random_uniforms(20, 12), threshold=0.55, dilation=dilation)
    rank = rank_of_free(canvas == 3)
    for row, own in zip(when, rank, strict=True):
        for step in range(int(row.max()) + 1):
            assert len((own[row == step] % dilation).unique()) == 1


def test_with_steps_only_the_last_one_may_leave_the_dilation():
    canvas = some_canvas()
    when = steps_of(canvas, *random_uniforms(20, 12), steps=5, dilation=3)
    assert when.max() <= 4
    rank = rank_of_free(canvas == 3)
    for row, own in zip(when, rank, strict=True):
        for step in range(4):
            assert len((own[row == step] % 3).unique()) <= 1


@pytest.mark.parametrize("steps", [1, 3, 5, 30])
def test_a_residue_a_step_is_the_dilated_text(steps):
    canvas, (u, v) = some_canvas(), random_uniforms(20, 12)
    texts, _ = run("confidence", chain(), canvas, u, v, threshold=0.0, dilation=steps)
    assert torch.equal(texts, run("dilated", chain(), canvas, u, v, steps=steps)[0])


def test_residues_take_turns():
    canvas = torch.full((20, 12), 3)
    when = steps_of(canvas, *random_uniforms(20, 12), threshold=2.0, dilation=3)
    residue = when.argsort(1) % 3  # of one position after another
    assert torch.equal(residue[:, 3:], residue[:, :-3])
    assert len(residue[:, :3].unique(dim=0)) == 6


def test_noise_on_the_scores_changes_the_order():
    u = torch.tensor([[0.3, 0.9, 0.1, 0.5]], dtype=F64)  # Gumbel -0.19, 2.25, -0.83, 0.37
    assert revealed(u=u, steps=4, order_temperature=0.01) == [[2], [0], [3], [1]]
    # 0.49 + 0.06, 0.50 + 0.225, 0.60 - 0.083, 0.52 + 0.037
    assert revealed(u=u, steps=4, order_temperature=0.1) == [[1], [3], [0], [2]]


def test_noise_alone_is_the_random_order():
    canvas, (u, v) = torch.full((40, 12), 3), random_uniforms(40, 12)
    texts, _ = run("confidence", chain(), canvas, u, v, steps=4, order_temperature=1e9)
    assert torch.equal(texts, run("confidence", chain(), canvas, u, v, steps=4, order="random")[0])


def test_small_noise_leaves_the_order_to_the_scores():
    canvas, (u, v) = torch.full((40, 12), 3), random_uniforms(40, 12)
    quiet, _ = run("confidence", chain(), canvas, u, v, steps=4)
    small, _ = run("confidence", chain(), canvas, u, v, steps=4, order_temperature=1e-12)
    assert (quiet == small).all(1).double().mean() > 0.9
    assert not torch.equal(quiet, run("confidence", chain(), canvas, u, v, steps=4, order="low")[0])


def test_the_network_is_told_the_share_that_is_masked():
    canvas = torch.full((2, 4), 3)
    canvas[1, :2] = 0
    _, taken = run("confidence", OfPlace(LAWS), canvas, *random_uniforms(2, 4), steps=2)
    assert [step.t.tolist() for step in taken] == [[1, 1], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "exactly one of steps, threshold and entropy_bound, got none"),
        ({"steps": 3, "threshold": 0.9}, "exactly one of .*, got steps, threshold"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"entropy_bound": -0.1}, "entropy_bound must be at least 0 nats, got -0.1"),
        ({"entropy_bound": float("nan")}, "entropy_bound must be at least 0 nats, got nan"),
        ({"steps": 3, "order_temperature": -1.0}, "order_temperature must be at least 0, got -1.0"),
        ({"threshold": 0.9, "order": "low"}, "threshold takes the surest positions"),
        ({"entropy_bound": 1.0, "order_temperature": 0.5}, "entropy_bound takes the surest"),
        ({"steps": 3, "block_length": 0}, "block_length must be at least 1, got 0"),
        ({"steps": 3, "dilation": 0}, "dilation must be at least 1, got 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        ConfidenceSettings(**settings)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("score", "unknown score 'best'; there are probability, margin, entropy"),
        ("order", "unknown order 'best'; there are high, low, random"),
    ],
)
def test_an_unknown_name_is_refused(name, says):
    settings = ConfidenceSettings(steps=3)
    object.__setattr__(settings, name, "best")  # the types, checked here, would not let it in
    with pytest.raises(ValueError, match=says):
        settings.__post_init__()


def test_fewer_steps_than_blocks_are_refused():
    with pytest.raises(ValueError, match="2 steps are fewer than the 4 blocks of 1 positions"):
        revealed(steps=2, block_length=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 4, "dilation": 8}, "positions 8 apart take as many steps .* there are 4"),
        ({"steps": 6, "dilation": 3, "block_length": 4}, "positions 3 apart .* there are 2"),
    ],
)
def test_fewer_steps_than_the_dilation_are_refused(settings, says):
    canvas = torch.full((2, 12), 3)
    with pytest.raises(ValueError, match=says):
        run("confidence", chain(), canvas, *random_uniforms(2, 12), **settings)


def test_a_text_with_few_places_takes_any_dilation():
    canvas = torch.tensor([[0, 3, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0]])
    texts, taken = run("confidence", chain(), canvas, *random_uniforms(1, 12), steps=4, dilation=8)
    assert (texts != 3).all()
    assert len(taken) <= 4


def test_an_entropy_bound_takes_positions_in_the_order_of_the_score():
    assert revealed(entropy_bound=0.0) == [[2], [0], [3], [1]]  # by probability
