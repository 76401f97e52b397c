"""Opening a recording: a file, its one video, and a sentence for everything else."""

# PyAV's Packet takes a type argument in its stubs only.
from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from fla.errors import DataError

# The parameters stand in the header. Reading seconds of video to estimate them would cost
# more than a clip does.
QUICK_OPEN = {"probesize": "32", "analyzeduration": "0"}


@contextmanager
def open_video(
    path: Path, *, options: dict[str, str]
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a recording; inside, too, what FFmpeg does not like becomes a sentence.

    Raises:
        DataError: The file is missing or is no video that decodes.
    """
    try:
        # A pipe would be waited for until somebody writes to it.
        if not S_ISREG(path.stat().st_mode):
            raise unreadable(path, "it is not a file")
        # Titles and the like are not always UTF-8, and nobody reads them here. What stands before
        # a colon of a relative path would be a protocol.
        with av.open(path.absolute(), options=options, metadata_errors="replace") as container:
            stream = _find_video(path, container)
            # Clips are decoded side by side; threads within one would only wait for each other.
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise unreadable(path, error.strerror or "FFmpeg gives no reason") from error


def read_packets(
    path: Path, container: InputContainer, stream: VideoStream
) -> Iterator[Packet[VideoStream]]:
    """The stream's packets from where the container stands, without the empty last one.

    Raises:
        DataError: The container does not hold together.
    """
    try:
        # PyAV's stubs call it an iterator.
        packets = cast("Generator[Packet[VideoStream], None, None]", container.demux(stream))
        # Left unclosed where reading ends early, PyAV would keep its buffer for ever.
        with closing(packets):
            yield from (packet for packet in packets if packet.size)
    # PyAV knows the streams that there were when the file was opened.
    except IndexError as error:
        raise unreadable(path, "another stream begins in its middle") from error


def unreadable(path: Path, reason: str) -> DataError:
    """What is wrong with a recording."""
    return DataError(f"{path} does not decode: {reason}. Replace the file, or leave it out.")


def _find_video(path: Path, container: InputContainer) -> VideoStream:
    # A cover picture is a video stream, too, and may be the first.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise unreadable(path, "it has no video stream")
    # The first of the best, so that the import and the training find the same.
    stream = max(streams, key=lambda stream: bool(stream.disposition & Disposition.default))
    if not stream.codec_context:
        raise unreadable(path, "its codec is unknown")
    has_no_times = container.format.name == "avi" and stream.codec.canonical_name == "h264"
    if has_no_times and stream.codec_context.has_b_frames:
        raise unreadable(path, "an avi does not say when the B-frames of H.264 are shown")
    return stream
