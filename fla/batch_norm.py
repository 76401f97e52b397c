"""BatchNorm's running statistics on several ranks: DeepSpeed never exchanges buffers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Statistics:
    """The running means and variances of a model; each rank has those of its own clips.

    Args:
        module: The model.
        world_size: Ranks.
    """

    def __init__(self, module: nn.Module, *, world_size: int) -> None:
        self._own = {
            name: buffer.detach()
            for name, buffer in module.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        }
        self._world_size = world_size
        self._kept: list[Tensor] = []

    def own(self) -> dict[str, Tensor]:
        """Those of this rank, by name; not copied."""
        return self._own

    def means(self) -> dict[str, Tensor]:
        """Their means over ranks; every rank calls it."""
        if not self._own or self._world_size == 1:
            return self._own
        flat = torch.cat([buffer.flatten() for buffer in self._own.values()])
        distributed.all_reduce(flat)
        flat /= self._world_size
        parts = torch.split(flat, [buffer.numel() for buffer in self._own.values()])
        return {
            name: part.view_as(own)
            for (name, own), part in zip(self._own.items(), parts, strict=True)
        }

    def average(self) -> None:
        """Give every rank the means over ranks; every rank calls it."""
        means = self.means()
        for name, buffer in self._own.items():
            buffer.copy_(means[name])

    def keep(self) -> None:
        """Remember those of this rank as they are now."""
        if not self._kept:
            self._kept = [torch.empty_like(buffer) for buffer in self._own.values()]
        if self._own:
            torch._foreach_copy_(self._kept, [*self._own.values()])

    def take_back(self) -> None:
        """Make those of this rank what was kept last."""
        for buffer, kept in zip(self._own.values(), self._kept, strict=True):
            buffer.copy_(kept)


@contextmanager
def borrowed_statistics(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm update copies of its statistics, for frames that are not to count (again)."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    own = [dict(norm.named_buffers()) for norm in norms]
    for norm, buffers in zip(norms, own, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, own, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
