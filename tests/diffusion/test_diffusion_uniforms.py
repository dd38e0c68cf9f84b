import math
from itertools import combinations

import pytest
import torch

from sdtt.diffusion.uniforms import permutation, uniforms


def test_a_row_is_a_function_of_its_name_alone():
    together = uniforms(7, "mask", [(3, 0), (3, 1), (4, 0)], 16)
    alone = [uniforms(7, "mask", [name], 16)[0] for name in [(4, 0), (3, 0), (3, 1)]]
    assert torch.equal(together, torch.stack([alone[1], alone[2], alone[0]]))


def test_torchs_own_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), uniforms(0, "a", [0], 4)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, uniforms(0, "a", [0], 4))


def test_rows_of_different_names_are_independent():
    n = 20_000
    names = [(0, "a", (1, 1)), (1, "a", (1, 1)), (0, "b", (1, 1)), (0, "a", (1, 2)), (0, "a", 11)]
    names += [(0, "a", (11,) * 2), (0, "a", (1, 11)), (0, "a", 1)]
    rows = torch.cat([uniforms(seed, purpose, [index], n) for seed, purpose, index in names])
    correlation = torch.corrcoef(rows)
    # 28 pairs: 4.5 standard deviations leave a chance of 2e-4 to be wrong
    worst = max(correlation[i, j].abs().item() for i, j in combinations(range(len(names)), 2))
    assert worst < 4.5 / math.sqrt(n)


def test_neighbouring_numbers_of_a_row_are_independent():
    row = uniforms(0, "a", [0], 20_001)[0]
    lagged = torch.corrcoef(torch.stack([row[1:], row[:-1]]))[0, 1]
    assert abs(lagged.item()) < 4 / math.sqrt(20_000)


def test_a_longer_row_begins_with_the_shorter_one():
    assert torch.equal(uniforms(0, "a", [5], 100)[:, :17], uniforms(0, "a", [5], 17))


def test_every_one_of_53_bits_is_fair():
    n = 20_000
    scaled = (uniforms(0, "bits", [0], n)[0] * 2.0**53).to(torch.int64)
    assert torch.equal(scaled.double() / 2.0**53, uniforms(0, "bits", [0], n)[0])
    ones = torch.stack([(scaled >> bit) & 1 for bit in range(53)]).sum(1)
    # 53 comparisons: 4.5 standard deviations leave a chance of 4e-4
    assert (ones - n / 2).abs().max().item() < 4.5 * math.sqrt(n) / 2


def test_uniforms_lie_in_zero_to_one_without_one():
    u = uniforms(0, "range", range(4), 50_000)
    assert u.min().item() >= 0
    assert u.max().item() < 1


def test_uniforms_are_uniform():
    u = uniforms(0, "range", range(40), 500).flatten()
    counts = torch.histc(u, bins=50, min=0, max=1)
    chi_square = ((counts - 400) ** 2 / 400).sum()
    p_value = torch.special.gammaincc(torch.tensor(49 / 2), chi_square / 2)
    assert p_value > 1e-3


def test_no_names_give_no_rows():
    assert uniforms(0, "a", [], 3).shape == (0, 3)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_permutation_holds_every_number_once(size):
    assert permutation(0, "order", 3, size).sort().values.tolist() == list(range(size))


def test_every_order_of_three_is_as_likely():
    orders = torch.stack([permutation(0, "order", index, 3) for index in range(3_000)])
    _, counts = orders.unique(dim=0, return_counts=True)
    chi_square = ((counts - 500.0) ** 2 / 500).sum()
    assert len(counts) == 6
    assert torch.special.gammaincc(torch.tensor(2.5), chi_square / 2) > 1e-3
