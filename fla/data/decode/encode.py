"""Recordings encoded anew: smaller pictures and short closed GOPs, at the same times.

Scaled as YUV, with no change of matrix or range, so that the copy is read with the same rule of
color as its source (see `convert`). No B-frames: nothing is presented in another order than it is
stored, so a copy needs no edit list; measured with x264, they would make decoding of one frame in
four 6 % faster, and that of every frame 9 % slower. What is rotated stays so by what its container
says.
"""

import errno
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fla.data.decode.container import open_video
from fla.data.decode.video import probe_video
from fla.errors import DataError

TIME_TOLERANCE_S = 1e-6
"""Farther from its source's a copy's frame may not be: the tolerance of `in_range`, so that a
range holds the same frames in both."""

_TRIAL_RATE = Fraction(25)
# MPEG-TS says nothing of its pictures; FFmpeg sees some before it believes what they are.
_TRIAL_FRAMES = 25
_FULL, _LIMITED = int(ColorRange.JPEG), int(ColorRange.MPEG)
# FFmpeg's numbers of matrices: RGB has none, 3 is reserved, 6 is BT.601.
_NO_MATRIX, _BT601 = (0, 3), 6


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How FFmpeg encodes to a codec: on one thread, fast, and for decoders that have it easy."""

    name: str
    crf: int | None = None
    """Quality where the caller names none; None: the encoder has a fixed quality."""
    worst_crf: int = 51
    options: Mapping[str, str] = field(default_factory=dict)


ENCODERS = {
    # fastdecode leaves out CABAC and the deblocking filter: measured at 256 pixels, 1.4 to 1.7
    # times the speed for 7 % more bytes.
    "h264": Encoder(
        name="libx264",
        crf=20,
        options={"preset": "veryfast", "tune": "fastdecode", "sc_threshold": "0", "flags": "+cgop"},
    ),
    "hevc": Encoder(
        name="libx265",
        crf=22,
        options={
            "preset": "superfast",
            "tune": "fastdecode",
            "flags": "+cgop",
            "x265-params": "scenecut=0:pools=none:frame-threads=1:log-level=error",
        },
    ),
    # Without lag and alternate references each packet is one picture that is shown.
    "vp9": Encoder(
        name="libvpx-vp9",
        crf=30,
        worst_crf=63,
        options={
            "deadline": "realtime", "cpu-used": "6", "b": "0",
            "lag-in-frames": "0", "auto-alt-ref": "0",
        },
    ),
    "av1": Encoder(
        name="libsvtav1",
        crf=30,
        worst_crf=63,
        options={"preset": "10", "svtav1-params": "lp=1:pred-struct=1:scd=0:fast-decode=1"},
    ),
    "mjpeg": Encoder(name="mjpeg", options={"qmin": "3", "qmax": "3"}),
}  # fmt: skip
"""By the codec's name."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What recordings are encoded to."""

    codec: str
    """One of `ENCODERS`."""
    crf: int | None
    """Quality, lower is better; None where the encoder has no such scale."""
    short_side_px: int
    """Width or height, whichever is less, even; smaller recordings keep their size."""
    key_frame_every: int
    """Frames from one key frame to the next."""


def encode_video(source: Path, output: Path, target: Target, *, end_s: float = math.inf) -> None:
    """Encode a recording's pictures anew, then decode the copy and compare its frames' times.

    The first frame is at the container's beginning, 0 s in most; sound is left out. Pictures keep
    their proportions, but for the rounding to even sides.

    Args:
        source: The recording. Its suffix says what container the copy gets.
        output: Where to write the copy, whatever its suffix.
        target: What to encode to.
        end_s: Leave out frames presented later, in seconds after the first.

    Raises:
        DataError: The source does not decode, or the copy would not present the same frames at
            the same times in the same orientation.
        OSError: The disk is full.
    """
    info = probe_video(source)
    times = info.frame_times
    twice = np.flatnonzero(np.diff(times) <= 0)
    if len(twice):
        raise DataError(
            f"{source}: two frames are presented at {times[twice[0]]:.6f} s. "
            "Replace the file, or leave it out."
        )
    kept = times[times < end_s]
    first = _write(
        islice(_decode(source, times), len(kept)),
        output,
        target,
        suffix=source.suffix,
        rate=Fraction(info.fps).limit_denominator(1001),
    )
    try:
        _check_copy(output, kept, first)
    except DataError as error:
        raise DataError(
            f"{source} cannot be copied to {target.codec} in {source.suffix}: {error} "
            "Leave it out, or convert it to .mp4 and import the data again."
        ) from error


def can_hold(suffix: str, codec: str) -> bool:
    """Whether FFmpeg writes a codec into the container that a suffix names, and reads it again."""
    frames = [_noise(number) for number in range(_TRIAL_FRAMES)]
    target = Target(codec=codec, crf=ENCODERS[codec].crf, short_side_px=64, key_frame_every=12)
    with TemporaryDirectory() as folder:
        output = Path(folder) / "trial"
        try:
            _write(frames, output, target, suffix=suffix, rate=_TRIAL_RATE)
            with av.open(output) as container:
                # There is no context for a codec that the container does not name.
                contexts = [s.codec_context for s in container.streams.video if s.codec_context]
                if [context.codec.canonical_name for context in contexts] != [codec]:
                    return False
            _check_copy(output, np.arange(_TRIAL_FRAMES) / float(_TRIAL_RATE), frames[0])
        # ValueError is what PyAV gives for an unknown suffix or codec, or a pair that it knows
        # not to fit; also as an error of FFmpeg.
        except (DataError, av.FFmpegError, ValueError):
            return False
    return True


def _noise(number: int) -> av.VideoFrame:
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels)
    frame.pts, frame.time_base = number, 1 / _TRIAL_RATE
    return frame


def _decode(path: Path, times: NDArray[np.float64]) -> Iterator[av.VideoFrame]:
    """All frames of a recording, in order, each at the time that the container promises."""
    number = 0
    # As all others open it: titles need not be UTF-8, and a cover is no video.
    with open_video(path, options={}) as (container, stream):
        first_s = None
        for frame in container.decode(stream):
            now_s = float((frame.pts or 0) * (stream.time_base or 0))
            first_s = now_s if first_s is None else first_s
            due_s = times[number] if number < len(times) else math.inf
            # What a decoder makes up for damage would look like a picture in the copy.
            if abs(now_s - first_s - due_s) > TIME_TOLERANCE_S or frame.is_corrupt:
                break
            yield frame
            number += 1
        else:
            if number == len(times):
                return
    raise DataError(
        f"{path} does not decode: of its {len(times)} frames, the one at "
        f"{times[min(number, len(times) - 1)]:.3f} s is missing or damaged. "
        "Replace the file, or leave it out."
    )


def _write(
    frames: Iterable[av.VideoFrame],
    output: Path,
    target: Target,
    *,
    suffix: str,
    rate: Fraction,
) -> av.VideoFrame:
    """Encode frames into the container that a suffix names; gives the first one back."""
    frames = iter(frames)
    first = next(frames)
    origin, time_base = first.pts or 0, first.time_base or Fraction(1)
    reformatter = VideoReformatter()
    try:
        with av.open(f"name{suffix}", "w") as named:
            format_name = named.format.name
        # An mp4 would get one that hides nothing.
        options = {"use_editlist": "0"}
        with av.open(output, "w", format=format_name, container_options=options) as container:
            encoder = ENCODERS[target.codec]
            # SVT-AV1 would print its settings for every recording.
            os.environ.setdefault("SVT_LOG", "0")
            stream = container.add_stream(
                encoder.name, rate=rate or 25, options=_options(encoder, target)
            )
            assert isinstance(stream, VideoStream)
            _describe(stream, first, target)
            stream.codec_context.time_base = time_base
            for frame in chain([first], frames):
                container.mux(stream.encode(_shape(frame, stream, reformatter, origin=origin)))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, error.strerror, str(output)) from error
        raise DataError(f"{output} cannot be written: {error.strerror}.") from error
    return first


def _options(encoder: Encoder, target: Target) -> dict[str, str]:
    every = str(target.key_frame_every)
    shared = {"g": every, "keyint_min": every, "bf": "0"}
    quality = {} if target.crf is None else {"crf": str(target.crf)}
    return {**shared, **encoder.options, **quality}


def _describe(stream: VideoStream, first: av.VideoFrame, target: Target) -> None:
    """Say what the pictures will be: size, orientation and color are those of the first."""
    context = stream.codec_context
    context.thread_count = 1
    context.width, context.height = _size(first.width, first.height, target.short_side_px)
    context.pix_fmt = "yuv420p"
    is_full = first.color_range == _FULL and not first.format.is_rgb
    # JPEG knows no other.
    context.color_range = _FULL if is_full or target.codec == "mjpeg" else _LIMITED
    context.colorspace = _BT601 if first.colorspace in _NO_MATRIX else first.colorspace
    matrix = _display_matrix(first)
    if matrix:
        stream.set_display_matrix(np.frombuffer(matrix, np.int32).tolist())


def _size(width: int, height: int, short_side_px: int) -> tuple[int, int]:
    """Width and height of a copy, in pixels: even, and never more than the source's."""
    scale = min(1.0, short_side_px / min(width, height))
    # Halves go down.
    return (
        max(2, 2 * math.ceil(width * scale / 2 - 0.5)),
        max(2, 2 * math.ceil(height * scale / 2 - 0.5)),
    )


def _shape(
    frame: av.VideoFrame, stream: VideoStream, reformatter: VideoReformatter, *, origin: int
) -> av.VideoFrame:
    """A frame as it will be encoded: scaled, 4:2:0, 8 bit, its time counted from `origin`."""
    context = stream.codec_context
    shaped = reformatter.reformat(
        frame,
        context.width,
        context.height,
        "yuv420p",
        # The same on both sides, so that the values keep their meaning; RGB is converted as
        # it will be read.
        src_colorspace=Colorspace.ITU601,
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=context.color_range,
        # Of what was tried, the nearest to the source when both are scaled for training.
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    shaped.pts = (frame.pts or 0) - origin
    shaped.time_base = frame.time_base
    # Or the source's key frames would be key frames, too.
    shaped.pict_type = 0
    return shaped


def _display_matrix(frame: av.VideoFrame) -> bytes:
    data = frame.side_data.get("DISPLAYMATRIX")
    return b"" if data is None else bytes(data)  # type: ignore[call-overload]


def _check_copy(output: Path, times: NDArray[np.float64], source: av.VideoFrame) -> None:
    found = probe_video(output).frame_times
    if len(found) != len(times):
        raise DataError(f"of {len(times)} frames, {len(found)} would be presented.")
    error_s = np.abs(found - times)
    if error_s.max() > TIME_TOLERANCE_S:
        worst = int(error_s.argmax())
        raise DataError(
            f"the frame at {times[worst]:.6f} s would be presented at {found[worst]:.6f} s."
        )
    matrices = {_display_matrix(frame) for frame in _decode(output, found)}
    if matrices != {_display_matrix(source)}:
        raise DataError("its pictures would be presented in another orientation.")
