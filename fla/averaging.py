"""Exponential moving average of the weights, sharded as the weights are."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fla.errors import CheckpointError
from fla.models.loading import tied_parameters
from fla.shards import join_shards, local_masters
from fla.weights import Weights, open_tensors


class MovingAverage:
    """Averages of a model's parameters over the steps, in float32.

    Under ZeRO-3 a rank averages its slices of the optimizer's float32 weights, elsewhere the
    parameters as the model has them, on every rank alike.

    Args:
        module: Of an engine that is open.
        decay: Share of the former average that a step keeps, in (0, 1).
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._parameters = {names[0]: parameter for names, parameter in tied_parameters(module)}
        self._averages = {
            name: local_masters(parameter).float().clone()
            for name, parameter in self._parameters.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """First name of each parameter, in the model's order."""
        return tuple(self._averages)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        now = [local_masters(parameter).float() for parameter in self._parameters.values()]
        torch._foreach_lerp_([*self._averages.values()], now, 1.0 - self._decay)

    def whole(self, name: str) -> Tensor:
        """The average of a parameter, whole; every rank calls it."""
        return join_shards(self._averages[name], self._parameters[name])

    def shards(self) -> Mapping[str, Tensor]:
        """This rank's averages by name, for a file of a checkpoint: `average_file`."""
        return self._averages

    def load(self, folder: Path, *, rank: int, world_size: int) -> None:
        """Read the averages of a checkpoint, on any number of ranks.

        Args:
            folder: Of the checkpoint.
            rank: This one.
            world_size: Ranks now.

        Raises:
            CheckpointError: The checkpoint was saved without a moving average.
        """
        files = open_average(folder)
        if not files:
            raise CheckpointError(
                f"{folder} was saved without a moving average. Set train.ema_decay=0, or start "
                "again with resume=none."
            )
        for name, average in self._averages.items():
            if len(files) == world_size:
                average.copy_(files[rank].tensor(name))
                continue
            shards = [file.tensor(name) for file in files]
            if not hasattr(self._parameters[name], "ds_id"):
                average.copy_(shards[0])
                continue
            flat = torch.cat(shards)
            # Padding differs with the number of ranks; what it holds does not matter.
            missing = max(0, average.numel() * world_size - len(flat))
            flat = torch.cat([flat, flat.new_zeros(missing)])
            average.copy_(flat[average.numel() * rank : average.numel() * (rank + 1)])


def average_file(rank: int) -> str:
    """Name of the file that holds what a rank's `shards` gave."""
    return f"average_rank_{rank:05d}.safetensors"


def open_average(folder: Path) -> list[Weights]:
    """The files of a checkpoint's moving average, one a rank; none where the run kept none."""
    return [open_tensors(path) for path in sorted(folder.glob("average_rank_*.safetensors"))]


def join_average(files: Sequence[Weights], name: str, shape: Sequence[int]) -> Tensor:
    """A parameter's average, whole.

    Args:
        files: Of all ranks.
        name: First name of the parameter; every file has it.
        shape: That the parameter has.
    """
    first = files[0].tensor(name)
    if tuple(first.shape) == tuple(shape):
        # Every rank has all of it, unless it is sharded.
        return first
    flat = torch.cat([file.tensor(name) for file in files])
    return flat[: math.prod(shape)].view(*shape)
