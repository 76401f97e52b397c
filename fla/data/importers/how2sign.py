"""Importer for How2Sign (Duarte et al., CVPR 2021), from the folders that its download unpacks to.

Reads the whole recordings and the re-aligned annotation; the pre-cut clips and their stamps do not
match what is signed. Nothing is cut or copied: a sample is a range of a recording.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

from fla.data.decode.video import VideoInfo, in_range, probe_video
from fla.data.importers.finish import finish_import
from fla.data.importers.how2sign_files import (
    SPLITS,
    RawSplit,
    Row,
    check_layout,
    read_split,
)
from fla.data.importers.options import Options
from fla.data.importers.report import (
    NO_VIDEO,
    Clamped,
    ImportedSplit,
    ImportReport,
    Published,
    Stamps,
)
from fla.data.importers.rules import Fault, apply_rules
from fla.data.manifest import Sample
from fla.data.processes import map_on_all_cores
from fla.errors import DataError

DEFAULTS = Options(min_frames=2)
"""A clip of one frame shows no movement."""

PUBLISHED = {
    "train": Published(num_rows=31165, note="31128 in the paper"),
    "dev": Published(num_rows=1741),
    "test": Published(num_rows=2357, note="2322 in the paper"),
}
"""Rows of the re-aligned files (how2sign-data, issue 4) and of the paper's table."""

_VIDEO_NAME = re.compile(r".+-(\d+)-rgb_front")


def import_how2sign(
    source: Path,
    output: Path,
    *,
    on_progress: Callable[[int, int], None],
    options: Options = DEFAULTS,
) -> ImportReport:
    """Write train.tsv, dev.tsv, test.tsv, report.json and report.txt.

    Args:
        source: Folder that holds `video_level` and `sentence_level`; only read.
        output: Folder for the five files; made where it is missing.
        on_progress: Called with recordings read so far and their total number.
        options: What the user asked for.

    Raises:
        DataError: an annotation file or a folder of recordings is missing, a row cannot be
            understood, a recording is no video, or no row of a split became a sample. No file
            has been written then.
        OSError: `output` cannot be written to.
    """
    source = source.resolve()
    check_layout(source)
    splits = {ours: read_split(source, theirs) for ours, theirs in SPLITS.items()}
    # Before the recordings are read, which may take an hour.
    output.mkdir(parents=True, exist_ok=True)
    infos = _probe_all(_wanted_recordings(splits.values(), options), on_progress)
    imported = {
        name: _import_split(split, infos, options=options, source=source, published=PUBLISHED[name])
        for name, split in splits.items()
    }
    return finish_import("How2Sign", imported, options=options, source=source, output=output)


def _wanted_recordings(splits: Iterable[RawSplit], options: Options) -> list[Path]:
    return sorted(
        {
            split.recordings[row.video_name]
            for split in splits
            for row in split.rows
            if row.video_name in split.recordings and row.id not in options.excluded
        }
    )


def _probe_all(
    paths: Sequence[Path], on_progress: Callable[[int, int], None]
) -> dict[Path, VideoInfo]:
    infos: dict[Path, VideoInfo] = {}
    faults: list[str] = []
    on_progress(0, len(paths))
    with closing(map_on_all_cores(_probe, paths)) as results:
        for done, (path, result) in enumerate(zip(paths, results, strict=True), start=1):
            if isinstance(result, DataError):
                faults.append(str(result))
            else:
                infos[path] = result
            on_progress(done, len(paths))
    # All at once: reading a large corpus again for each broken download would take hours.
    if faults:
        raise DataError("\n".join(faults))
    return infos


def _probe(path: Path) -> VideoInfo | DataError:
    try:
        return probe_video(path)
    except DataError as error:
        return error


def _import_split(
    split: RawSplit,
    infos: Mapping[Path, VideoInfo],
    *,
    options: Options,
    source: Path,
    published: Published,
) -> ImportedSplit:
    make = partial(_make_sample, split=split, infos=infos, source=source)
    outcome = apply_rules(split.rows, make, options=options)
    named = {row.video_name for row in split.rows}
    return ImportedSplit(
        annotation=split.annotation,
        samples=outcome.samples,
        dropped=outcome.dropped,
        clamped=_list_clamped(outcome.samples, split, infos),
        videos_without_rows=[
            path.relative_to(source).as_posix()
            for name, path in sorted(split.recordings.items())
            if name not in named
        ],
        published=published,
        stamps=_describe_stamps(split.rows),
    )


def _list_clamped(
    samples: Sequence[Sample], split: RawSplit, infos: Mapping[Path, VideoInfo]
) -> list[Clamped]:
    ranges = {sample.id: (sample.start_s, sample.end_s) for sample in samples}
    # Rows of the same id are the same: what is listed is the first.
    rows = {row.id: row for row in reversed(split.rows) if row.id in ranges}
    return [
        Clamped(
            id=row.id,
            line=row.line,
            start_s=row.start_s,
            end_s=row.end_s,
            length_s=_length_s(infos[split.recordings[row.video_name]]),
        )
        for row in reversed(rows.values())
        if ranges[row.id] != (row.start_s, row.end_s)
    ]


def _make_sample(
    row: Row, *, split: RawSplit, infos: Mapping[Path, VideoInfo], source: Path
) -> Sample | Fault:
    stamps = f"{row.start_s} s to {row.end_s} s"
    if row.video_name not in split.recordings:
        return NO_VIDEO, f"there is no file {row.video_name}.mp4"
    if not (math.isfinite(row.start_s) and math.isfinite(row.end_s)):
        return "no stamp", f"{stamps} is no range"
    if row.end_s <= row.start_s:
        return "ends before it starts", stamps
    if row.end_s <= 0:
        return "before the start", stamps
    path = split.recordings[row.video_name]
    info = infos[path]
    length_s = _length_s(info)
    if row.start_s >= length_s:
        return "past the end", f"{stamps}, but the recording has {length_s:.3f} s"
    start_s, end_s = max(row.start_s, 0.0), min(row.end_s, length_s)
    name = _VIDEO_NAME.fullmatch(row.video_name)
    return Sample(
        id=row.id,
        video=path.relative_to(source).as_posix(),
        start_s=start_s,
        end_s=end_s,
        fps=info.fps,
        num_frames=int(in_range(info.frame_times, start_s, end_s).sum()),
        signer=name[1] if name else "",
        sentence=row.sentence,
    )


def _length_s(info: VideoInfo) -> float:
    """When the last frame leaves the screen, in seconds after the first one appears."""
    return float(info.frame_times[-1]) + (1 / info.fps if info.fps > 0 else 0.0)


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
