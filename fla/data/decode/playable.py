"""Clips as browsers play them: H.264 in MP4, in memory."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fla.data.decode.images import read_image_frames, read_image_size
from fla.data.decode.video import VideoFormat, read_format, read_frames
from fla.data.frame_folder import is_frame_folder
from fla.data.manifest import Sample

MAX_FPS = 30
"""Above it, frames are left out."""
_ENCODER = {"preset": "veryfast", "crf": "23"}
# FFmpeg's number of BT.601's matrix.
_BT601 = 6
_PLAYABLE = ("h264", "yuv420p")


def make_playable(root: Path, sample: Sample, *, short_side_px: int, max_as_is_bytes: int) -> bytes:
    """A sample's clip as an MP4 file of its own.

    Args:
        root: Folder of the recordings.
        sample: Which clip.
        short_side_px: Width or height, whichever is less; smaller clips keep their size.
        max_as_is_bytes: A recording that is one clip, plays in browsers and is no larger is not
            encoded again.

    Raises:
        DataError: The clip does not decode.
    """
    path = root / sample.video
    if is_frame_folder(path):
        frames = _read_images(path, sample, short_side_px)
    else:
        found = read_format(path)
        if _plays(path, found, sample) and path.stat().st_size <= max_as_is_bytes:
            return path.read_bytes()
        frames = _read_video(path, found, sample, short_side_px)
    return encode_mp4(frames, fps=sample.fps / _stride(sample))


def encode_mp4(frames: NDArray[np.uint8], *, fps: float) -> bytes:
    """Encode pictures to an MP4 file.

    Args:
        frames: RGB, uint8, `(T, H, W, 3)`, H and W even.
        fps: Frames a second.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=_ENCODER)
        assert isinstance(stream, VideoStream)
        _, stream.height, stream.width, _ = frames.shape
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.colorspace, context.color_range = _BT601, int(ColorRange.MPEG)
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _read_images(path: Path, sample: Sample, short_side_px: int) -> NDArray[np.uint8]:
    width, height = _fit(*read_image_size(path), short_side_px)
    return read_image_frames(
        path,
        fps=sample.fps,
        start_s=sample.start_s,
        end_s=sample.end_s,
        num_frames=sample.num_frames,
        frame_numbers=_choose(sample),
        height=height,
        width=width,
    )


def _read_video(
    path: Path, found: VideoFormat, sample: Sample, short_side_px: int
) -> NDArray[np.uint8]:
    # As it is shown: phones film lying on their side.
    is_turned = (found.aspect < 1) != (found.width < found.height)
    shown_height = found.width if is_turned else found.height
    width, height = _fit(round(shown_height * found.aspect), shown_height, short_side_px)
    return read_frames(
        path,
        start_s=sample.start_s,
        end_s=sample.end_s,
        num_frames=sample.num_frames,
        frame_numbers=_choose(sample),
        height=height,
        width=width,
    )


def _plays(path: Path, found: VideoFormat, sample: Sample) -> bool:
    """Whether a recording is this clip alone, in a form that all browsers play."""
    is_whole = sample.start_s == 0 and sample.end_s >= found.duration_s - 1 / sample.fps
    return is_whole and path.suffix == ".mp4" and (found.codec, found.pixel_format) == _PLAYABLE


def _stride(sample: Sample) -> int:
    return max(1, round(sample.fps / MAX_FPS))


def _choose(sample: Sample) -> NDArray[np.int32]:
    return np.arange(0, sample.num_frames, _stride(sample), dtype=np.int32)


def _fit(width: int, height: int, short_side_px: int) -> tuple[int, int]:
    """Width and height, even, of which the lesser is at most `short_side_px`."""
    scale = min(1.0, short_side_px / min(width, height))
    return max(2, 2 * int(width * scale / 2)), max(2, 2 * int(height * scale / 2))
