from types import SimpleNamespace

import pytest
import torch

from sdtt.diffusion.noise import SCHEDULES
from sdtt.training.stream import Stream, collate, noise_of

BLOCKS = torch.arange(7)[:, None].repeat(1, 3)  # block b is b, b, b


def stream(seed=0, updates=10, batch=4):
    return Stream(BLOCKS, updates=updates, batch=batch, seed=seed)


def order(seed=0, places=range(40)):
    data = stream(seed)
    return [int(data[place]["input_ids"][0]) for place in places]


@pytest.mark.parametrize("wrong", [7, 6, -100])
def test_a_text_with_an_id_that_the_model_does_not_have_is_refused(wrong):
    model = SimpleNamespace(vocab_size=7, mask_token_id=6)
    texts = torch.tensor([[0, 1, 5], [5, wrong, 1]])
    data = Stream(texts, updates=1, batch=2, seed=0, config=model)
    with pytest.raises(ValueError, match=rf"text 1 of the data holds the id {wrong}: .* 0 to 6"):
        [data[place] for place in range(2)]


def noise(places, batch=8, seed=0, length=5, smallest_time=0.0):
    return noise_of(
        list(places), length=length, batch=batch, seed=seed, smallest_time=smallest_time
    )


# Order


def test_an_item_is_the_same_in_whatever_order_items_are_asked_for():
    shuffled = [(11 * place) % 40 for place in range(40)]
    forward = order()
    assert order(places=shuffled) == [forward[place] for place in shuffled]


def test_an_item_does_not_depend_on_how_the_run_is_cut_into_updates():
    one, other = stream(updates=40, batch=1), stream(updates=5, batch=8)
    assert all(torch.equal(one[p]["input_ids"], other[p]["input_ids"]) for p in range(40))


def test_every_epoch_visits_each_block_once():
    places = order()
    assert all(sorted(places[first : first + 7]) == list(range(7)) for first in range(0, 35, 7))


def test_every_epoch_has_an_order_of_its_own():
    places = order()
    assert len({tuple(places[first : first + 7]) for first in range(0, 35, 7)}) == 5


def test_another_seed_gives_another_order():
    assert order(seed=0) != order(seed=1)


def test_an_item_says_its_place():
    assert collate([stream()[5], stream()[6]])["place"] == [5, 6]


def test_a_stream_is_as_long_as_the_run():
    assert len(stream(updates=10, batch=4)) == 40


def test_a_stream_of_no_text_is_refused():
    with pytest.raises(ValueError, match="no training text"):
        Stream(BLOCKS[:0], updates=1, batch=1, seed=0)


# Noise


@pytest.mark.parametrize("name", ["t", "u", "v"])
def test_noise_is_a_function_of_the_place_and_not_of_the_micro_batch(name):
    whole = getattr(noise(range(16)), name)
    cut = torch.cat([getattr(noise([place]), name) for place in range(16)])
    assert torch.equal(whole, cut)


@pytest.mark.parametrize("name", ["t", "u", "v"])
def test_no_two_texts_share_their_noise(name):
    values = getattr(noise(range(64)), name).reshape(64, -1)
    assert len(values.unique(dim=0)) == 64


@pytest.mark.parametrize("name", ["t", "u", "v"])
def test_another_seed_gives_other_noise(name):
    assert not torch.equal(getattr(noise(range(8)), name), getattr(noise(range(8), seed=1), name))


def test_masks_and_draws_have_numbers_of_their_own():
    assert not torch.equal(noise(range(8)).u, noise(range(8)).v)


@pytest.mark.parametrize("smallest", [0.0, 1e-3])
def test_the_times_of_an_update_lie_one_in_each_stratum(smallest):
    for update in range(20):
        t = noise(range(8 * update, 8 * update + 8), smallest_time=smallest).t
        strata = ((t - smallest) / (1 - smallest) * 8).floor()
        assert sorted(strata.tolist()) == list(range(8))


def test_the_times_of_micro_batches_lie_one_in_each_stratum_of_the_whole_update():
    micro = [noise(range(first, first + 2)).t for first in range(0, 8, 2)]
    assert sorted((torch.cat(micro) * 8).floor().tolist()) == list(range(8))


def test_the_first_text_of_an_update_is_early_and_late_alike():
    strata = (noise(range(0, 8 * 400, 8)).t * 8).floor().long()
    counts = torch.bincount(strata, minlength=8).double()
    chi_square = ((counts - 50).square() / 50).sum()
    assert chi_square < 24.3  # 7 degrees of freedom: exceeded once in a thousand


def test_a_share_of_1_minus_alpha_of_the_positions_is_masked():
    drawn = noise(range(64), batch=64, length=400)
    for schedule in SCHEDULES.values():
        share = drawn.masked(schedule).double().mean(1)
        expected = 1 - schedule.alpha(drawn.t)
        error = (expected * (1 - expected) / 400).sqrt()
        assert ((share - expected).abs() < 4 * error).all()


def test_no_places_have_no_noise():
    noise = noise_of([], length=8, batch=4, seed=0, smallest_time=0.0)
    assert (noise.t.shape, noise.u.shape, noise.lengths.shape) == ((0,), (0, 8), (0,))
