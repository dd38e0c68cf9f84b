import math

import pytest
import torch

from sdtt.diffusion import divergence as module
from sdtt.diffusion.denoiser import Head, exclude
from sdtt.diffusion.divergence import (
    DIVERGENCES,
    forward_kl,
    jsd,
    mse,
    reverse_kl,
    tiled_cross_entropy,
    tiled_divergence,
    tvd,
)

NEVER = float("-inf")
F64 = torch.float64


def log(*law):
    return torch.tensor([law], dtype=F64).log()


def scores(*shape, seed=0, scale=3.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture(params=sorted(DIVERGENCES))
def name(request):
    return request.param


HALF, QUARTER = log(1 / 2, 1 / 2), log(1 / 4, 3 / 4)
BY_HAND = {
    "reverse_kl": math.log(2) / 2 + math.log(2 / 3) / 2,
    "forward_kl": math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4,
    "jsd": (
        (math.log(4 / 3) + math.log(4 / 5)) / 2 + (math.log(2 / 3) / 4 + 3 * math.log(6 / 5) / 4)
    )
    / 2,
    "tvd": 1 / 4,
    "mse": (math.log(2) ** 2 + math.log(2 / 3) ** 2) / 2,
}


def test_two_coins_by_hand(name):
    assert DIVERGENCES[name](HALF, QUARTER).item() == pytest.approx(BY_HAND[name], abs=1e-15)


def test_a_constant_added_to_the_scores_changes_nothing(name):
    student, target = scores(8, 5), scores(8, 5, seed=1)
    moved = DIVERGENCES[name](student + 4, target - 7)
    torch.testing.assert_close(moved, DIVERGENCES[name](student, target))


def test_a_law_does_not_differ_from_itself(name):
    student = scores(32, 9)
    value = DIVERGENCES[name](student, student + 5)
    assert value.abs().max().item() < 1e-13


def test_two_laws_that_differ_are_apart(name):
    assert (DIVERGENCES[name](scores(200, 4), scores(200, 4, seed=1)) > 1e-4).all()


def test_total_variation_is_at_most_one_and_reaches_it():
    assert tvd(scores(100, 6, scale=30), scores(100, 6, seed=1, scale=30)).max() <= 1 + 1e-15
    assert tvd(log(1, 0), log(0, 1)).item() == 1


def test_jensen_shannon_is_at_most_log_two_and_reaches_it():
    values = jsd(scores(100, 6, scale=30), scores(100, 6, seed=1, scale=30))
    assert values.max().item() <= math.log(2) + 1e-15
    assert jsd(log(1, 0), log(0, 1)).item() == pytest.approx(math.log(2), abs=1e-15)


@pytest.mark.parametrize("kl", [reverse_kl, forward_kl])
def test_pinsker(kl):
    student, target = scores(300, 5), scores(300, 5, seed=1)
    assert (kl(student, target) >= 2 * tvd(student, target) ** 2).all()


def test_forward_and_reverse_are_one_divergence_with_the_sides_exchanged():
    student, target = scores(16, 5), scores(16, 5, seed=1)
    assert torch.equal(forward_kl(student, target), reverse_kl(target, student))


@pytest.mark.parametrize("symmetric", [jsd, tvd, mse])
def test_the_others_do_not_know_sides(symmetric):
    student, target = scores(16, 5), scores(16, 5, seed=1)
    torch.testing.assert_close(symmetric(student, target), symmetric(target, student))


def with_columns(logits, columns=(1, 4)):
    """The same law with excluded ids put in between."""
    width = logits.shape[1] + len(columns)
    kept = [j for j in range(width) if j not in columns]
    return torch.full((len(logits), width), NEVER, dtype=F64).index_copy(
        1, torch.tensor(kept), logits
    )


def test_excluded_columns_add_nothing_to_value_or_gradient(name):
    target = scores(7, 4, seed=1)
    plain, wide = scores(7, 4).requires_grad_(), scores(7, 4).requires_grad_()
    values = DIVERGENCES[name](plain, target)
    values_with_columns = DIVERGENCES[name](with_columns(wide), with_columns(target))
    torch.testing.assert_close(values_with_columns, values)
    values.sum().backward()
    values_with_columns.sum().backward()
    torch.testing.assert_close(wide.grad, plain.grad)


ONLY_THE_FIRST = {
    forward_kl: math.log(2),
    # the mean of the two laws is (3/4, 1/8, 1/8)
    jsd: (math.log(2 / 3) / 2 + math.log(2) / 2 + math.log(4 / 3)) / 2,
}


@pytest.mark.parametrize("divergence", ONLY_THE_FIRST)
def test_a_token_that_only_the_student_allows_gives_a_finite_value_and_gradient(divergence):
    student = log(1 / 2, 1 / 4, 1 / 4).requires_grad_()
    value = divergence(student, log(1, 0, 0))
    assert value.item() == pytest.approx(ONLY_THE_FIRST[divergence], abs=1e-15)
    value.sum().backward()
    assert student.grad.isfinite().all()


def test_the_gradient_is_that_of_the_value(name):
    student, target = scores(3, 5), scores(3, 5, seed=1)
    assert torch.autograd.gradcheck(
        lambda q: DIVERGENCES[name](q, target), student.requires_grad_()
    )


@pytest.mark.parametrize("kl", [reverse_kl, forward_kl])
def test_the_gradient_is_right_where_both_laws_agree_on_a_token(kl):
    student, target = log(1 / 2, 1 / 4, 1 / 4), log(1 / 2, 3 / 8, 1 / 8)
    assert torch.equal(student.log_softmax(-1)[:, 0], target.log_softmax(-1)[:, 0])
    q, p = student.exp(), target.exp()
    # d KL(q || p) = q (log q / p - KL), d KL(p || q) = q - p, with respect to the scores of q
    by_hand = q * ((q / p).log() - reverse_kl(student, target)) if kl is reverse_kl else q - p
    student.requires_grad_()
    kl(student, target).sum().backward()
    torch.testing.assert_close(student.grad, by_hand, rtol=1e-13, atol=1e-15)


def heads(with_bias=True):
    """A student's head and a wider teacher's, for 8 ids of which 2, 6 and 7 are excluded."""
    student = [scores(8, 3, seed=2), scores(8, seed=3) if with_bias else None]
    teacher = [scores(8, 5, seed=4), scores(8, seed=5)]
    return student, teacher


EXCLUDED = (6, 2, 7)
KEPT = [0, 1, 3, 4, 5]


def dense(hidden, weight, bias):
    raw = hidden @ weight.T
    return (raw if bias is None else raw + bias)[:, KEPT]


@pytest.mark.parametrize("rows_a_tile", [1, 4, 100])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_tiled_divergence_is_the_dense_one_in_value_and_gradient(
    name, rows_a_tile, with_bias, monkeypatch
):
    monkeypatch.setattr(module, "TILE_ELEMENTS", 8 * rows_a_tile)
    student, teacher = heads(with_bias)
    target_hidden = scores(10, 5, seed=6)

    def value_and_gradients(compute):
        leaves = [scores(10, 3, seed=7), *(x for x in student if x is not None)]
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        loss = compute(leaves[0], leaves[1], leaves[2] if with_bias else None)
        return [loss, *torch.autograd.grad(3 * loss, leaves)]

    tiled = value_and_gradients(
        lambda hidden, weight, bias: tiled_divergence(
            hidden,
            Head(weight, bias),
            target_hidden,
            Head(*teacher),
            DIVERGENCES[name],
            excluded_ids=EXCLUDED,
            dtype=F64,
        )
    )
    by_definition = value_and_gradients(
        lambda hidden, weight, bias: DIVERGENCES[name](
            dense(hidden, weight, bias), dense(target_hidden, *teacher)
        ).sum()
    )
    torch.testing.assert_close(tiled, by_definition, rtol=1e-10, atol=1e-10)


def test_no_gradient_reaches_the_teacher(name):
    student, teacher = heads()
    leaves = [scores(4, 5, seed=6).requires_grad_(), *(x.requires_grad_() for x in teacher)]
    hidden = scores(4, 3, seed=7).requires_grad_()
    tiled_divergence(
        hidden,
        Head(*student),
        leaves[0],
        Head(*leaves[1:]),
        DIVERGENCES[name],
        excluded_ids=EXCLUDED,
    ).backward()
    assert hidden.grad.abs().sum() > 0
    assert [leaf.grad for leaf in leaves] == [None] * 3


@pytest.mark.parametrize("rows_a_tile", [1, 4, 100])
def test_the_tiled_cross_entropy_is_the_dense_one_in_value_and_gradient(rows_a_tile, monkeypatch):
    monkeypatch.setattr(module, "TILE_ELEMENTS", 8 * rows_a_tile)
    tokens = torch.tensor([0, 5, 4, 3, 1, 0, 0, 3, 5, 4])
    weights = torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=F64)
    leaves = [scores(10, 3, seed=7), *heads()[0]]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    hidden, weight, bias = leaves
    tiled = tiled_cross_entropy(
        hidden, Head(weight, bias), tokens, weights, excluded_ids=EXCLUDED, dtype=F64
    )
    log_law = dense(hidden, weight, bias).log_softmax(-1)
    columns = torch.tensor([KEPT.index(token) for token in tokens.tolist()])
    by_definition = -(weights * log_law[torch.arange(10), columns]).sum()
    torch.testing.assert_close(
        [tiled, *torch.autograd.grad(tiled, leaves)],
        [by_definition, *torch.autograd.grad(by_definition, leaves)],
        rtol=1e-10,
        atol=1e-10,
    )


def test_scores_of_a_bfloat16_network_are_compared_in_float32():
    student, teacher = heads()
    student, teacher = ([x.bfloat16() for x in pair] for pair in (student, teacher))
    hidden, target = scores(10, 3, seed=7).bfloat16(), scores(10, 5, seed=6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tiled_divergence(
            hidden, Head(*student), target, Head(*teacher), reverse_kl, excluded_ids=EXCLUDED
        )
    exact = reverse_kl(
        dense(hidden.double(), *(x.double() for x in student)),
        dense(target.double(), *(x.double() for x in teacher)),
    ).sum()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_no_rows_cost_nothing_and_let_a_backward_pass_through():
    student, teacher = heads()
    hidden = torch.zeros(0, 3, dtype=F64, requires_grad=True)
    losses = [
        tiled_divergence(
            hidden,
            Head(*student),
            torch.zeros(0, 5, dtype=F64),
            Head(*teacher),
            reverse_kl,
            excluded_ids=EXCLUDED,
        ),
        tiled_cross_entropy(
            hidden,
            Head(*student),
            torch.zeros(0, dtype=torch.long),
            torch.zeros(0),
            excluded_ids=EXCLUDED,
        ),
    ]
    for loss in losses:
        assert loss.item() == 0
        loss.backward()
    assert hidden.grad.shape == (0, 3)


def test_excluded_ids_at_the_end_are_sliced_off_and_others_never_are_drawn():
    raw = torch.arange(8.0).expand(2, -1)
    assert exclude(raw, EXCLUDED)[0].tolist() == [0, 1, NEVER, 3, 4, 5]
    assert torch.equal(exclude(raw, (7,)), raw[:, :7])
    assert torch.equal(exclude(raw, ()), raw)


def test_an_excluded_id_beyond_256_keeps_its_column_in_bfloat16():
    scores = torch.zeros(1, 1030, dtype=torch.bfloat16)
    assert exclude(scores, (1023,)).isneginf().nonzero().tolist() == [[0, 1023]]
