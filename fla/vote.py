"""What the ranks agree on after every step, without waiting for each other: to stop, to save."""

from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed


class Wish(NamedTuple):
    """What a rank wants to happen between two steps."""

    stop: bool = False
    save: bool = False


class Vote:
    """One vote a step; a wish of any rank comes true on all of them, after the same step.

    A vote is counted while the next step is computed: a wish takes one step to be heard. Every rank
    makes one, and casts as many votes.

    Args:
        world_size: Ranks.
        patience: Longest wait of a rank for another one.

    Attributes:
        delay: Steps until a wish is heard: one, or none of a rank that is alone.
    """

    def __init__(self, *, world_size: int, patience: timedelta) -> None:
        self._is_alone = world_size == 1
        self.delay = 0 if self._is_alone else 1
        # On the CPU, whatever the ranks compute on: nothing waits for a GPU.
        self._group: Any = (
            None if self._is_alone else distributed.new_group(backend="gloo", timeout=patience)
        )
        self._cast: Tensor | None = None
        self._count: Any = None

    def cast(self, wish: Wish) -> Wish:
        """Say what this rank wants now, and hear what any rank wanted a step ago."""
        if self._is_alone:
            return wish
        heard = self.hear_last()
        self._cast = torch.tensor(wish, dtype=torch.uint8)
        self._count = distributed.all_reduce(
            self._cast, distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return heard

    def hear_last(self) -> Wish:
        """Count the vote that is still under way, if one is."""
        if self._count is None:
            return Wish()
        self._count.wait()
        self._count = None
        assert self._cast is not None
        return Wish(*(bool(value) for value in self._cast.tolist()))
