import math

import pytest
import torch

from sdtt.diffusion.denoiser import exclude
from sdtt.diffusion.divergence import (
    DIVERGENCES,
    divergence_named,
    forward_kl,
    jsd,
    mse,
    reverse_kl,
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


BETAS = (0.1, 0.5, 0.8)


def every_divergence():
    """Those with a name, and the generalised Jensen-Shannon."""
    yield from DIVERGENCES.items()
    yield from ((f"jsd {beta}", divergence_named("jsd", beta)) for beta in BETAS)


CASES = dict(every_divergence())


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_written_out_is_that_of_the_definition(case):
    divergence = CASES[case]
    student, target = scores(9, 6).requires_grad_(), scores(9, 6, seed=1)
    value = divergence(student, target)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    log_q, log_p = student.detach().log_softmax(-1), target.log_softmax(-1)
    found = divergence.with_gradient(log_q, log_p)
    torch.testing.assert_close(found, (value.detach(), gradient), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("beta", BETAS)
def test_the_gradient_of_probabilities_below_the_least_normal_number_is_finite(beta):
    logits = [[0.0, -103.5, -1.0]], [[0.0, -110.0, -1.1]]  # float32 has e^-103.5, half of it not
    student, target = (torch.tensor(rows).log_softmax(-1) for rows in logits)
    value, gradient = divergence_named("jsd", beta).with_gradient(student, target)
    exact = divergence_named("jsd", beta).with_gradient(student.double(), target.double())
    torch.testing.assert_close((value.double(), gradient.double()), exact, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_written_out_leaves_its_arguments_as_they_were(case):
    log_q, log_p = scores(3, 6).log_softmax(-1), scores(3, 6, seed=1).log_softmax(-1)
    before = log_q.clone(), log_p.clone()
    CASES[case].with_gradient(log_q, log_p)
    assert torch.equal(log_q, before[0])
    assert torch.equal(log_p, before[1])


@pytest.mark.parametrize("case", CASES)
def test_tokens_that_neither_law_allows_add_nothing_to_the_gradient_written_out(case):
    log_q, log_p = scores(5, 4).log_softmax(-1), scores(5, 4, seed=1).log_softmax(-1)
    value, gradient = CASES[case].with_gradient(log_q, log_p)
    wide = CASES[case].with_gradient(with_columns(log_q), with_columns(log_p))
    torch.testing.assert_close(wide[0], value)
    torch.testing.assert_close(wide[1][:, [0, 2, 3, 5]], gradient)
    assert (wide[1][:, [1, 4]] == 0).all()


@pytest.mark.parametrize("case", ["forward_kl", "tvd", *(f"jsd {beta}" for beta in BETAS)])
def test_a_token_that_only_the_student_allows_has_its_gradient_written_out_too(case):
    student, target = log(1 / 2, 1 / 4, 1 / 4).requires_grad_(), log(1, 0, 0)
    value = CASES[case](student, target)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    found = CASES[case].with_gradient(student.detach(), target)
    torch.testing.assert_close(found, (value.detach(), gradient))


def test_a_token_that_only_the_student_allows_makes_the_reverse_divergence_infinite():
    value, _ = DIVERGENCES["reverse_kl"].with_gradient(log(1 / 2, 1 / 2), log(1, 0))
    assert value.item() == math.inf


def test_the_generalised_jensen_shannon_divergence_tends_to_both_kullback_leiblers():
    student, target = scores(20, 5, scale=0.5), scores(20, 5, seed=1, scale=0.5)
    near = 1e-7
    forward = divergence_named("jsd", near)(student, target) / near
    reverse = divergence_named("jsd", 1 - near)(student, target) / near
    torch.testing.assert_close(forward, forward_kl(student, target), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(reverse, reverse_kl(student, target), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 2.0])
def test_a_beta_outside_its_range_is_refused_with_the_way_out(beta):
    with pytest.raises(ValueError, match=rf"\(0, 1\), got {beta}; .*forward_kl .*reverse_kl"):
        divergence_named("jsd", beta)


def test_an_unknown_divergence_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"'wasserstein'.*reverse_kl, forward_kl, jsd, tvd, mse"):
        divergence_named("wasserstein")


EXCLUDED = (6, 2, 7)


def test_excluded_ids_at_the_end_are_sliced_off_and_others_never_are_drawn():
    raw = torch.arange(8.0).expand(2, -1)
    assert exclude(raw, EXCLUDED)[0].tolist() == [0, 1, NEVER, 3, 4, 5]
    assert torch.equal(exclude(raw, (7,)), raw[:, :7])
    assert torch.equal(exclude(raw, ()), raw)


def test_an_excluded_id_beyond_256_keeps_its_column_in_bfloat16():
    scores = torch.zeros(1, 1030, dtype=torch.bfloat16)
    assert exclude(scores, (1023,)).isneginf().nonzero().tolist() == [[0, 1023]]
