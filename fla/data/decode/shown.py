"""How a recording is shown: upright or turned, whole or in fields, wide or high."""

from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from fla.data.decode.container import read_packets
from fla.data.decode.convert import UPRIGHT, find_turn


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a recording's first picture says, as the header does not."""

    is_plain: bool
    """Shown as it is stored, neither turned nor interlaced; not where that does not decode."""
    aspect: float
    """Width over height on the screen."""


def find_shown(path: Path, container: InputContainer, stream: VideoStream) -> Shown:
    """Decode the first picture, from where the container stands.

    Raises:
        DataError: The container does not hold together, or pictures are to be shown tilted.
    """
    # Pixels need not be square.
    pixel = float(stream.sample_aspect_ratio or 1) or 1.0
    aspect = pixel * stream.codec_context.width / max(stream.codec_context.height, 1)
    # PyAV shows what the header says of turns on decoded frames only.
    try:
        key = next(p for p in read_packets(path, container, stream) if p.is_keyframe)
        first = [*stream.codec_context.decode(key), *stream.codec_context.decode(None)][0]
    except (av.FFmpegError, LookupError, StopIteration):
        return Shown(is_plain=False, aspect=aspect)
    turn = find_turn(first, path)
    return Shown(
        is_plain=turn == UPRIGHT and not first.interlaced_frame,
        aspect=1 / aspect if turn.quarters % 2 and aspect else aspect,
    )
