"""Recordings: list the frames of one, decode or copy a range of it in software, exactly.

A frame is named by when it is presented, in seconds after the recording's first presented frame.
What the container hides (an edit list's packets) is no frame. Only the key frame before a range
is sought and only the chosen frames are converted, so a clip costs its length, not its recording's.

Shape letters: T = chosen frames of a clip; H, W = height and width in pixels.
"""

# PyAV's Packet takes a type argument in its stubs only.
from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fla.data.decode.container import QUICK_OPEN, open_video, read_packets, unreadable
from fla.data.decode.convert import Converter
from fla.data.decode.layout import is_uniform
from fla.data.decode.shown import find_shown
from fla.errors import DataError

_TOLERANCE_S = 1e-6
# A decoder of H.264 or HEVC holds at most 16 pictures back, so a frame is presented
# at most so many packets away from its place in the file.
_MAX_REORDER = 16
# Less than this may be missing at the end: rounding, and containers that round up.
_END_SLACK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class VideoFormat:
    """What a recording's header and its first picture say."""

    codec: str
    """FFmpeg's name: h264, hevc, vp9, mjpeg ..."""
    width: int
    height: int
    pixel_format: str
    """FFmpeg's name: yuv420p ..."""
    duration_s: float
    """How long the header says that it lasts; infinity where that does not say."""
    is_plain: bool
    """Shown as it is stored, neither turned nor interlaced."""
    aspect: float
    """Width over height as it is shown."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo(VideoFormat):
    """What the container says of a recording, without decoding it."""

    fps: float
    """Mean frame rate; frames need not be equally spaced."""
    frame_times: NDArray[np.float64]
    """Presentation times in seconds after the first frame, rising."""


@dataclass(frozen=True, kw_only=True)
class EncodedRange:
    """The compressed pictures around a range, as a small file of their own."""

    data: NDArray[np.uint8]
    """A Matroska file that begins with a key frame."""
    first_frame: int
    """Number of the range's first frame in that file, in presentation order."""
    is_uniform: bool
    """All pictures have the size of the header, and one sampling of color, as DALI believes."""


@dataclass(frozen=True, kw_only=True)
class _PacketRange:
    """Packets in file order, from the key frame before a range to its last packet."""

    packets: list[Packet[VideoStream]]
    pts: NDArray[np.int64]
    in_order: NDArray[np.intp]
    """Indices of the range's packets, in presentation order."""


def probe_video(path: Path) -> VideoInfo:
    """List the frames of a recording from its packets.

    Raises:
        DataError: The file is missing, is no video, or has no time stamps.
    """
    with open_video(path, options={}) as (container, stream):
        shown = (p for p in read_packets(path, container, stream) if not p.is_discard)
        # Not the packets themselves: a whole recording would stay in memory.
        spans = [(_presented_at(packet, path), packet.duration or 0) for packet in shown]
        if not spans:
            raise unreadable(path, "it has no frames")
        _check_whole(path, stream, spans)
        stored = np.array([start for start, _ in spans])
        _check_order(path, stored)
        pts = np.sort(stored)
        times = np.asarray((pts - pts[0]) * _seconds_per_tick(stream), dtype=np.float64)
        average_rate = float(stream.average_rate or 0.0)
        return VideoInfo(
            # Opened once more, as a run opens it: what a run would refuse is no sample.
            **asdict(read_format(path)),
            fps=float((len(times) - 1) / times[-1]) if times[-1] > 0 else average_rate,
            frame_times=times,
        )


def read_format(path: Path) -> VideoFormat:
    """What a recording's header and its first picture say, without reading on.

    Raises:
        DataError: The file is missing or is no video.
    """
    with open_video(path, options=QUICK_OPEN) as (container, stream):
        context = stream.codec_context
        return VideoFormat(
            codec=stream.codec.canonical_name,
            width=context.width,
            height=context.height,
            pixel_format=context.pix_fmt or "unknown",
            duration_s=float("inf")
            if container.duration is None
            else container.duration / av.time_base,
            **asdict(find_shown(path, container, stream)),
        )


def in_range(times: NDArray[np.float64], start_s: float, end_s: float) -> NDArray[np.bool_]:
    """Which frames a range holds: those with `start_s <= t < end_s`, to a microsecond.

    The one rule for importing and decoding: two rules would sooner or later differ by a frame.
    """
    return (times >= start_s - _TOLERANCE_S) & (times < end_s - _TOLERANCE_S)


def read_frames(
    path: Path,
    *,
    start_s: float,
    end_s: float,
    num_frames: int,
    frame_numbers: NDArray[np.int32],
    height: int,
    width: int,
) -> NDArray[np.uint8]:
    """Decode chosen frames of a range and scale them while their color is converted.

    Args:
        path: The recording.
        start_s: First moment, in seconds after the recording's first presented frame.
        end_s: End, exclusive, on the same clock.
        num_frames: Frames that the range must hold.
        frame_numbers: Frames to return, counted from the range's first, int32, `(T,)`.
        height: H.
        width: W.

    Returns:
        RGB, uint8, `(T, H, W, 3)`.

    Raises:
        DataError: The file does not decode, or the range holds another number of frames.
    """
    with open_video(path, options=QUICK_OPEN) as (container, stream):
        found = _read_packets(
            path, container, stream, start_s=start_s, end_s=end_s, num_frames=num_frames
        )
        chosen = found.in_order[frame_numbers]
        frames = _decode_chosen(stream, found, set(chosen.tolist()))
        images = _convert(path, frames, height=height, width=width)
    missing = [n for n, c in zip(frame_numbers, chosen, strict=True) if found.pts[c] not in images]
    if missing:
        raise DataError(
            f"{path}, {start_s:.3f} s to {end_s:.3f} s: frame {missing[0]} of the range does not "
            "decode. Replace the file, or leave it out."
        )
    return np.stack([images[found.pts[c]] for c in chosen])


def copy_range(path: Path, *, start_s: float, end_s: float, num_frames: int) -> EncodedRange:
    """Copy a range's packets, from the key frame before it, into a file in memory.

    For decoders that do not seek. Nothing is decoded. Arguments as in `read_frames`.

    Raises:
        DataError: The file cannot be read, or the range holds another number of frames.
    """
    with open_video(path, options=QUICK_OPEN) as (container, stream):
        found = _read_packets(
            path, container, stream, start_s=start_s, end_s=end_s, num_frames=num_frames
        )
        begin = _key_before(found, found.in_order)
        kept = _decodable(found, begin, int(found.in_order.max()) + 1)
        first_pts = found.pts[found.in_order[0]]
        packets = [found.packets[i] for i in kept]
        return EncodedRange(
            data=_as_matroska(stream, packets),
            first_frame=int(np.sum(found.pts[kept] < first_pts)),
            is_uniform=is_uniform(
                stream.codec.canonical_name,
                map(bytes, packets),
                width=stream.codec_context.width,
                height=stream.codec_context.height,
            ),
        )


def _check_whole(path: Path, stream: VideoStream, spans: list[tuple[int, int]]) -> None:
    """Refuse a file that ends before its header says; `spans` are starts and lengths in ticks."""
    # A header at the front outlives the end of a download. Its duration leaves out what an edit
    # list hides; its number of frames does not.
    if stream.duration is None:
        return
    tick_s = _seconds_per_tick(stream)
    found = max(start + length for start, length in spans) - min(start for start, _ in spans)
    promised_s, found_s = stream.duration * tick_s, found * tick_s
    if promised_s - found_s > _END_SLACK_S:
        raise unreadable(
            path, f"its header promises {promised_s:.2f} s of video, the file holds {found_s:.2f} s"
        )


def _check_order(path: Path, pts: NDArray[np.int64]) -> None:
    """Refuse a file whose clock jumps back, as that of joined broadcasts; seeking would be lost."""
    order = np.argsort(pts, kind="stable")
    if np.abs(order - np.arange(len(pts))).max() > _MAX_REORDER:
        raise unreadable(path, "its time stamps jump back")


def _seconds_per_tick(stream: VideoStream) -> float:
    return float(stream.time_base or 0)


def _presented_at(packet: Packet[VideoStream], path: Path) -> int:
    if packet.pts is None:
        raise unreadable(path, "it has frames without a time stamp")
    return packet.pts


def _first_pts(path: Path, container: InputContainer, stream: VideoStream) -> int:
    """Time stamp of the recording's first presented frame, in the stream's ticks."""
    # Not stream.start_time: Matroska has none before its packets are read.
    first: list[int] = []
    for packet in read_packets(path, container, stream):
        if not packet.is_discard:
            first.append(_presented_at(packet, path))
        if len(first) > _MAX_REORDER:
            break
    if not first:
        raise unreadable(path, "it has no frames")
    return min(first)


def _read_packets(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    *,
    start_s: float,
    end_s: float,
    num_frames: int,
) -> _PacketRange:
    """Read the packets of a range, from a key frame that is presented before it."""
    first = _first_pts(path, container, stream)
    tick_s = _seconds_per_tick(stream)
    start = first + int((start_s + _TOLERANCE_S) / tick_s)
    packets = _seek_packets(path, container, stream, first, start, first + end_s / tick_s)
    pts = np.array([_presented_at(packet, path) for packet in packets], dtype=np.int64)
    shown = np.array([not packet.is_discard for packet in packets], dtype=np.bool_)
    times = np.asarray((pts - first) * tick_s, dtype=np.float64)
    inside = np.flatnonzero(in_range(times, start_s, end_s) & shown)
    if len(inside) != num_frames or not num_frames:
        raise DataError(
            f"{path}, {start_s:.3f} s to {end_s:.3f} s: the range holds {len(inside)} frames, but "
            f"the manifest says {num_frames}. Import the data again, or remove the row."
        )
    if len(np.unique(pts[inside])) < num_frames:
        raise unreadable(path, "two of its frames are shown at the same time")
    return _PacketRange(
        packets=packets, pts=pts, in_order=inside[np.argsort(pts[inside], kind="stable")]
    )


def _seek_packets(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    first: int,
    start: int,
    end: float,
) -> list[Packet[VideoStream]]:
    """Packets from a key frame that is presented at `start` or before; all in ticks."""
    target, step_s = start, 1.0
    while True:
        container.seek(max(target, first), stream=stream)
        packets = list(_packets_until(path, container, stream, end))
        # Demuxers seek by decoding time or by place, so what they find may be presented too late.
        if packets and _presented_at(packets[0], path) <= start:
            return packets
        if target <= first:
            break
        target -= int(step_s / _seconds_per_tick(stream))
        step_s *= 2
    # Some, as MPEG-TS's, never seek back to the first packet.
    with open_video(path, options=QUICK_OPEN) as (fresh, fresh_stream):
        return list(_packets_until(path, fresh, fresh_stream, end))


def _packets_until(
    path: Path, container: InputContainer, stream: VideoStream, end_pts: float
) -> Iterator[Packet[VideoStream]]:
    """Packets from the next key frame on, until nothing presented before `end_pts` can follow."""
    started, late = False, 0
    for packet in read_packets(path, container, stream):
        started = started or packet.is_keyframe
        if not started:
            continue
        yield packet
        late = late + 1 if _presented_at(packet, path) >= end_pts else 0
        if late > _MAX_REORDER:
            return


def _key_before(found: _PacketRange, needed: NDArray[np.intp]) -> int:
    """The latest key frame from which all needed packets decode."""
    latest = int(needed.min())
    earliest_pts = found.pts[needed].min()
    keys = (
        i
        for i in range(latest, 0, -1)
        if found.packets[i].is_keyframe and found.pts[i] <= earliest_pts
    )
    return next(keys, 0)


def _decodable(found: _PacketRange, begin: int, end: int) -> NDArray[np.intp]:
    # Pictures presented before the key frame that they follow refer to what was not read.
    return begin + np.flatnonzero(found.pts[begin:end] >= found.pts[begin])


def _decode_chosen(
    stream: VideoStream, found: _PacketRange, chosen: set[int]
) -> Iterator[av.VideoFrame]:
    """Decode what the chosen packets need; yields their frames, in presentation order."""
    context = stream.codec_context
    wanted = {int(found.pts[i]) for i in chosen}
    begin = _key_before(found, np.array(sorted(chosen)))
    for i in _decodable(found, begin, max(chosen) + 1):
        # No other picture refers to these, so leaving them out changes nothing. The first
        # packet opens the decoder, and some read the setting only then.
        skip = i not in chosen and i != begin
        context.skip_frame = "NONREF" if skip else "DEFAULT"
        yield from (f for f in context.decode(found.packets[i]) if f.pts in wanted)
    yield from (f for f in context.decode(None) if f.pts in wanted)


def _convert(
    path: Path, frames: Iterator[av.VideoFrame], *, height: int, width: int
) -> dict[int, NDArray[np.uint8]]:
    """Scaled RGB images by time stamp, in the stream's ticks."""
    converter = Converter(path, height=height, width=width)
    images: dict[int, NDArray[np.uint8]] = {}
    for frame in frames:
        # A decoder fills in what it could not read; it would look like a picture.
        if frame.is_corrupt:
            raise unreadable(path, f"its picture with time stamp {frame.pts} is damaged")
        images[frame.pts or 0] = converter.convert(frame)
    return images


def _as_matroska(stream: VideoStream, packets: list[Packet[VideoStream]]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    origin = min(packet.pts or 0 for packet in packets)
    with av.open(buffer, "w", format="matroska") as output:
        # Opaque: without it PyAV wants an encoder of that codec, which there need not be.
        copied = output.add_stream_from_template(stream, opaque=True)
        for packet in packets:
            packet.pts = (packet.pts or 0) - origin
            packet.dts = None if packet.dts is None else packet.dts - origin
            packet.stream = copied
            output.mux(packet)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)
