"""What a check found, a row a number: a table for people, JSON for programs."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fla.run_folder import write_json

FORMAT = 1

State = Literal["ok", "failed", "skipped", "noted"]
"""noted: a number without a bound."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number, or why there is none."""

    name: str
    """Unique, beginning with its step: `decoding: NVDEC, frames of 720p`."""
    value: float | None = None
    """None: there is none, and `note` says why."""
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    fault: str = ""
    """What went wrong instead of the number, a sentence with what to do."""

    @property
    def state(self) -> State:
        """Whether the bounds hold; a number that is none holds none."""
        if self.fault:
            return "failed"
        if self.value is None:
            return "skipped"
        if self.at_least is None and self.at_most is None:
            return "noted"
        is_within = (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )
        return "ok" if is_within else "failed"

    @property
    def bound(self) -> str:
        """The bounds in signs; empty: there are none."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g}"
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Step:
    """Some rows that are found together."""

    name: str
    find: Callable[[], Iterator[Row]]


def take_steps(steps: Sequence[Step]) -> list[Row]:
    """Find the rows of all steps; one that breaks off is a failed row, and the others go on."""
    rows: list[Row] = []
    for step in steps:
        begin_s = time.monotonic()
        print(f"{step.name} ...", file=sys.stderr, flush=True)
        try:
            # One by one: what was found before a step breaks off stays.
            for row in step.find():
                rows.append(row)
        # A report: whatever ends a step is said in its row.
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            rows.append(Row(name=f"{step.name}: all of it", fault=reason))
        print(f"{step.name}: {time.monotonic() - begin_s:.0f} s", file=sys.stderr, flush=True)
    return rows


def table_of(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| what | value | bound | |", "|---|---|---|---|"]
    for row in rows:
        value = "" if row.value is None else f"{row.value:.4g} {row.unit}".strip()
        words = " ".join((row.fault or row.note).split())
        state = f"{row.state}: {words}" if words else row.state
        lines.append(f"| {row.name} | {value} | {row.bound} | {state} |")
    return "\n".join(lines)


def write_report(path: Path, rows: Sequence[Row], *, machine: dict[str, Any]) -> None:
    """Write rows and machine as JSON; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{**asdict(row), "state": row.state} for row in rows]
    write_json(path, {"format": FORMAT, "machine": machine, "rows": found})


def exit_code(rows: Sequence[Row]) -> int:
    """0 where no row failed."""
    return int(any(row.state == "failed" for row in rows))
