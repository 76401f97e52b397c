"""Losses and gradients that are no numbers: found where numbers are fetched anyway, and named."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, distributed

from fla.errors import FlaError
from fla.runtime import Runtime

_ADVICE = "Lower the learning rate, or set optim.max_grad_norm, and start the command again."


class MicroBatchLoss(NamedTuple):
    """What one micro-batch of this rank said."""

    step: int
    sample_ids: Sequence[str]
    nats: Tensor
    """On its device: nothing waits for it."""


def stop_unless_finite(
    nats: float, losses: Sequence[MicroBatchLoss], *, step: int, runtime: Runtime
) -> None:
    """End the run where the sum over all ranks is no number; every rank calls it.

    Args:
        nats: Summed over all that the ranks have counted.
        losses: Of this rank, those in the sum.
        step: The last one.
        runtime: Of this rank.

    Raises:
        FlaError: Names the first step whose loss is no number, and its samples on one rank.
    """
    if math.isfinite(nats):
        return
    firsts = [_first(losses)]
    if runtime.world_size > 1:
        shares: list[Any] = [None] * runtime.world_size
        distributed.all_gather_object(shares, firsts[0])
        firsts = shares
    found = [(*first, rank) for rank, first in enumerate(firsts) if first is not None]
    if not found:
        raise FlaError(f"The loss is no number up to step {step}. {_ADVICE}")
    first_step, sample_ids, value, rank = min(found, key=lambda it: it[0])
    named = f" with the samples {', '.join(sample_ids)}" if sample_ids else ""
    raise FlaError(f"The loss of step {first_step} is {value} on rank {rank}{named}. {_ADVICE}")


def stop_unless_norms_are_finite(norms: Mapping[str, float], *, step: int) -> None:
    """End the run where the gradient or the weights of a part are no numbers.

    Args:
        norms: `grad_norm/PART`, `param_norm/PART` and the like, the same on all ranks.
        step: Of the gradient.

    Raises:
        FlaError: Names the part.
    """
    for name, value in norms.items():
        if not math.isfinite(value):
            raise FlaError(f"{name} is {value} at step {step}. {_ADVICE}")


def _first(losses: Sequence[MicroBatchLoss]) -> tuple[int, Sequence[str], float] | None:
    for step, sample_ids, nats in losses:
        value = float(nats)
        if not math.isfinite(value):
            return step, sample_ids, value
    return None
