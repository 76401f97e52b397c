"""What a How2Sign download holds: its folders, its annotation file and its recordings.

SOURCE/video_level/{train,val,test}/rgb_front/**/VIDEO_NAME.mp4
SOURCE/sentence_level/{split}/text/en/raw_text/re_aligned/how2sign_realigned_{split}.csv
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fla.data.importers.tables import find_missing_files, read_text
from fla.errors import DataError

SPLITS = {"train": "train", "dev": "val", "test": "test"}
"""Our name of a split: How2Sign's."""

_COLUMNS = ("VIDEO_NAME", "SENTENCE_NAME", "START_REALIGNED", "END_REALIGNED", "SENTENCE")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the annotation; stamps in seconds, NaN where the file has no number."""

    line: int
    id: str
    video_name: str
    start_s: float
    end_s: float
    sentence: str


@dataclass(frozen=True, kw_only=True)
class RawSplit:
    """What the disk holds of a split."""

    annotation: Path
    rows: tuple[Row, ...]
    """Rows with the same id are the same but for their line."""
    recordings: Mapping[str, Path]
    """By VIDEO_NAME."""


def check_layout(source: Path) -> None:
    """See to it that all three splits are there.

    Raises:
        DataError: another folder altogether, or one sentence for each annotation file or folder
            of recordings that is missing.
    """
    if not (source / "sentence_level").is_dir():
        raise DataError(
            f"{source} has no folder sentence_level. Name the folder that holds How2Sign's "
            "sentence_level and video_level."
        )
    faults = find_missing_files(
        [_annotation(source, split) for split in SPLITS.values()],
        advice="Put How2Sign's re-aligned annotation there: all three splits are needed.",
    )
    faults += [
        f"{path} does not exist. Unpack How2Sign's Green Screen RGB videos there."
        for path in (_recording_folder(source, split) for split in SPLITS.values())
        if not path.is_dir()
    ]
    if faults:
        raise DataError("\n".join(faults))


def read_split(source: Path, split: str) -> RawSplit:
    """Read a split's annotation and list its recordings, none of which is opened.

    Args:
        source: Folder that holds `video_level` and `sentence_level`.
        split: How2Sign's name of it.

    Raises:
        DataError: a row that cannot be understood or that contradicts another of the same
            SENTENCE_NAME, with file and line; no row; two recordings of one name.
    """
    annotation = _annotation(source, split)
    rows = tuple(_read_rows(annotation))
    if not rows:
        raise DataError(f"{annotation}: has no row below its header. Download it again.")
    _check_repeats(rows, annotation)
    recordings = _find_recordings(_recording_folder(source, split))
    return RawSplit(annotation=annotation, rows=rows, recordings=recordings)


def _annotation(source: Path, split: str) -> Path:
    folder = source / "sentence_level" / split / "text" / "en" / "raw_text" / "re_aligned"
    return folder / f"how2sign_realigned_{split}.csv"


def _recording_folder(source: Path, split: str) -> Path:
    return source / "video_level" / split / "rgb_front"


def _read_rows(path: Path) -> Iterator[Row]:
    text = read_text(path)
    # The download is tab-separated despite its name; copies with commas are in circulation.
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(table, [])
        missing = [column for column in _COLUMNS if column not in header]
        if missing:
            raise DataError(
                f"{path}:1: has no column {', '.join(missing)}. Use How2Sign's re-aligned file."
            )
        line = table.line_num + 1
        for values in table:
            if values:
                yield _read_row(values, header, path=path, line=line)
            line = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: {error}. Close or double the quote.") from None


def _read_row(values: Sequence[str], header: Sequence[str], *, path: Path, line: int) -> Row:
    if len(values) != len(header):
        raise DataError(
            f"{path}:{line}: has {len(values)} values for {len(header)} columns. "
            "Quote a sentence that contains the separator."
        )
    row = dict(zip(header, values, strict=True))
    for column in ("SENTENCE_NAME", "VIDEO_NAME", "SENTENCE"):
        if not row[column].strip():
            raise DataError(f"{path}:{line}: {column} is empty. Fill it in, or remove the row.")
    return Row(
        line=line,
        id=row["SENTENCE_NAME"],
        video_name=row["VIDEO_NAME"],
        start_s=_stamp(row, "START_REALIGNED", where=f"{path}:{line}"),
        end_s=_stamp(row, "END_REALIGNED", where=f"{path}:{line}"),
        sentence=row["SENTENCE"],
    )


def _stamp(row: Mapping[str, str], column: str, *, where: str) -> float:
    try:
        # An unknown number is an empty cell in files that pandas wrote.
        return float(row[column].strip() or "nan")
    except ValueError:
        raise DataError(
            f"{where}: {column} ({row[column]}) is not a number of seconds. Fix or remove the row."
        ) from None


def _check_repeats(rows: Sequence[Row], path: Path) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        earlier = first.setdefault(row.id, row)
        # repr, since an unknown stamp is NaN, which equals nothing.
        if repr(replace(row, line=earlier.line)) != repr(earlier):
            raise DataError(
                f"{path}:{row.line}: SENTENCE_NAME ({row.id}) is that of line {earlier.line}, "
                "but the rest of the row differs. Remove one of the two rows."
            )


def _find_recordings(folder: Path) -> dict[str, Path]:
    recordings: dict[str, Path] = {}
    # The split archives unpack to a folder of their own inside; follow links, since the
    # recordings of a large corpus often lie on another disk.
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            # "._x.mp4" is what macOS leaves beside x.mp4 on foreign disks.
            if path.suffix != ".mp4" or path.name.startswith("._"):
                continue
            if path.stem in recordings:
                raise DataError(
                    f"{path}: the recording is also at {recordings[path.stem]}. Remove one."
                )
            recordings[path.stem] = path
    return recordings
