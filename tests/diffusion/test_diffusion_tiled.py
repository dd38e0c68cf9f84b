import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdtt.diffusion import tiled as module
from sdtt.diffusion.denoiser import Head
from sdtt.diffusion.divergence import DIVERGENCES, divergence_named
from sdtt.diffusion.tiled import tiled_cross_entropy, tiled_divergence

F64 = torch.float64


def scores(*shape, seed=0, scale=3.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def heads(with_bias=True):
    """A student's head and a wider teacher's, for 8 ids of which 2, 6 and 7 are excluded."""
    student = [scores(8, 3, seed=2), scores(8, seed=3) if with_bias else None]
    teacher = [scores(8, 5, seed=4), scores(8, seed=5)]
    return student, teacher


EXCLUDED = (6, 2, 7)
KEPT = [0, 1, 3, 4, 5]
TOKENS = torch.tensor([0, 5, 4, 3, 1, 0, 0, 3, 5, 4])
WEIGHTS = torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=F64)


def dense(hidden, weight, bias):
    raw = hidden @ weight.T
    return (raw if bias is None else raw + bias)[:, KEPT]


def dense_cross_entropy(hidden, weight, bias):
    log_law = dense(hidden, weight, bias).log_softmax(-1)
    columns = torch.tensor([KEPT.index(token) for token in TOKENS.tolist()])
    return -(WEIGHTS * log_law[torch.arange(10), columns]).sum()


def fresh(*tensors):
    return [x.clone().requires_grad_() for x in tensors if x is not None]


def value_and_gradients(compute, leaves, with_bias=True):
    """Of three times a loss, so that the scale of a backward pass counts."""
    loss = compute(leaves[0], leaves[1], leaves[2] if with_bias else None)
    return [loss, *torch.autograd.grad(3 * loss, leaves)]


@pytest.fixture(params=[(1, 1, 4), (4, 1, 1), (4, 3, 5), (100, 100, 100)], ids=str)
def tiles(request, monkeypatch):
    """Rows of a tile, those of it that are worked on at once, tokens multiplied by at once."""
    monkeypatch.setattr(module, "STRETCH", request.param[2])
    monkeypatch.setattr(module, "TILE_ELEMENTS", 6 * request.param[0])
    monkeypatch.setattr(module, "CACHED_ELEMENTS", 6 * request.param[1])


CASES = DIVERGENCES | {"jsd of beta 0.2": divergence_named("jsd", 0.2)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.usefixtures("tiles")
def test_the_tiled_divergence_is_the_dense_one_in_value_and_gradient(case, with_bias, temperature):
    student, teacher = heads(with_bias)
    target_hidden = scores(10, 5, seed=6)
    leaves = (scores(10, 3, seed=7), *student)
    tiled = value_and_gradients(
        lambda hidden, weight, bias: tiled_divergence(
            hidden,
            Head(weight, bias),
            target_hidden,
            Head(*teacher),
            CASES[case],
            excluded_ids=EXCLUDED,
            temperature=temperature,
            dtype=F64,
        ),
        fresh(*leaves),
        with_bias,
    )
    by_definition = value_and_gradients(
        lambda hidden, weight, bias: CASES[case](
            dense(hidden, weight, bias) / temperature, dense(target_hidden, *teacher) / temperature
        ).sum(),
        fresh(*leaves),
        with_bias,
    )
    torch.testing.assert_close(tiled, by_definition, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("tiles")
def test_the_tiled_cross_entropy_is_the_dense_one_in_value_and_gradient():
    leaves = (scores(10, 3, seed=7), *heads()[0])
    tiled = value_and_gradients(
        lambda hidden, weight, bias: tiled_cross_entropy(
            hidden, Head(weight, bias), TOKENS, WEIGHTS, excluded_ids=EXCLUDED, dtype=F64
        ),
        fresh(*leaves),
    )
    by_definition = value_and_gradients(dense_cross_entropy, fresh(*leaves))
    torch.testing.assert_close(tiled, by_definition, rtol=1e-10, atol=1e-12)


# A vocabulary of 3,001, MASK the last: 40 rows of 16 numbers, in tiles of 8


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(module, "TILE_ELEMENTS", 3000 * 8)
    monkeypatch.setattr(module, "CACHED_ELEMENTS", 3000 * 3)
    monkeypatch.setattr(module, "STRETCH", 700)
    rows, width, size = 40, 16, 3001
    student = [scores(rows, width, seed=1, scale=0.5), scores(size, width, seed=2, scale=1.0)]
    teacher = [scores(rows, width, seed=3, scale=0.5), scores(size, width, seed=4, scale=1.0)]
    return [x.float() for x in student], [x.float() for x in teacher]


def divergence_of(student, teacher, divergence, **options):
    return tiled_divergence(
        student[0],
        Head(student[1]),
        teacher[0],
        Head(teacher[1]),
        divergence,
        excluded_ids=(3000,),
        **options,
    )


def relative_error(found, exact):
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


@pytest.mark.parametrize("case", CASES)
def test_float32_agrees_with_float64_to_a_hundred_thousandth(case, large):
    found, exact = (
        value_and_gradients(
            lambda hidden, weight, _, dtype=dtype: divergence_of(
                (hidden, weight), large[1], CASES[case], dtype=dtype
            ),
            fresh(*large[0]),
            with_bias=False,
        )
        for dtype in (torch.float32, F64)
    )
    assert found[0].dtype == torch.float32
    assert max(relative_error(a, b) for a, b in zip(found, exact, strict=True)) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_products_of_bfloat16_err_by_the_rounding_of_their_operands(case, large):
    found, exact = (
        value_and_gradients(
            lambda hidden, weight, _, products=products: divergence_of(
                (hidden, weight), large[1], CASES[case], products=products
            ),
            fresh(*large[0]),
            with_bias=False,
        )
        for products in (torch.bfloat16, None)
    )
    assert [x.dtype for x in found] == [torch.float32] * 3
    assert max(relative_error(a, b) for a, b in zip(found, exact, strict=True)) < 2e-2


@pytest.mark.parametrize("stretch", [700, 4096])
def test_sums_of_bfloat16_products_are_float32(large, monkeypatch, stretch):
    # numbers that bfloat16 holds exactly: only the sums and the results could round
    monkeypatch.setattr(module, "STRETCH", stretch)
    rounded = [[x.bfloat16().float() for x in side] for side in large]
    found = divergence_of(*rounded, DIVERGENCES["reverse_kl"], products=torch.bfloat16)
    exact = divergence_of(*rounded, DIVERGENCES["reverse_kl"], dtype=F64)
    assert relative_error(found, exact) < 1e-5


def test_laws_that_hardly_differ_are_told_apart_by_bfloat16_products(large, monkeypatch):
    monkeypatch.setattr(module, "STRETCH", 4096)  # one for all, as of a small vocabulary
    student = [x.bfloat16().float() for x in large[0]]
    near = [student[0], (student[1] + 0.01 * scores(3001, 16, seed=9).float()).bfloat16().float()]
    near[1][3000] = student[1][3000]
    found, exact = (
        value_and_gradients(
            lambda hidden, weight, _, options=options: divergence_of(
                (hidden, weight), near, DIVERGENCES["reverse_kl"], **options
            ),
            fresh(*student),
            with_bias=False,
        )
        for options in ({"products": torch.bfloat16}, {"dtype": F64})
    )
    assert max(relative_error(a, b) for a, b in zip(found, exact, strict=True)) < 2e-2


def test_scores_of_a_bfloat16_network_are_compared_in_float32():
    student, teacher = heads()
    student, teacher = ([x.bfloat16() for x in pair] for pair in (student, teacher))
    hidden, target = scores(10, 3, seed=7).bfloat16(), scores(10, 5, seed=6).bfloat16()
    divergence = DIVERGENCES["reverse_kl"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tiled_divergence(
            hidden, Head(*student), target, Head(*teacher), divergence, excluded_ids=EXCLUDED
        )
    exact = divergence(
        dense(hidden.double(), *(x.double() for x in student)),
        dense(target.double(), *(x.double() for x in teacher)),
    ).sum()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_a_loss_in_bfloat16_is_still_summed_in_float32(large):
    found = divergence_of(*large, DIVERGENCES["reverse_kl"], dtype=torch.bfloat16)
    assert found.dtype == torch.float32
    exact = divergence_of(*large, DIVERGENCES["reverse_kl"], dtype=F64)
    assert relative_error(found, exact) < 2e-2


def test_gradients_have_the_dtype_of_what_they_belong_to():
    student, teacher = heads()
    leaves = fresh(scores(10, 3, seed=7).bfloat16(), student[0].float(), student[1].bfloat16())
    tiled_divergence(
        leaves[0],
        Head(*leaves[1:]),
        scores(10, 5, seed=6),
        Head(*teacher),
        DIVERGENCES["mse"],
        excluded_ids=EXCLUDED,
    ).backward()
    assert [leaf.grad.dtype for leaf in leaves] == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_the_precision_of_other_products_is_left_alone(large, monkeypatch):
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    divergence_of(*large, DIVERGENCES["tvd"], products=torch.bfloat16)
    assert setting.fp32_precision == before
    monkeypatch.setattr(module, "_slices", None)
    with pytest.raises(TypeError):
        divergence_of(*large, DIVERGENCES["tvd"], products=torch.bfloat16)
    assert setting.fp32_precision == before


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operator gives."""

    elements = 0

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize("products", [None, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_no_tensor_is_larger_than_a_tile_or_the_head(case, products, large):
    (hidden, weight), teacher = fresh(*large[0]), large[1]
    with Largest() as largest:
        divergence_of((hidden, weight), teacher, CASES[case], products=products).backward()
    assert largest.elements == max(3001 * 16, 3000 * 8)


def test_the_tiled_cross_entropy_makes_no_tensor_larger_than_a_tile_or_the_head(large):
    hidden, weight = fresh(*large[0])
    with Largest() as largest:
        loss = tiled_cross_entropy(
            hidden,
            Head(weight),
            torch.arange(40),
            torch.ones(40),
            excluded_ids=(3000,),
        )
        loss.backward()
    assert largest.elements == max(3001 * 16, 3000 * 8)


def test_no_gradient_reaches_the_teacher():
    student, teacher = heads()
    leaves = [scores(4, 5, seed=6).requires_grad_(), *(x.requires_grad_() for x in teacher)]
    hidden = scores(4, 3, seed=7).requires_grad_()
    tiled_divergence(
        hidden,
        Head(*student),
        leaves[0],
        Head(*leaves[1:]),
        DIVERGENCES["reverse_kl"],
        excluded_ids=EXCLUDED,
    ).backward()
    assert hidden.grad.abs().sum() > 0
    assert [leaf.grad for leaf in leaves] == [None] * 3


def test_a_frozen_head_changes_nothing_for_the_rows(large):
    gradients = []
    for frozen in (False, True):
        hidden, weight = fresh(*large[0])
        weight.requires_grad_(not frozen)
        divergence_of((hidden, weight), large[1], DIVERGENCES["reverse_kl"]).backward()
        gradients.append(hidden.grad)
        assert (weight.grad is None) == frozen
    assert torch.equal(*gradients)


@pytest.mark.parametrize("case", CASES)
def test_the_value_is_the_same_where_no_gradient_is_wanted(case, large):
    student = fresh(*large[0])
    with_gradient = divergence_of(student, large[1], CASES[case])
    with torch.no_grad():
        without = divergence_of(student, large[1], CASES[case])
    assert without.grad_fn is None
    torch.testing.assert_close(without, with_gradient.detach(), rtol=1e-5, atol=0)


def test_a_second_backward_pass_is_refused_in_words(large):
    loss = divergence_of(fresh(*large[0]), large[1], DIVERGENCES["reverse_kl"])
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


def test_an_infinite_loss_is_told_and_not_hidden():
    student, teacher = heads()
    teacher[1][0] = -math.inf  # a token that the student allows and the target does not
    loss = tiled_divergence(
        scores(2, 3),
        Head(*student),
        scores(2, 5),
        Head(*teacher),
        DIVERGENCES["reverse_kl"],
        excluded_ids=EXCLUDED,
    )
    assert loss.item() == math.inf


def test_no_rows_cost_nothing_and_let_a_backward_pass_through():
    student, teacher = heads()
    hidden = torch.zeros(0, 3, dtype=F64, requires_grad=True)
    losses = [
        tiled_divergence(
            hidden,
            Head(*student),
            torch.zeros(0, 5, dtype=F64),
            Head(*teacher),
            DIVERGENCES["reverse_kl"],
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
