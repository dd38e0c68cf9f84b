from itertools import product

import pytest
import torch

from sdtt.diffusion.denoiser import Denoiser
from sdtt.models.exact import MarkovDenoiser, TableDenoiser


def random_law(*shape, seed=0):
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
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


def law_of_chain(chain):
    texts = torch.tensor(list(product(range(chain.vocabulary), repeat=chain.length)))
    return chain.log_prob(texts).exp().view([chain.vocabulary] * chain.length)


def conditional_by_hand(law, z, position):
    """p(x_position | other visible tokens of z), by a plain loop over all texts."""
    vocabulary = law.shape[0]
    total = [0.0] * vocabulary
    for x in product(range(vocabulary), repeat=law.dim()):
        others = (i for i in range(law.dim()) if i != position)
        if all(z[i] in (vocabulary, x[i]) for i in others):
            total[x[position]] += law[x].item()
    return torch.tensor(total, dtype=torch.float64) / sum(total)


@pytest.mark.parametrize("build", [table, markov])
def test_an_exact_denoiser_is_a_denoiser(build):
    assert isinstance(build(3, 4), Denoiser)


def test_table_conditionals_are_sums_over_all_texts_for_every_canvas():
    denoiser = table(2, 3)
    canvases = list(product(range(3), repeat=3))
    law = denoiser.logits(denoiser.hidden(torch.tensor(canvases))).exp().view(-1, 3, 2)
    by_hand = torch.stack(
        [torch.stack([conditional_by_hand(denoiser.law, z, i) for i in range(3)]) for z in canvases]
    )
    torch.testing.assert_close(law, by_hand, rtol=1e-12, atol=0)


def test_markov_conditionals_are_those_of_its_table_for_every_canvas():
    chain = markov(3, 4)
    as_table = TableDenoiser(law_of_chain(chain))
    canvases = torch.tensor(list(product(range(4), repeat=4)))
    torch.testing.assert_close(
        chain.hidden(canvases), as_table.hidden(canvases), rtol=1e-10, atol=1e-12
    )


def test_markov_log_prob_is_that_of_a_law():
    assert law_of_chain(markov(3, 4)).sum().item() == pytest.approx(1, abs=1e-12)


def test_markov_entropy_is_that_of_its_table():
    chain = markov(3, 4)
    assert chain.entropy == pytest.approx(TableDenoiser(law_of_chain(chain)).entropy, abs=1e-12)


def test_a_chain_of_a_thousand_tokens_still_gives_laws():
    chain = markov(3, 1000)
    z = torch.full((1, 1000), 3)
    z[0, [3, 500]] = 1
    sums = chain.hidden(z).exp().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-12)


def test_the_product_of_conditionals_in_any_order_is_the_joint_law():
    denoiser = table(3, 3, seed=5)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        for x in product(range(3), repeat=3):
            z, total = torch.full((1, 3), 3), 0.0
            for i in order:
                total += denoiser.hidden(z, torch.tensor([i]))[0, x[i]].item()
                z[0, i] = x[i]
            assert total == pytest.approx(denoiser.log_prob(torch.tensor([x])).item(), abs=1e-12)


@pytest.mark.parametrize("build", [table, markov])
def test_rows_select_rows_of_the_whole(build):
    denoiser = build(3, 4)
    z = torch.randint(4, (5, 4), generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([17, 3, 8, 3])
    assert torch.equal(denoiser.hidden(z, rows), denoiser.hidden(z)[rows])


@pytest.mark.parametrize("build", [table, markov])
def test_the_head_has_a_row_for_mask_and_logits_slice_it_off(build):
    denoiser = build(3, 4)
    z = torch.full((1, 4), 3)
    assert denoiser.head.weight.shape == (4, 3)
    assert torch.equal(denoiser.logits(denoiser.hidden(z)), denoiser.hidden(z))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TableDenoiser(torch.ones(2, 3).double() / 6), "equal size"),
        (lambda: TableDenoiser(torch.ones(2, 2).double()), "sum to 1"),
        (lambda: TableDenoiser(torch.eye(2).double() / 2), "positive"),
        (lambda: MarkovDenoiser(torch.ones(2).double() / 2, torch.eye(2).double(), 3), "positive"),
        (lambda: markov(2, 0), "at least 1"),
        (lambda: table(2, 3).hidden(torch.zeros(1, 4, dtype=torch.long)), "3 tokens, got 4"),
    ],
)
def test_what_is_no_law_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
