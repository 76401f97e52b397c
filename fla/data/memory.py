"""How many decoded frames may wait in host memory."""

import sys

from fla.errors import ConfigError

_GIB = 2**30
# A frame in work: decoded, gathered into its clip, and once more as DALI's input.
_COPIES_IN_WORK = 3
_RGB, _FLOAT32 = 3, 4


def plan_queue(
    *,
    host_memory_gib: float,
    frames_per_batch: int,
    resize_px: int,
    crop_px: int,
    full_frame_px: int,
    is_on_gpu: bool,
) -> int:
    """Frames that a loader may have decoded or in work ahead of the training step.

    One batch is in work at a time; the rest of the budget is for finished ones. What a GPU holds
    does not count.

    Args:
        host_memory_gib: Budget of one rank.
        frames_per_batch: Most frames of one batch.
        resize_px: Side of the square that frames are scaled to.
        crop_px: Side of the square that waits, as float32.
        full_frame_px: Pixels of the largest frame that DALI decodes at full size in host memory
            before it is scaled; 0: none.
        is_on_gpu: Whether finished frames lie on a GPU.

    Raises:
        ConfigError: The budget does not hold one batch in work beside a finished one.
    """
    finished, in_work = _frame_bytes(
        resize_px=resize_px, crop_px=crop_px, full_frame_px=full_frame_px, is_on_gpu=is_on_gpu
    )
    budget = host_memory_gib * _GIB
    needed = frames_per_batch * (in_work + finished)
    if needed > budget:
        raise ConfigError(
            f"data.host_memory_gib ({host_memory_gib:g}) is less than the {needed / _GIB:.2f} GiB "
            f"that two batches of data.frames_per_batch ({frames_per_batch}) frames take. Raise "
            "the one, or lower the other."
        )
    if not finished:
        return sys.maxsize
    return frames_per_batch + int((budget - needed) // finished)


def fit_frames(
    *,
    host_memory_gib: float,
    resize_px: int,
    crop_px: int,
    full_frame_px: int,
    is_on_gpu: bool,
) -> int:
    """Most frames of one batch, where none waits; arguments as in `plan_queue`."""
    finished, in_work = _frame_bytes(
        resize_px=resize_px, crop_px=crop_px, full_frame_px=full_frame_px, is_on_gpu=is_on_gpu
    )
    return int(host_memory_gib * _GIB // (in_work + finished))


def _frame_bytes(
    *, resize_px: int, crop_px: int, full_frame_px: int, is_on_gpu: bool
) -> tuple[int, int]:
    """What a finished frame takes, and what one in work takes."""
    finished = 0 if is_on_gpu else crop_px**2 * _RGB * _FLOAT32
    in_work = _RGB * (_COPIES_IN_WORK * resize_px**2 + full_frame_px + crop_px**2) + finished
    return finished, in_work
