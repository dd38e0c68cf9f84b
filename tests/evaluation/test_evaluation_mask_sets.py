from math import comb, factorial

import pytest
import torch

from sdtt.evaluation.mask_sets import drawn_sets, every_set


@pytest.mark.parametrize("length", [1, 2, 5])
def test_every_set_stands_there_once_with_the_beta_weight_of_its_size(length):
    sets = every_set(length)
    assert len({tuple(row) for row in sets.masked.tolist()}) == 2**length - 1
    sizes = sets.masked.sum(1).tolist()
    expected = [factorial(m - 1) * factorial(length - m) / factorial(length) for m in sizes]
    assert sets.weights.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_last_of_all_sets_masks_everything():
    assert bool(every_set(4).masked[-1].all())


def test_drawn_sets_have_every_size_equally_often():
    sizes = drawn_sets(4, 40, seed=0, own=1).masked.sum(1)
    assert torch.bincount(sizes, minlength=5).tolist() == [0, 10, 10, 10, 10]


def test_drawn_sets_of_one_size_are_equally_likely():
    sets = drawn_sets(4, 12_000, seed=0, own=1).masked
    pairs = sets[sets.sum(1) == 2].long() @ torch.tensor([1, 2, 4, 8])
    counts = pairs.bincount().float()
    counts, due = counts[counts > 0], 3000 / comb(4, 2)
    assert len(counts) == 6
    assert ((counts - due) ** 2 / due).sum().item() < 20.5  # chi-square, 5 degrees, p = 0.001


def test_a_drawn_set_of_m_of_k_positions_counts_k_over_m_and_shares_the_mean():
    sets = drawn_sets(3, 6, seed=0, own=1)
    expected = [3 / size / 6 for size in sets.masked.sum(1).tolist()]
    assert sets.weights.tolist() == pytest.approx(expected)


def test_the_draws_of_a_text_are_its_own():
    one, again, other = (drawn_sets(6, 8, seed=0, own=own).masked for own in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
