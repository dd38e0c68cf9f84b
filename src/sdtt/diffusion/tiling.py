"""How much of N x V is held at once."""

import torch

ON_ACCELERATORS = 4
"""Times what a CPU holds: a tile there costs the launch of its kernels whatever its size, and one
of a loss also a pass over the V x D numbers of a gradient, where small ones spend their time."""


def tile_numbers(on_cpu: int, device: torch.device) -> int:
    """Numbers of a tile on a device, where a CPU takes ``on_cpu``."""
    return on_cpu if device.type == "cpu" else ON_ACCELERATORS * on_cpu
