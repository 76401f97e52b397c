"""Decoded frames to scaled RGB, by one rule for every decoder.

Every frame's YUV is read with the matrix of BT.601, whatever its file says: that is what DALI does
and cannot be told not to do, and what a JPEG means anyway. The range is the file's: full or
limited. So a model sees the same colors whoever decodes for it; those of a file that is tagged
BT.709 are a little off, for all alike.

Frames come upright, as their file says that they are shown. Pixels that are not square need no
care: callers ask for a size, and what they ask for is filled whatever the frame's shape is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from fla.data.decode.container import unreadable

# In degrees; for rounding, as nobody films at a slant and says so.
_MAX_TILT = 2


@dataclass(frozen=True, kw_only=True)
class Turn:
    """How a stored frame becomes upright."""

    mirrored: bool
    """First the rows change their order."""
    quarters: int
    """Then all turns so many quarters, counterclockwise."""


UPRIGHT = Turn(mirrored=False, quarters=0)


def find_turn(frame: av.VideoFrame, path: Path) -> Turn:
    """How the frames of a clip are to be shown, by its first one; phones film lying on their side.

    Raises:
        DataError: They are to be shown tilted, by no quarter of a turn.
    """
    quarters = round(frame.rotation / 90)
    if abs(frame.rotation - 90 * quarters) > _MAX_TILT:
        raise unreadable(path, f"it is to be shown tilted, by {frame.rotation} degrees")
    return Turn(mirrored=_is_mirrored(frame), quarters=quarters % 4)


def _is_mirrored(frame: av.VideoFrame) -> bool:
    try:
        # Of a small copy: PyAV keeps a frame that was looked at until Python looks for cycles.
        small = frame.reformat(8, 8, "gray", interpolation=Interpolation.POINT)
        # The stubs know one kind only.
        side_data: Any = small.side_data
    except ValueError:
        # PyAV refuses to look where there is a kind that it does not know, as Exif.
        return False
    if Type.DISPLAYMATRIX not in side_data:
        return False
    # A stored place (x, y) is shown at (ax + cy, bx + dy).
    a, b, _, c, d = np.frombuffer(bytes(side_data[Type.DISPLAYMATRIX]), np.int32)[:5].tolist()
    return bool(a * d < b * c)


class Converter:
    """Turns and scales frames while their color is converted; for frames of one clip.

    Args:
        path: Of the clip.
        height: H, in pixels.
        width: W, in pixels.
    """

    def __init__(self, path: Path, *, height: int, width: int) -> None:
        self._path = path
        self._height, self._width = height, width
        self._turn: Turn | None = None
        # One for the clip: each keeps its tables for the sizes that it saw last.
        self._reformatter = VideoReformatter()

    def convert(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """One frame as RGB, uint8, `(H, W, 3)`.

        Raises:
            DataError: It is to be shown tilted.
        """
        if self._turn is None:
            self._turn = find_turn(frame, self._path)
        lies_on_side = self._turn.quarters % 2 == 1
        image = self._reformatter.reformat(
            frame,
            self._height if lies_on_side else self._width,
            self._width if lies_on_side else self._height,
            "rgb24",
            src_colorspace=Colorspace.ITU601,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        pixels = image.to_ndarray().astype(np.uint8, copy=False)
        upright = np.rot90(pixels[::-1] if self._turn.mirrored else pixels, self._turn.quarters)
        # Turned, they are a view of the others, and DALI takes nothing but rows without gaps.
        return np.ascontiguousarray(upright)
