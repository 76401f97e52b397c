"""What a failure costs, and how often to save: expected values, predicted."""

import math
from dataclasses import dataclass

from fla.config.sharding import Sharding
from fla.plan.hardware import Assumptions

_FP32 = 4
_ADAM_BYTES = 2 * _FP32


@dataclass(frozen=True, kw_only=True)
class FailureCost:
    """Seconds that all GPUs lose by one failure."""

    expected_s: float
    """Half an interval is computed again, after a restart."""
    most_s: float
    """A whole interval is, and the failure was noticed late."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Seconds that a checkpoint takes."""

    copying_s: float
    """Training waits for a copy in host memory."""
    writing_s: float
    """From then on until it is complete: written, and read again for its checksums."""


def checkpoint_bytes(num_elements: int, sharding: Sharding, *, has_average: bool) -> int:
    """Bytes of a checkpoint, all ranks' files together.

    Args:
        num_elements: That are trained.
        sharding: ZeRO-3 saves no weights beside the optimizer's float32 ones; without ZeRO there
            are no others.
        has_average: A moving average of the weights is kept.
    """
    masters = _FP32 if sharding.stage else 0
    weights = 0 if sharding.stage == 3 else sharding.weight_bytes
    average = _FP32 if has_average else 0
    return num_elements * (weights + masters + _ADAM_BYTES + average)


def plan_saving(num_bytes: int, *, num_gpus: int, assumptions: Assumptions) -> Saving:
    """How long a checkpoint takes.

    Args:
        num_bytes: Of the checkpoint.
        num_gpus: Ranks, which share it out.
        assumptions: What copies, disks and ranks reach.
    """
    share = num_bytes / num_gpus
    writing = max(share / assumptions.rank_write_bytes, num_bytes / assumptions.write_bytes)
    return Saving(
        copying_s=share / assumptions.copy_bytes,
        writing_s=writing + share / assumptions.hash_bytes,
    )


def failure_cost(
    saving: Saving, *, interval_s: float, notice_s: float, assumptions: Assumptions
) -> FailureCost:
    """What a failure costs.

    Args:
        saving: Of a checkpoint: what is not complete is of no use.
        interval_s: Between two checkpoints.
        notice_s: Until the others give up a rank that hangs.
        assumptions: How long a restart takes.
    """
    again = saving.writing_s + assumptions.restart_s
    return FailureCost(expected_s=interval_s / 2 + again, most_s=interval_s + again + notice_s)


def best_interval(saving: Saving, *, num_nodes: int, assumptions: Assumptions) -> float:
    """Seconds between checkpoints at which copying and computing again cost least together.

    sqrt(2 C M) for a wait of C and a mean time M between failures of all nodes (Young 1974); it
    holds while C is much less than M, else Daly 2006 has more terms. A checkpoint is written before
    the next one is copied.
    """
    best = math.sqrt(2 * saving.copying_s * assumptions.node_failure_s / num_nodes)
    return max(best, saving.writing_s)
