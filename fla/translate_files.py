"""Translate what a user names, and write it: opens, finds, translates, and lists what went wrong.

Only what was asked for goes to standard output; all else goes to standard error.
"""

import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TextIO

from fla.errors import DataError, FlaError
from fla.progress import Progress
from fla.search import Search
from fla.translate import Recording, Segment, VideoTranslator
from fla.translating.activity import Cut, find_signing
from fla.translating.job import Inputs, Job
from fla.translating.output import Row, Writer

# A name on disk need not be UTF-8, nor a terminal.
_ESCAPE = "backslashreplace"
# What shells give for it: 128 and the number of the signal.
_PIPE_CLOSED = 141
# Translated before any of them is written: enough for batches of like lengths.
_CLIPS_AT_ONCE = 256
# A recording of a hundred segments may have a hundred warnings.
_MAX_WARNINGS = 5

Clip = tuple[Recording, Segment]


def translate_files(job: Job, inputs: Inputs) -> list[DataError]:
    """Translate what was found, and write it as the job asks.

    Args:
        job: One that `check_job` has accepted.
        inputs: What `read_inputs` has found of it.

    Returns:
        What is wrong with the videos and segments that were not translated.

    Raises:
        CheckpointError: The model is no export.
        DataError: The output cannot be written.
    """
    if not inputs.parts:
        return list(inputs.faults)
    search = Search(num_beams=job.num_beams, num_hypotheses=job.num_hypotheses)
    # Also where only one of them can be translated.
    several = len(inputs.parts) + len(inputs.faults) > 1
    with (
        VideoTranslator(
            job.model, search=search, host_memory_gib=job.host_memory_gib
        ) as translator,
        _open_output(job) as file,
        closing(Writer(file, kind=job.output_format, several_videos=several)) as writer,
    ):
        unlike = {}
        for recording, _ in inputs.parts:
            unlike[recording.path] = translator.describe_unlike(recording)
            _warn(unlike[recording.path])
        clips, unsegmented = _list_clips(inputs, job.cut)
        failed = _translate_clips(translator, clips, unlike, writer)
    return [*inputs.faults, *unsegmented, *failed]


def _translate_clips(
    translator: VideoTranslator,
    clips: Sequence[Clip],
    unlike: Mapping[Path, tuple[str, ...]],
    writer: Writer,
) -> list[DataError]:
    """Translate and write clips; `unlike` are the warnings on their videos."""
    faults: list[DataError] = []
    warnings = _SegmentWarnings()
    with Progress(
        "translate", total=len(clips), unit="segments", is_shown=len(clips) > 1
    ) as progress:
        for first in range(0, len(clips), _CLIPS_AT_ONCE):
            some = clips[first : first + _CLIPS_AT_ONCE]
            results = translator.translate_clips(some, on_progress=progress.advance)
            for (recording, _), result in zip(some, results, strict=True):
                if isinstance(result, DataError):
                    faults.append(result)
                    continue
                warnings.say(recording, result.warnings)
                row = Row(
                    video=recording.path,
                    segment=result.segment,
                    hypotheses=result.hypotheses,
                    warnings=(*unlike[recording.path], *result.warnings),
                )
                writer.add(row)
            writer.flush()
    warnings.close()
    return faults


def _list_clips(inputs: Inputs, cut: Cut | None) -> tuple[list[Clip], list[DataError]]:
    """Every segment with its video, and what is wrong with videos that have none."""
    clips: list[Clip] = []
    faults: list[DataError] = []
    for recording, segments in inputs.parts:
        try:
            parts = segments if cut is None else _find_segments(recording, cut)
            clips += [(recording, segment) for segment in parts]
        except DataError as error:
            faults.append(error)
    return clips, faults


def _find_segments(recording: Recording, cut: Cut) -> Sequence[Segment]:
    with Progress(
        f"find signing in {recording.path.name}", total=int(recording.duration_s), unit="s"
    ) as progress:
        shown = 0

        def advance(seconds: float) -> None:
            nonlocal shown
            progress.advance(int(seconds) - shown)
            shown = int(seconds)

        return find_signing(recording, cut=cut, on_progress=advance)


@contextmanager
def _open_output(job: Job) -> Iterator[TextIO]:
    if job.out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors=_ESCAPE)
        try:
            yield sys.stdout
        except BrokenPipeError:
            # `| head` has seen enough. Python would try again when it ends, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(_PIPE_CLOSED) from None
        return
    try:
        with job.out.open("w", encoding="utf-8", errors=_ESCAPE) as file:
            yield file
    except FlaError:
        raise
    except OSError as error:
        raise DataError(
            f"--out {job.out} cannot be written: {error.strerror}. Name another file."
        ) from error


def _warn(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr, flush=True)


class _SegmentWarnings:
    """Says the first warnings on the segments of a video, and counts the others."""

    def __init__(self) -> None:
        self._counts: Counter[Path] = Counter()

    def say(self, recording: Recording, sentences: Sequence[str]) -> None:
        """Warn of one segment, unless there were many warnings on its video."""
        self._counts[recording.path] += len(sentences)
        if self._counts[recording.path] <= _MAX_WARNINGS:
            _warn([f"{recording.path}, {sentence}" for sentence in sentences])

    def close(self) -> None:
        """Say how many there were besides."""
        for path, count in self._counts.items():
            if count > _MAX_WARNINGS:
                more = count - _MAX_WARNINGS
                _warn([f"{path}: {more} more such warnings; --format jsonl has all of them."])
