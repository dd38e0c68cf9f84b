import torch

from sdtt.diffusion.tiling import tile_numbers


def test_a_tile_of_an_accelerator_is_larger_than_one_of_a_cpu():
    assert tile_numbers(100, torch.device("cpu")) == 100
    assert tile_numbers(100, torch.device("cuda", 1)) == 400
