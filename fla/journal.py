"""metrics.jsonl, the journal of a run: one row of metrics a line, each with its step and time.

Written before anything is sent anywhere, so that a run can be read, and sent again, without a
server.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fla.run_folder import write_atomically


class Point(NamedTuple):
    """One metric at one step."""

    key: str
    value: float
    timestamp_ms: int
    """Unix time."""
    step: int


def append_row(path: Path, metrics: Mapping[str, float], *, step: int) -> None:
    """Append `{"step": ..., "time_s": ..., name: value, ...}`.

    Raises:
        OSError: The file cannot be written.
    """
    row = {"step": step, "time_s": round(time.time(), 3), **metrics}
    # float: scalars of numpy and torch.
    line = json.dumps(row, default=float) + "\n"
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        # A full disk takes half a line, and the next row would be appended to it.
        with suppress(OSError):
            os.truncate(path, size)
        raise


def read_points(
    path: Path, *, offset: int = 0, limit: int | None = None
) -> tuple[list[Point], int]:
    """Read whole lines from a place on.

    Args:
        offset: In bytes, where a former call ended.
        limit: Stop after the line that reaches so many points; None: at the end.

    Returns:
        The points, and the offset behind the last line read.
    """
    points: list[Point] = []
    if not path.exists():
        return points, offset
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            # A line without its end is just being written.
            if not line.endswith(b"\n") or (limit is not None and len(points) >= limit):
                break
            points += _points_of(line)
            offset += len(line)
    return points, offset


def truncate_journal(path: Path, last_step: int) -> None:
    """Drop the lines after `last_step`, where training resumes; before the tracker is opened."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (row := _row_of(line)) and row["step"] <= last_step]
    write_atomically(path, b"".join(kept).decode())


def cut_torn_line(path: Path) -> None:
    """Drop half a line that a crash left; the next one would be appended to it."""
    if not path.exists():
        return
    text = path.read_bytes()
    if not text.endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1)


def _points_of(line: bytes) -> list[Point]:
    row = _row_of(line)
    if not row:
        return []
    step, time_ms = int(row.pop("step")), round(row.pop("time_s") * 1000)
    return [Point(key, float(value), time_ms, step) for key, value in row.items()]


def _row_of(line: bytes) -> dict[str, float]:
    """One line's content; empty when a crash cut it short."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
