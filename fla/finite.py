"""Losses and gradients that are no numbers: found where numbers are fetched anyway, and named.

DeepSpeed drops a gradient whose norm is no number, under every ZeRO stage but 0, which has none.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, distributed

from fla.errors import FlaError
from fla.runtime import Runtime

_ADVICE = "Lower the learning rate, or set optim.max_grad_norm, and start the command again."
_ADVICE_TO_SKIP = (
    "Lower the learning rate, set optim.max_grad_norm, or leave out such steps by "
    "train.on_nonfinite=skip; then start the command again."
)


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
    found = _describe_loss(_gather(_first(losses), runtime))
    raise FlaError(f"{found or f'The loss is no number up to step {step}'}. {_ADVICE}")


def describe_dropped_step(
    losses: Sequence[MicroBatchLoss],
    norms: Mapping[str, float],
    *,
    step: int,
    runtime: Runtime,
) -> str:
    """Why DeepSpeed dropped a step's gradient, without a full stop; every rank calls it.

    Args:
        losses: Of this rank, of this step.
        norms: `grad_norm/PART` and the like of the same gradient, the same on all ranks.
        step: This one.
        runtime: Of this rank.

    Returns:
        The loss that is no number, with its rank and samples; else the parts of the model whose
        gradient is none, with the samples of all ranks.
    """
    firsts = _gather(_first(losses), runtime)
    own_ids = [id for loss in losses for id in loss.sample_ids]
    ids = [id for share in _gather(own_ids, runtime) for id in share]
    found = _describe_loss(firsts)
    if found:
        return found
    bad = [f"{name} is {value}" for name, value in norms.items() if not math.isfinite(value)]
    parts = f" ({', '.join(bad)})" if bad else ""
    return f"The gradient of step {step} is no number{parts}{_with_samples(ids)}"


def stop_or_skip(cause: str, *, skipped: int, max_skipped: int) -> str:
    """Whether a run goes on without a step.

    Args:
        cause: Of `describe_dropped_step`.
        skipped: Steps that the run has left out, this one included.
        max_skipped: Most that it may; 0: it stops at the first.

    Returns:
        A sentence for the log.

    Raises:
        FlaError: It may not.
    """
    if not max_skipped:
        raise FlaError(f"{cause}. {_ADVICE_TO_SKIP}")
    if skipped > max_skipped:
        raise FlaError(
            f"{cause}, and train.max_nonfinite_steps ({max_skipped}) such steps have been left out "
            f"already. {_ADVICE}"
        )
    return f"{cause}. The step is left out, {skipped} of at most {max_skipped}."


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


def _gather(own: Any, runtime: Runtime) -> list[Any]:
    if runtime.world_size == 1:
        return [own]
    shares: list[Any] = [None] * runtime.world_size
    distributed.all_gather_object(shares, own)
    return shares


def _describe_loss(firsts: Sequence[tuple[int, Sequence[str], float] | None]) -> str:
    """The earliest of all ranks' losses that are no numbers; empty: they all are."""
    found = [(*first, rank) for rank, first in enumerate(firsts) if first is not None]
    if not found:
        return ""
    step, sample_ids, value, rank = min(found, key=lambda it: it[0])
    return f"The loss of step {step} is {value} on rank {rank}{_with_samples(sample_ids)}"


def _with_samples(sample_ids: Sequence[str]) -> str:
    return f" with the samples {', '.join(sample_ids)}" if sample_ids else ""


def _first(losses: Sequence[MicroBatchLoss]) -> tuple[int, Sequence[str], float] | None:
    for step, sample_ids, nats in losses:
        value = float(nats)
        if not math.isfinite(value):
            return step, sample_ids, value
    return None
