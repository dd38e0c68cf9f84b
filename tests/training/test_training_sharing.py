from types import SimpleNamespace

import pytest
import torch

from sdtt.training.sharing import (
    accumulation_steps,
    check_loader,
    name_dropout,
)


@pytest.mark.parametrize(
    ("processes", "per_device", "expected"), [(1, 4, 32), (2, 4, 16), (8, 16, 1), (4, 32, 1)]
)
def test_the_accumulation_follows_from_the_texts_of_an_update(processes, per_device, expected):
    found = accumulation_steps(128, processes=processes, per_device=per_device, given=1)
    assert found == expected


def test_without_a_global_batch_the_accumulation_is_what_was_given():
    assert accumulation_steps(None, processes=3, per_device=5, given=7) == 7


@pytest.mark.parametrize(
    ("batch", "processes", "per_device", "given", "message"),
    [
        (3, 4, 1, 1, "global_batch_size=3 is less than one text for each of 4 processes; raise"),
        (10, 4, 1, 1, "cannot be shared evenly by 4 processes; use a multiple of 4, such as 8"),
        (24, 2, 8, 1, "gives each of 2 processes 12 texts, no multiple of .*=8; set that to 6"),
        (8, 2, 64, 1, "gives each of 2 processes 4 texts, no multiple of .*=64; set that to 4"),
        (16, 2, 2, 3, "needs gradient_accumulation_steps=4 .* got 3; leave it out"),
    ],
)
def test_texts_that_cannot_be_shared_evenly_are_refused(
    batch, processes, per_device, given, message
):
    with pytest.raises(ValueError, match=message):
        accumulation_steps(batch, processes=processes, per_device=per_device, given=given)


@pytest.mark.parametrize("name", ["split_batches", "dispatch_batches"])
def test_settings_that_cut_batches_up_are_refused(name):
    check_loader(SimpleNamespace(**{name: False}))
    with pytest.raises(ValueError, match=f"accelerator_config cannot set {name}"):
        check_loader(SimpleNamespace(**{name: True}))


def test_the_dropout_of_a_micro_batch_is_a_function_of_seed_and_place():
    def draw(seed, place):
        with torch.random.fork_rng():
            name_dropout(seed, place)
            return torch.rand(4).tolist()

    assert draw(0, 8) == draw(0, 8)
    assert len({tuple(draw(seed, place)) for seed in (0, 1) for place in (0, 8, 16)}) == 6


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_global_batch_of_a_config_sets_the_accumulation(tmp_path, runs, accumulation):
    settings = {"global_batch_size": 8, "per_device_train_batch_size": 4}
    trainer = runs.distiller(tmp_path, gradient_accumulation_steps=accumulation, **settings)
    assert (trainer.args.gradient_accumulation_steps, trainer.stream.batch) == (2, 8)
