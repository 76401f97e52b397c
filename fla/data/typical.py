"""What the clips of a split have in common, so that a video that is unlike them can be told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fla.data.manifest import Sample


@dataclass(frozen=True, kw_only=True)
class TypicalClips:
    """The span of what a model has learned from."""

    fps_low: float
    """Least frame rate of a recording."""
    fps_high: float
    """Highest frame rate of a recording."""
    aspect_low: float
    """Least width over height of a recording, as it is shown."""
    aspect_high: float
    """Most width over height of a recording, as it is shown."""
    seconds_low: float
    """One clip in a hundred is shorter."""
    seconds_high: float
    """One clip in a hundred is longer."""


def summarize_clips(samples: Sequence[Sample], *, aspects: Sequence[float]) -> TypicalClips:
    """What the samples of a split have in common.

    Args:
        samples: All of them, at least one.
        aspects: Width over height of their recordings, or of some of them; at least one.
    """
    fps = [sample.fps for sample in samples]
    seconds = [sample.end_s - sample.start_s for sample in samples]
    low, high = np.quantile(seconds, (0.01, 0.99)).tolist()
    return TypicalClips(
        fps_low=round(min(fps), 3),
        fps_high=round(max(fps), 3),
        aspect_low=round(min(aspects), 3),
        aspect_high=round(max(aspects), 3),
        seconds_low=round(low, 2),
        seconds_high=round(high, 2),
    )
