"""Notes about recordings that have been read: a file of JSON lines, one a recording.

A line has the recording's path, size and time of change, its frame rate, and its frame times to the
last bit. Frames are nearly always equally spaced, so what is kept is how far the bits of each time
are from those of frame number / frame rate, compressed: some hundred bytes instead of thousands.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """When the frames of a recording appear."""

    fps: float
    """Mean frame rate; 0 where a single frame has none."""
    frame_times: NDArray[np.float64]
    """In seconds after the first frame, rising."""

    @property
    def length_s(self) -> float:
        """When the last frame leaves the screen, in seconds after the first one appears."""
        return float(self.frame_times[-1]) + (1 / self.fps if self.fps > 0 else 0.0)


@dataclass(frozen=True, kw_only=True)
class Note:
    """A recording, and how to tell whether its file is still the one that was read."""

    size: int
    """Bytes."""
    mtime_ns: int
    recording: Recording


def read_notes(path: Path) -> dict[str, Note]:
    """Notes by the recordings' paths; the latest of a path holds, and none where there is no file.

    A line that is not whole is passed over: an import that was killed may leave one.
    """
    if not path.is_file():
        return {}
    notes: dict[str, Note] = {}
    for line in path.read_bytes().splitlines():
        try:
            value = json.loads(line)
            times = _unpack(value["frame_times"], value["fps"])
            notes[str(value["path"])] = Note(
                size=int(value["size"]),
                mtime_ns=int(value["mtime_ns"]),
                recording=Recording(fps=float(value["fps"]), frame_times=times),
            )
        except (ValueError, TypeError, KeyError, binascii.Error, zlib.error):
            continue
    return notes


@contextmanager
def open_notes(path: Path) -> Iterator[Callable[[str, Note], None]]:
    """Add to a file of notes; it is made where it is missing.

    Yields:
        A function that takes a recording's path and its note, and writes the line at once.
    """
    with path.open("ab+") as file:
        file.seek(max(path.stat().st_size - 1, 0))
        # What follows half a line must not become part of it.
        if file.read() not in (b"", b"\n"):
            file.write(b"\n")

        def add(name: str, note: Note) -> None:
            file.write(_format(name, note).encode())
            file.flush()

        yield add


def _format(path: str, note: Note) -> str:
    times, fps = note.recording.frame_times, note.recording.fps
    value = {
        "path": path,
        "size": note.size,
        "mtime_ns": note.mtime_ns,
        "fps": fps,
        "frame_times": _pack(times, fps),
    }
    return f"{json.dumps(value)}\n"


def _pack(times: NDArray[np.float64], fps: float) -> str:
    bits = times.view(np.int64) - _even_times(len(times), fps).view(np.int64)
    return base64.b64encode(zlib.compress(bits.astype("<i8").tobytes())).decode()


def _unpack(packed: str, fps: float) -> NDArray[np.float64]:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype="<i8").astype(np.int64)
    return (bits + _even_times(len(bits), fps).view(np.int64)).view(np.float64)


def _even_times(num_frames: int, fps: float) -> NDArray[np.float64]:
    return np.arange(num_frames, dtype=np.float64) / (fps if fps > 0 else 1.0)
