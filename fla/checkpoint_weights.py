"""The weights of a training checkpoint in float32, whatever the ranks and ZeRO stage that wrote it.

DeepSpeed's files are pickles. They are looked through before any is opened: one that names anything
beside tensors and DeepSpeed's own records is refused, and nothing in it is run.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fla.averaging import join_average, open_average
from fla.checkpoint_files import check_pickles
from fla.deepspeed_setup import read_masters
from fla.engine import BUFFERS
from fla.errors import CheckpointError, first_line
from fla.weights import Weights, open_tensors


@dataclass(frozen=True, kw_only=True)
class CheckpointWeights:
    """Parameters and buffers of one checkpoint, read when they are asked for."""

    folder: Path
    buffers: Mapping[str, Tensor]
    """In their own types, by name."""
    _masters: Mapping[str, Any]
    """DeepSpeed's, each put together by `contiguous()`."""
    _average: Sequence[Weights]
    """Files of the moving average; none: the run keeps none."""

    def parameter(self, name: str, shape: Sequence[int]) -> Tensor:
        """A parameter, whole, in float32: of the moving average where the run kept one.

        Raises:
            CheckpointError: There is no such parameter, or it has another shape.
        """
        if name not in self._masters or any(name not in file for file in self._average):
            raise CheckpointError(
                f"{self.folder}: the checkpoint lacks {name}. Give one of the run that the folder "
                "beside it, model/, describes."
            )
        whole: Tensor = (
            join_average(self._average, name, shape)
            if self._average
            else self._masters[name].contiguous().float()
        )
        if tuple(whole.shape) != tuple(shape):
            raise CheckpointError(
                f"{self.folder}: {name} has the shape {tuple(whole.shape)}, the model's has "
                f"{tuple(shape)}. Give a checkpoint of the run that model/ describes."
            )
        return whole


def open_checkpoint(folder: Path) -> CheckpointWeights:
    """Open a checkpoint as `Engine.save` wrote it.

    Raises:
        CheckpointError: Files are missing or damaged, or hold more than a checkpoint does.
    """
    check_pickles(folder)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            masters = read_masters(folder)
        except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
            raise CheckpointError(
                f"{folder}: DeepSpeed's files cannot be read ({first_line(error)}). Take another "
                "checkpoint."
            ) from error
    stored = open_tensors(folder / BUFFERS)
    return CheckpointWeights(
        folder=folder,
        buffers={name: stored.tensor(name) for name in stored.names},
        _masters=masters,
        _average=open_average(folder),
    )
