"""Decoded frames to scaled RGB, by one rule for every decoder.

Every frame's YUV is read with the matrix of BT.601, whatever its file says: that is what DALI does
and cannot be told not to do, and what a JPEG means anyway. The range is the file's: full or
limited. So a model sees the same colors whoever decodes for it; those of a file that is tagged
BT.709 are a little off, for all alike.
"""

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray


class Converter:
    """Scales frames while their color is converted; for frames of one clip.

    Args:
        height: H, in pixels.
        width: W, in pixels.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self._height, self._width = height, width
        # One for the clip: each keeps its tables for the sizes that it saw last.
        self._reformatter = VideoReformatter()

    def convert(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """One frame as RGB, uint8, `(H, W, 3)`."""
        image = self._reformatter.reformat(
            frame,
            self._width,
            self._height,
            "rgb24",
            src_colorspace=Colorspace.ITU601,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        return image.to_ndarray().astype(np.uint8, copy=False)
