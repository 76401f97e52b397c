"""Batch sizes that must divide: sentences of a step, of a micro-batch, and ranks."""

from collections.abc import Iterator

from fla.config.schema import TrainConfig


def broken_batches(train: TrainConfig, world_size: int) -> Iterator[str]:
    """Why so many ranks cannot share out a step, and what to do.

    Args:
        train: As loaded.
        world_size: Ranks.
    """
    size, micro = train.global_batch_size, train.micro_batch_size
    together = micro * world_size
    if min(size, micro) < 1 or size % together == 0:
        return
    if size % world_size:
        larger = -(-size // together) * together
        remedy = f"Start a number of ranks that divides it, or set train.global_batch_size={larger}"
    else:
        share = size // world_size
        fitting = max(it for it in range(1, min(micro, share) + 1) if share % it == 0)
        remedy = f"Set train.micro_batch_size={fitting}"
    yield (
        f"train.global_batch_size ({size}) must be a multiple of train.micro_batch_size x world "
        f"size ({micro} x {world_size}). {remedy}."
    )
