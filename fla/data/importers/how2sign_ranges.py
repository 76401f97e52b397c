"""How2Sign's sentences as ranges of whole recordings: virtual clips."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from fla.data.decode.video import in_range
from fla.data.importers.clips import list_without_rows
from fla.data.importers.how2sign_files import RawSplit
from fla.data.importers.how2sign_rows import Row
from fla.data.importers.options import Options
from fla.data.importers.recording_notes import Recording
from fla.data.importers.report import (
    NO_VIDEO,
    UNREADABLE,
    Clamped,
    ImportedSplit,
    Published,
    Stamps,
)
from fla.data.importers.rules import Fault, apply_rules
from fla.data.manifest import Sample
from fla.errors import DataError

Recordings = Mapping[Path, Recording | DataError]


def import_ranges(
    split: RawSplit,
    recordings: Recordings,
    *,
    name: str,
    options: Options,
    root: Path,
    published: Published,
) -> ImportedSplit:
    """Make samples of the rows whose stamps lie in a recording.

    Args:
        split: Rows with stamps.
        recordings: What is in the recordings that rows name.
        name: Our name of the split.
        options: What the user asked for.
        root: Folder that the manifest's videos are relative to.
        published: What a complete download holds.
    """
    make = partial(_make_sample, split=split, recordings=recordings, root=root)
    outcome = apply_rules(split.rows, make, split=name, options=options)
    return ImportedSplit(
        annotation=split.annotation,
        samples=outcome.samples,
        dropped=outcome.dropped,
        repaired=outcome.repaired,
        clamped=_list_clamped(outcome.samples, split, recordings),
        videos_without_rows=list_without_rows(
            split.videos, {row.video_name for row in split.rows}, root=root
        ),
        published=published,
        stamps=_describe_stamps(split.rows),
        labels=split.labels,
        labels_without_rows=split.labels_without_rows,
    )


def _list_clamped(
    samples: Sequence[Sample], split: RawSplit, recordings: Recordings
) -> list[Clamped]:
    ranges = {sample.id: (sample.start_s, sample.end_s) for sample in samples}
    # Rows of the same id are the same: what is listed is the first.
    rows = {row.id: row for row in reversed(split.rows) if row.id in ranges}
    clamped: list[Clamped] = []
    for row in reversed(rows.values()):
        recording = recordings[split.videos[row.video_name]]
        if ranges[row.id] != (row.start_s, row.end_s) and isinstance(recording, Recording):
            clamped.append(
                Clamped(
                    id=row.id,
                    line=row.line,
                    start_s=row.start_s,
                    end_s=row.end_s,
                    length_s=recording.length_s,
                )
            )
    return clamped


def _make_sample(
    row: Row, *, split: RawSplit, recordings: Recordings, root: Path
) -> Sample | Fault:
    stamps = f"{row.start_s} s to {row.end_s} s"
    if not isinstance(row.sentence, str):
        return row.sentence
    if row.video_name not in split.videos:
        return NO_VIDEO, f"there is no file {row.video_name}.mp4"
    if not (math.isfinite(row.start_s) and math.isfinite(row.end_s)):
        return "no stamp", f"{stamps} is no range"
    if row.end_s <= row.start_s:
        return "ends before it starts", stamps
    if row.end_s <= 0:
        return "before the start", stamps
    path = split.videos[row.video_name]
    recording = recordings[path]
    if isinstance(recording, DataError):
        return UNREADABLE, str(recording)
    length_s = recording.length_s
    if row.start_s >= length_s:
        return "past the end", f"{stamps}, but the recording has {length_s:.3f} s"
    start_s, end_s = max(row.start_s, 0.0), min(row.end_s, length_s)
    return Sample(
        id=row.id,
        video=path.relative_to(root).as_posix(),
        start_s=start_s,
        end_s=end_s,
        fps=recording.fps,
        num_frames=int(in_range(recording.frame_times, start_s, end_s).sum()),
        signer=row.signer,
        sentence=row.sentence,
    )


def _describe_stamps(rows: Sequence[Row]) -> Stamps:
    recordings: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.start_s < row.end_s:
            recordings[row.video_name].append(row)
    backward = 0
    overlapping: list[tuple[str, str]] = []
    for in_file in recordings.values():
        backward += sum(after.start_s < before.start_s for before, after in pairwise(in_file))
        in_time = sorted(in_file, key=lambda row: (row.start_s, row.end_s))
        overlapping += [(a.id, b.id) for a, b in pairwise(in_time) if b.start_s < a.end_s]
    return Stamps(rows_out_of_order=backward, overlapping=tuple(overlapping))
