"""What the processes of a run must agree on, said on the host: no device is waited for."""

import torch
import torch.distributed as dist


class Agreement:
    """One word of all processes; made, and then asked, by all of them at the same points."""

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # gloo speaks from host to host; the group of the gradients may speak through devices only
        self._group = dist.new_group(backend="gloo") if several else None

    def largest(self, *values: int) -> list[int]:
        """Of each value the largest that any process gives; they all give equally many."""
        if self._group is None:
            return list(values)
        words = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(words, dist.ReduceOp.MAX, group=self._group)
        return [int(word) for word in words]

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return bool(self.largest(int(flag))[0])
