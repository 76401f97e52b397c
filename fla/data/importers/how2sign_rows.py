"""Rows of How2Sign's annotation: the re-aligned file, or the original one."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path

from fla.data.importers.rules import Fault
from fla.data.importers.tables import read_text
from fla.errors import DataError

_COLUMNS = ("VIDEO_NAME", "SENTENCE_NAME", "SENTENCE")
_VIDEO_NAME = re.compile(r".+-(\d+)-rgb_front")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the annotation; stamps in seconds, NaN where there is no number."""

    line: int
    id: str
    video_name: str
    """Of the recording, or of the sentence's own clip."""
    start_s: float
    end_s: float
    sentence: str | Fault
    """Or why there is none."""

    @property
    def signer(self) -> str:
        """Who signs, or an empty string."""
        name = _VIDEO_NAME.fullmatch(self.video_name)
        return name[1] if name else ""


def read_rows(path: Path, *, stamp_columns: Sequence[tuple[str, str]]) -> tuple[Row, ...]:
    """Read an annotation file.

    Args:
        path: UTF-8, separated by tabs or, as copies of spreadsheets are, by commas.
        stamp_columns: Names that the columns of start and end may have, the preferred first;
            empty: no stamps are read.

    Raises:
        DataError: a row that cannot be understood or that contradicts another of the same
            SENTENCE_NAME, with file and line; no row.
        OSError: the file cannot be read.
    """
    rows = tuple(_read_rows(path, stamp_columns))
    if not rows:
        raise DataError(f"{path}: has no row below its header. Download it again.")
    _check_repeats(rows, path)
    return rows


def _read_rows(path: Path, stamp_columns: Sequence[tuple[str, str]]) -> Iterator[Row]:
    text = read_text(path)
    # The download is tab-separated despite its name; copies with commas are in circulation.
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(table, [])
        stamps = _choose_stamps(header, stamp_columns)
        missing = [column for column in (*_COLUMNS, *stamps) if column not in header]
        if missing:
            raise DataError(
                f"{path}:1: has no column {', '.join(missing)}. Use How2Sign's own file."
            )
        line = table.line_num + 1
        for values in table:
            if values:
                yield _read_row(values, header, stamps, where=f"{path}:{line}", line=line)
            line = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: {error}. Close or double the quote.") from None


def _choose_stamps(
    header: Sequence[str], stamp_columns: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    there = (columns for columns in stamp_columns if set(columns) <= set(header))
    return next(there, stamp_columns[0] if stamp_columns else ())


def _read_row(
    values: Sequence[str], header: Sequence[str], stamps: Sequence[str], *, where: str, line: int
) -> Row:
    if len(values) != len(header):
        raise DataError(
            f"{where}: has {len(values)} values for {len(header)} columns. "
            "Quote a sentence that contains the separator."
        )
    row = dict(zip(header, values, strict=True))
    for column in ("SENTENCE_NAME", "VIDEO_NAME", "SENTENCE"):
        if not row[column].strip():
            raise DataError(f"{where}: {column} is empty. Fill it in, or remove the row.")
    start_s, end_s = [_stamp(row, column, where=where) for column in stamps] or (nan, nan)
    return Row(
        line=line,
        id=row["SENTENCE_NAME"],
        video_name=row["VIDEO_NAME"],
        start_s=start_s,
        end_s=end_s,
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
