"""Annotation files: UTF-8, and tables whose columns `|` separates and that quote nothing."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from fla.errors import DataError


def read_text(path: Path) -> str:
    """An annotation file without the byte order mark that a spreadsheet leaves.

    Raises:
        DataError: not UTF-8.
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8. Download it again.") from None


def read_table(path: Path, *, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by column, with their lines counted from 1.

    Args:
        path: UTF-8, with a header; a byte order mark and Windows line ends do no harm.
        columns: Those that the header must name; it may name others.

    Raises:
        DataError: not UTF-8, a column that is missing, or a row of another width.
    """
    table = csv.reader(io.StringIO(read_text(path)), delimiter="|", quoting=csv.QUOTE_NONE)
    header = [name.strip() for name in next(table, [])]
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(
            f"{path}:1: has no column {', '.join(missing)}. Use the file of the official download."
        )
    for values in table:
        if not values:
            continue
        if len(values) != len(header):
            raise DataError(
                f"{path}:{table.line_num}: has {len(values)} values for {len(header)} columns. "
                "Add or remove a '|'."
            )
        yield table.line_num, dict(zip(header, values, strict=True))
