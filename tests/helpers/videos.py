"""Small videos whose frames carry their number, and a decoder that shares no code with fla's."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

NUM_BITS = 8
MILLISECOND = Fraction(1, 1000)
SHOW_FRAME = 0b10
"""Bit of the first byte of a VP9 frame of profile 0."""


def numbered_frame(number: int, *, size: int) -> NDArray[np.uint8]:
    """Bars of the number's bits above, a gradient that moves with the number below; HWC."""
    frame = np.empty((size, size, 3), np.uint8)
    bits = (number >> (np.arange(size) * NUM_BITS // size)) & 1
    frame[: size // 2] = bits[None, :, None] * 200 + 25
    ramp = (np.arange(size) * 2 + number * 3) % 256
    frame[size // 2 :, :, 0] = ramp
    frame[size // 2 :, :, 1] = ramp[::-1]
    frame[size // 2 :, :, 2] = np.linspace(40, 220, size - size // 2)[:, None]
    return frame


def read_number(frame: NDArray[np.uint8]) -> int:
    """The number that a decoded frame of any size carries, HWC."""
    size = frame.shape[1]
    middles = (np.arange(NUM_BITS) * 2 + 1) * size // (2 * NUM_BITS)
    bits = frame[frame.shape[0] // 4, middles].mean(axis=-1) > 125
    return int(np.sum(bits << np.arange(NUM_BITS)))


def write_video(
    path: Path,
    *,
    num_frames: int,
    codec: str = "libx264",
    size: int = 64,
    height: int | None = None,
    fps: int = 15,
    key_frame_every: int = 30,
    times_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    pixel_format: str | None = None,
    colorspace: int | None = None,
    color_range: int | None = None,
) -> Path:
    """Encode numbered frames; libx264 uses B-frames. The ending of `path` names the container.

    Args:
        height: Rows from the top, if not all.
        times_ms: Presentation times instead of those that `fps` gives.
        pixel_format: FFmpeg's name; none: 8 bits, 4:2:0.
        colorspace: FFmpeg's number of the matrix to convert with and to tag the file with;
            none: BT.601, without a tag.
        color_range: FFmpeg's number of the range to convert to and to tag the file with.
    """
    kind = pixel_format or ("yuvj420p" if codec == "mjpeg" else "yuv420p")
    with av.open(path, "w") as output:
        stream = output.add_stream(codec, rate=fps, options=options or _fast(codec))
        stream.width, stream.height = size, height or size
        stream.pix_fmt = kind
        stream.gop_size = key_frame_every
        stream.codec_context.thread_count = 1
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if color_range is not None:
            stream.codec_context.color_range = color_range
        if times_ms is not None:
            stream.codec_context.time_base = stream.time_base = MILLISECOND
        for number in range(num_frames):
            image = numbered_frame(number, size=size)[:height]
            frame = av.VideoFrame.from_ndarray(image).reformat(
                format=kind, dst_colorspace=colorspace, dst_color_range=color_range
            )
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], MILLISECOND
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def write_image(path: Path, number: int, *, size: int) -> Path:
    """Write a numbered frame as a PNG or JPEG image, as the ending of `path` says."""
    codec, kind = ("png", "rgb24") if path.suffix == ".png" else ("mjpeg", "yuvj420p")
    with av.open(path, "w", format="image2pipe") as output:
        stream = output.add_stream(codec, rate=1)
        stream.width = stream.height = size
        stream.pix_fmt = kind
        frame = av.VideoFrame.from_ndarray(numbered_frame(number, size=size))
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def hide_first_frames(source: Path, path: Path, *, num_hidden: int) -> Path:
    """Copy an mp4 so that an edit list hides its first frames, as a cut without encoding does."""
    with av.open(source) as container, av.open(path, "w") as output:
        copied = output.add_stream_from_template(container.streams.video[0])
        packets = [packet for packet in container.demux(video=0) if packet.size]
        first_shown = sorted(packet.pts for packet in packets)[num_hidden]
        for packet in packets:
            packet.pts -= first_shown
            packet.dts -= first_shown
            packet.stream = copied
            output.mux(packet)
    return path


def hide_last_frames(source: Path, path: Path, *, shown_s: float) -> Path:
    """Shorten an mp4's edit list, so that what comes after `shown_s` is not presented."""
    data = bytearray(source.read_bytes())
    edit = data.index(b"elst") + 12
    header = data.index(b"mvhd") + 16
    ticks_per_s = int.from_bytes(data[header : header + 4], "big")
    data[edit : edit + 4] = round(shown_s * ticks_per_s).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def turn_video(source: Path, path: Path, *, matrix: Sequence[int]) -> Path:
    """Copy an mp4 so that it is shown turned, as phones write: (x, y) goes to (ax + cy, bx + dy).

    Args:
        matrix: a, b, c and d.
    """
    data = bytearray(source.read_bytes())
    begin = data.index(b"tkhd") + 44
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[begin + place : begin + place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def hide_picture(source: Path, path: Path, *, number: int) -> Path:
    """Mark one picture of a VP9 recording as not to be shown; decoders drop it in silence."""
    data = bytearray(source.read_bytes())
    with av.open(source) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data[data.index(bytes(packets[number]))] &= ~SHOW_FRAME
    path.write_bytes(data)
    return path


def decode_all(
    path: Path, *, size: int, video: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Times after the first, and RGB (T,H,W,3), of every frame, decoded from the beginning.

    Args:
        size: H and W.
        video: Which of the file's videos.
    """
    with av.open(path) as container:
        frames = list(container.decode(video=video))
    images = [
        frame.reformat(
            size, size, "rgb24", src_colorspace="ITU601", interpolation="BILINEAR"
        ).to_ndarray()
        for frame in frames
    ]
    times = np.array([float(frame.pts * frame.time_base) for frame in frames])
    return times - times[0], np.stack(images)


def _fast(codec: str) -> dict[str, str]:
    return {
        "libx264": {"preset": "veryfast", "bf": "3", "b-pyramid": "normal"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:pools=1"},
        "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
        "libvpx": {"deadline": "realtime", "cpu-used": "8"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    }.get(codec, {})
