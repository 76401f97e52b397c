"""Annotation files: UTF-8, and tables that quote nothing."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fla.errors import DataError


def find_missing_files(paths: Iterable[Path], *, advice: str) -> list[str]:
    """A sentence for each path that is no file, ending in what to do."""
    return [
        f"{path} {'is no file' if path.exists() else 'does not exist'}. {advice}"
        for path in paths
        if not path.is_file()
    ]


def read_text(path: Path) -> str:
    """An annotation file without the byte order mark that a spreadsheet leaves.

    Raises:
        DataError: not UTF-8.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8. Download it again.") from None


def read_table(
    path: Path,
    *,
    columns: Sequence[str],
    delimiter: str = "|",
    advice: str = "Use the file of the official download.",
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by column, with their lines counted from 1.

    Args:
        path: UTF-8, with a header; a byte order mark and Windows line ends do no harm.
        columns: Those that the header must name; it may name others.
        delimiter: What separates the columns.
        advice: What to do where a column is missing.

    Raises:
        DataError: not UTF-8, a column that is missing, or a row of another width.
        OSError: the file cannot be read.
    """
    text = io.StringIO(read_text(path), newline="")
    table = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    try:
        header = [name.strip() for name in next(table, [])]
        missing = [column for column in columns if column not in header]
        if missing:
            raise DataError(f"{path}:1: has no column {', '.join(missing)}. {advice}")
        for values in table:
            if not values:
                continue
            if len(values) != len(header):
                raise DataError(
                    f"{path}:{table.line_num}: has {len(values)} values for {len(header)} "
                    f"columns. Add or remove a {_NAMES[delimiter]}."
                )
            yield table.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{table.line_num}: {error}. Fix the row.") from None


_NAMES = {"|": "'|'", "\t": "tab"}
