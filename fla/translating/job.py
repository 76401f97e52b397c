"""What is to be translated, and how: as a user asked for it, checked before a model is loaded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fla.errors import ConfigError, DataError
from fla.progress import Progress
from fla.translating.activity import Cut
from fla.translating.output import OutputFormat, choose_format
from fla.translating.recordings import Recording, list_videos, read_recording
from fla.translating.segments import Segment, check_segments, read_segments


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of the tool."""

    inputs: tuple[Path, ...]
    """Videos, folders of videos, and folders of images."""
    model: Path
    """Export folder of a run."""
    out: Path | None = None
    """None: standard output."""
    format: OutputFormat | None = None
    """None: by the ending of `out`."""
    num_beams: int = 5
    num_hypotheses: int = 1
    whole: Segment = field(default_factory=Segment)
    """The part of each video that is translated, where nothing else says its parts."""
    segments: Path | None = None
    """A file that lists them."""
    tier: str = ""
    """Of that file, where it is of ELAN."""
    cut: Cut | None = None
    """How signing is found, where the parts are not known."""
    images_fps: float = 0.0
    """Frames a second of images; 0: not known."""
    host_memory_gib: float = 4.0
    """Bound of the memory that decoded frames take outside of a GPU."""

    @property
    def output_format(self) -> OutputFormat:
        """Of what is written; ConfigError where that is not clear."""
        return choose_format(self.format, self.out)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What there is to translate."""

    parts: tuple[tuple[Recording, tuple[Segment, ...]], ...]
    """Videos with the segments that are known."""
    faults: tuple[DataError, ...]
    """Of the videos that cannot be translated."""


def check_job(job: Job) -> None:
    """Check what can be checked without opening a video.

    Raises:
        ConfigError: The options do not fit each other.
        DataError: The output cannot be written.
    """
    kind = job.output_format
    if not 1 <= job.num_hypotheses <= job.num_beams:
        raise ConfigError(
            f"--n-best ({job.num_hypotheses}) must be between 1 and --num-beams ({job.num_beams})."
        )
    if job.num_hypotheses > 1 and kind not in ("tsv", "jsonl"):
        raise ConfigError(
            f"--n-best ({job.num_hypotheses}): {kind} has room for one sentence. Choose --format "
            "tsv or jsonl."
        )
    for name, value in (("--host-memory-gib", job.host_memory_gib), ("--fps", job.images_fps or 1)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} ({value:g}) must be above 0.")
    if not 0 <= job.whole.start_s < job.whole.end_s:
        raise ConfigError(
            f"--start-s ({job.whole.start_s:g}) must be 0 or later, and before --end-s "
            f"({job.whole.end_s:g})."
        )
    if job.cut is not None and not 0 <= job.cut.min_pause_s < math.inf:
        raise ConfigError(f"--min-pause-s ({job.cut.min_pause_s:g}) must be 0 or more.")
    if job.cut is not None and not 1 <= job.cut.max_length_s < math.inf:
        raise ConfigError(f"--max-length-s ({job.cut.max_length_s:g}) must be 1 or more.")
    if job.out is not None:
        _check_out(job.out, job)


def read_inputs(job: Job) -> Inputs:
    """Open the videos, and read where their sentences are; what cannot be opened is set aside.

    Raises:
        ConfigError: There are more videos than the job is for.
        DataError: The file of segments is not what it should be.
    """
    videos: list[Path] = []
    faults: list[DataError] = []
    for path in job.inputs:
        try:
            videos += list_videos(path)
        except DataError as error:
            faults.append(error)
    _check_number(job, videos)
    segments = [job.whole]
    if job.segments is not None:
        # It is one video then; a fault of it is told below.
        video = videos[0] if videos else job.inputs[0]
        segments = read_segments(job.segments, video=video, tier=job.tier)
    parts: list[tuple[Recording, tuple[Segment, ...]]] = []
    with Progress("open", total=len(videos), unit="videos", is_shown=len(videos) > 1) as progress:
        for video in videos:
            try:
                recording = read_recording(video, images_fps=job.images_fps)
                check_segments(segments, duration_s=recording.duration_s, video=video)
                parts.append((recording, tuple(segments)))
            except DataError as error:
                faults.append(error)
            progress.advance()
    return Inputs(parts=tuple(parts), faults=tuple(faults))


def _check_out(out: Path, job: Job) -> None:
    if not out.parent.is_dir():
        raise DataError(f"--out {out}: there is no folder {out.parent}. Make it first.")
    if out.is_dir():
        raise DataError(f"--out {out} is a folder. Name a file in it.")
    if out.exists() and any(
        path.exists() and out.samefile(path) for path in (job.segments, *job.inputs) if path
    ):
        raise DataError(f"--out {out} is what is read. Name another file.")


def _check_number(job: Job, videos: Sequence[Path]) -> None:
    if len(videos) < 2:
        return
    if job.segments is not None:
        raise ConfigError(
            f"--segments {job.segments} is of one video, and {len(videos)} are to be translated. "
            "Translate each with its own file."
        )
    if job.output_format in ("srt", "vtt"):
        raise ConfigError(
            f"Subtitles are of one video, and {len(videos)} are to be translated. Translate each "
            "by itself, or choose --format tsv or jsonl."
        )
