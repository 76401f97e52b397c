"""The parts of a recording that hold one sentence each, and the files that list them."""

import csv
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fla.errors import DataError
from fla.translating.elan import read_elan_times
from fla.translating.subtitles import SUBTITLE_ENDINGS, read_subtitle_times

# A segment may end so much behind its video: times are rounded, and sound often lasts longer.
SLACK_S = 0.5

_COLUMNS = ("start_s", "end_s")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The range of a video that holds one sentence."""

    start_s: float = 0.0
    """First moment, in seconds after the first presented frame."""
    end_s: float = float("inf")
    """End, exclusive; infinity: the end of the video."""

    def __str__(self) -> str:
        end = "the end" if math.isinf(self.end_s) else f"{self.end_s:.2f} s"
        return f"{self.start_s:.2f} s to {end}"


def read_segments(path: Path, *, video: Path, tier: str = "") -> list[Segment]:
    """Read where the sentences of a recording are, in the order of their starts.

    Args:
        path: Subtitles (.srt, .vtt), an ELAN file (.eaf), or a table (.tsv) whose header names
            start_s and end_s.
        video: The recording.
        tier: Of an ELAN file; empty: its only one that is not empty.

    Raises:
        DataError: The file is none of these, lists nothing, or a segment ends before it starts.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Check the path.")
    ending = path.suffix.lower()
    if ending in SUBTITLE_ENDINGS:
        times = read_subtitle_times(path)
    elif ending == ".eaf":
        times = read_elan_times(path, tier=tier, video=video)
    elif ending == ".tsv":
        times = _read_table_times(path)
    else:
        raise DataError(
            f"{path}: segments are read from .srt, .vtt, .eaf and .tsv files. Rename it, if it is "
            "one of them."
        )
    if not times:
        raise DataError(f"{path} lists no segment. Leave it out, or write its lines.")
    for number, (start_s, end_s) in enumerate(times, 1):
        if not 0 <= start_s < end_s < math.inf:
            raise DataError(
                f"{path}: segment {number} starts at {start_s:.3f} s and ends at {end_s:.3f} s; it "
                "must start at 0 or later and end after that. Correct the file."
            )
    return [Segment(start_s=start_s, end_s=end_s) for start_s, end_s in sorted(times)]


def check_segments(segments: Sequence[Segment], *, duration_s: float, video: Path) -> None:
    """Check that segments lie in their video.

    Raises:
        DataError: One does not.
    """
    for segment in segments:
        end_s = 0.0 if math.isinf(segment.end_s) else segment.end_s
        if segment.start_s >= duration_s or end_s > duration_s + SLACK_S:
            raise DataError(
                f"{video}: the segment {segment} is not inside the video, which lasts "
                f"{duration_s:.2f} s. Give another range, or the video that it belongs to."
            )


def _read_table_times(path: Path) -> list[tuple[float, float]]:
    try:
        # A quotation mark that is a letter may have its pair rows below.
        return _read_table(path, quoting=csv.QUOTE_NONE)
    except DataError:
        with suppress(DataError):
            return _read_table(path, quoting=csv.QUOTE_MINIMAL)
        raise


def _read_table(path: Path, *, quoting: Literal[0, 3]) -> list[tuple[float, float]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=quoting))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table: {error}. Save it as UTF-8, with tabs.") from error
    if rows and not set(_COLUMNS) <= rows[0].keys():
        raise DataError(
            f"{path}: the header names {', '.join(map(str, rows[0]))}, and not start_s and end_s. "
            "Name the two columns so, with a tab between columns."
        )
    return [_read_row(path, number, row) for number, row in enumerate(rows, 2)]


def _read_row(path: Path, line: int, row: dict[str, str | None]) -> tuple[float, float]:
    texts = [row[name] or "" for name in _COLUMNS]
    try:
        start_s, end_s = map(float, texts)
    except ValueError:
        raise DataError(
            f"{path}:{line}: start_s ({texts[0]}) and end_s ({texts[1]}) are not both numbers of "
            "seconds. Write them as 12.5."
        ) from None
    return start_s, end_s
