"""Decoding frames that lie as PNG or JPEG images in a folder or archive.

Frame number i is presented i / fps seconds after the first.
Shape letters: T = chosen frames of a clip; H, W = height and width in pixels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from fla.data.decode.convert import Converter
from fla.data.decode.video import in_range
from fla.data.frame_folder import list_frames, read_images
from fla.errors import DataError

_CODECS = {".png": "png", ".jpg": "mjpeg", ".jpeg": "mjpeg"}
# Without it a PNG whose bytes were changed comes out as something else, in silence.
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_JPEG_END = b"\xff\xd9"
# Scaled in one call; more would only take memory, where images are large.
_AT_ONCE = 16

ScaleRgb = Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]
"""Scales images of one size, `(T, ?, ?, 3)`, to a height and a width."""


def read_image_frames(
    path: Path,
    *,
    fps: float,
    start_s: float,
    end_s: float,
    num_frames: int,
    frame_numbers: NDArray[np.int32],
    height: int,
    width: int,
    scale_rgb: ScaleRgb | None = None,
) -> NDArray[np.uint8]:
    """Decode chosen frames of a range and scale them while their color is converted.

    Args:
        path: Folder of images, or one inside a zip archive.
        fps: Frames a second.
        start_s: First moment, in seconds after the first frame.
        end_s: End, exclusive, on the same clock.
        num_frames: Frames that the range must hold.
        frame_numbers: Frames to return, counted from the range's first, int32, `(T,)`.
        height: H.
        width: W.
        scale_rgb: Scales images that are RGB; without one FFmpeg does, by way of YUV.

    Returns:
        RGB, uint8, `(T, H, W, 3)`.

    Raises:
        DataError: An image does not decode, or the range holds another number of frames.
    """
    names = list_frames(path)
    inside = np.flatnonzero(in_range(np.arange(len(names)) / fps, start_s, end_s))
    if len(inside) != num_frames or not num_frames:
        raise DataError(
            f"{path}, {start_s:.3f} s to {end_s:.3f} s: the range holds {len(inside)} images, but "
            f"the manifest says {num_frames}. Import the data again, or remove the row."
        )
    chosen = [names[index] for index in inside[frame_numbers]]
    frames = np.empty((len(chosen), height, width, 3), np.uint8)
    for begin in range(0, len(chosen), _AT_ONCE):
        some = chosen[begin : begin + _AT_ONCE]
        images = [
            _decode(data, path / name)
            for name, data in zip(some, read_images(path, some), strict=True)
        ]
        frames[begin : begin + _AT_ONCE] = _scale(
            path, images, height=height, width=width, scale_rgb=scale_rgb
        )
    return frames


def read_image_size(path: Path) -> tuple[int, int]:
    """Width and height of a folder's first image, in pixels.

    Raises:
        DataError: There is no image, or it does not decode.
    """
    names = list_frames(path)[:1]
    if not names:
        raise DataError(f"{path} holds no image. Unpack or download it again.")
    (data,) = read_images(path, names)
    image = _decode(data, path / names[0])
    return image.width, image.height


def _decode(data: bytes, path: Path) -> av.VideoFrame:
    codec = _CODECS[path.suffix.lower()]
    # The decoder of JPEG fills up with gray what a cut file lacks.
    is_whole = codec != "mjpeg" or _JPEG_END in data[-64:]
    try:
        context = cast("VideoCodecContext", av.CodecContext.create(codec, "r"))
        context.thread_count = 1
        context.options = _STRICT
        frames = context.decode(av.Packet(data)) if is_whole else []
    except (av.FFmpegError, ValueError):
        frames = []
    if len(frames) != 1:
        raise DataError(f"{path} is no image that decodes. Replace the file, or leave it out.")
    return frames[0]


def _scale(
    path: Path,
    images: Sequence[av.VideoFrame],
    *,
    height: int,
    width: int,
    scale_rgb: ScaleRgb | None,
) -> NDArray[np.uint8]:
    kinds = {(image.format.name, image.width, image.height) for image in images}
    if scale_rgb and len(kinds) == 1 and images[0].format.name == "rgb24":
        pixels = np.stack([image.to_ndarray() for image in images])
        return scale_rgb(pixels.astype(np.uint8, copy=False), height, width)
    converter = Converter(path, height=height, width=width)
    return np.stack([converter.convert(image) for image in images])
