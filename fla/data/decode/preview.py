"""Small gray pictures of a whole recording, one after the other: enough to see where it moves."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from fla.data.decode.container import open_video, read_packets

# A recording is not to lose a preview by the rounding of its time stamps.
_ROUNDING_S = 1e-3


def read_previews(
    path: Path, *, fps: float, side_px: int
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Decode a recording from its beginning to its end; nothing of it is kept.

    Frames lie as they are stored: a turned recording gives turned pictures.

    Args:
        path: The recording.
        fps: Most previews a second.
        side_px: S, height and width whatever the frame's shape is.

    Yields:
        Seconds after the first presented frame, rising, and the picture, uint8, `(S, S)`.

    Raises:
        DataError: The recording is missing, or does not decode to its end.
    """
    with open_video(path, options={}) as (container, stream):
        context = stream.codec_context
        # Nothing else is decoded beside it.
        context.thread_type = "AUTO"
        context.thread_count = 0
        reformatter = VideoReformatter()
        tick_s = float(stream.time_base or 0)
        first: int | None = None
        next_s = 0.0
        # The decoder gives its last frames when it is asked with nothing.
        packets = chain(read_packets(path, container, stream), (None,))
        for frame in (frame for packet in packets for frame in context.decode(packet)):
            if frame.pts is None:
                continue
            first = frame.pts if first is None else first
            time_s = (frame.pts - first) * tick_s
            if time_s < next_s - _ROUNDING_S:
                continue
            next_s = max(next_s + 1 / fps, time_s)
            small = reformatter.reformat(
                frame, side_px, side_px, "gray", interpolation=Interpolation.AREA, threads=1
            )
            yield time_s, small.to_ndarray().astype(np.uint8, copy=False)
