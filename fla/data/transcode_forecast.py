"""What encoding recordings anew will bring, told before the work begins."""

import math
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fla.data.decode.encode import Target, encode_video
from fla.data.decode.video import probe_video, read_frames
from fla.data.processes import count_cores, map_on_all_cores
from fla.data.transcode import Recording
from fla.errors import DataError

_RECORDINGS = 3
_SECONDS = 10.0
# What training scales frames to, roughly.
_SIDE_PX = 256


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What to expect, from the beginnings of a few recordings."""

    num_recordings: int
    """How many were looked at."""
    num_seconds: float
    """How long these beginnings are together."""
    bytes_now: int
    """Of all recordings that are to be encoded."""
    bytes_then: int
    fps_now: float
    """Frames that are decoded and scaled in a second of CPU time."""
    fps_then: float
    duration_s: float
    """Of encoding all recordings on all cores."""

    def __str__(self) -> str:
        return (
            f"{self.bytes_now / 1e9:.3g} GB now, about {self.bytes_then / 1e9:.3g} GB then; "
            f"{self.fps_now:.0f} frames decoded in a CPU second now, {self.fps_then:.0f} then: "
            f"{self.fps_then / self.fps_now:.1f} times as fast; about "
            f"{_in_words(self.duration_s)} on {count_cores()} idle cores. "
            f"Measured on {self.num_seconds:.0f} s of {self.num_recordings} recordings."
        )


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """The beginning of a recording and of its copy."""

    num_frames: int
    num_seconds: float
    bytes_now: float
    bytes_then: int
    decode_now_s: float
    """CPU time, as the two below."""
    decode_then_s: float
    encode_s: float


def forecast(recordings: Sequence[Recording], target: Target) -> tuple[Forecast | None, list[str]]:
    """Encode the beginnings of a few recordings into a temporary folder, and measure.

    Args:
        recordings: At least one; the largest first.
        target: What they are to be encoded to.

    Returns:
        What to expect, or None where none of the few decodes; a sentence for each that does not.
    """
    # The middle of each third.
    places = {(2 * n + 1) * len(recordings) // (2 * _RECORDINGS) for n in range(_RECORDINGS)}
    chosen = [recordings[place] for place in sorted(places)]
    with TemporaryDirectory() as folder:
        attempt = partial(_attempt, target=target, folder=Path(folder))
        with closing(map_on_all_cores(attempt, chosen)) as results:
            tried = list(results)
    faults = [result for result in tried if isinstance(result, str)]
    trials = [result for result in tried if isinstance(result, _Trial)]
    return (_extrapolate(recordings, trials) if trials else None), faults


def _extrapolate(recordings: Sequence[Recording], trials: Sequence[_Trial]) -> Forecast:
    bytes_now = sum(recording.num_bytes for recording in recordings)
    factor = bytes_now / sum(trial.bytes_now for trial in trials)
    num_frames = sum(trial.num_frames for trial in trials)
    # One recording is the work of one core.
    largest_share = recordings[0].num_bytes / bytes_now
    share = max(1 / count_cores(), largest_share)
    return Forecast(
        num_recordings=len(trials),
        num_seconds=sum(trial.num_seconds for trial in trials),
        bytes_now=bytes_now,
        bytes_then=int(factor * sum(trial.bytes_then for trial in trials)),
        fps_now=num_frames / sum(trial.decode_now_s for trial in trials),
        fps_then=num_frames / sum(trial.decode_then_s for trial in trials),
        duration_s=factor * sum(trial.encode_s for trial in trials) * share,
    )


def _attempt(recording: Recording, *, target: Target, folder: Path) -> _Trial | str:
    source = recording.source
    copy = folder / f"{os.getpid()}{source.suffix}"
    try:
        times = probe_video(source).frame_times
        begin_s = time.process_time()
        encode_video(source, copy, target, end_s=_SECONDS)
        encode_s = time.process_time() - begin_s
        kept = times[times < _SECONDS]
        return _Trial(
            num_frames=len(kept),
            num_seconds=float(kept[-1]),
            bytes_now=recording.num_bytes * len(kept) / len(times),
            bytes_then=copy.stat().st_size,
            decode_now_s=_time_decoding(source, len(kept)),
            decode_then_s=_time_decoding(copy, len(kept)),
            encode_s=encode_s,
        )
    except DataError as error:
        return str(error)


def _time_decoding(path: Path, num_frames: int) -> float:
    begin_s = time.process_time()
    read_frames(
        path,
        start_s=0.0,
        end_s=_SECONDS,
        num_frames=num_frames,
        frame_numbers=np.arange(num_frames, dtype=np.int32),
        height=_SIDE_PX,
        width=_SIDE_PX,
    )
    return time.process_time() - begin_s


def _in_words(duration_s: float) -> str:
    for unit, seconds in (("h", 3600), ("min", 60)):
        if duration_s >= 2 * seconds:
            return f"{duration_s / seconds:.0f} {unit}"
    return f"{math.ceil(duration_s)} s"
