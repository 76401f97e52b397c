"""What a benchmark found, a row a number: a table for people, JSON for tests.benchmarks.diff."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

from fla.data.command import run_tool
from fla.errors import DataError
from fla.provenance import read_git_state, read_versions
from fla.run_folder import write_json

FOLDER = Path("data/benchmark")
FORMAT = 1

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number."""

    name: str
    """Unique, beginning with the benchmark: `engine: the demo's recipe, toolkit / bare loop`."""
    value: float
    unit: str
    better: Better
    """Which way is better; neither: a fact that others are read by."""
    low: float | None = None
    """Lowest of what `value` is the median of; None: it was measured once."""
    high: float | None = None
    target: float | None = None
    """The worst value that is good enough; None: there is none."""
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the target is reached; empty: there is none."""
        if self.target is None:
            return ""
        is_reached = (
            self.value <= self.target if self.better == "lower" else self.value >= self.target
        )
        return "reached" if is_reached else "not reached"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Rows, and what they depend on."""

    rows: tuple[Row, ...]
    machine: dict[str, Any]


def median_row(
    name: str,
    values: Sequence[float],
    *,
    unit: str,
    better: Better,
    target: float | None = None,
    note: str = "",
) -> Row:
    """The median of what was measured several times, with its spread."""
    return Row(
        name=name,
        value=median(values),
        unit=unit,
        better=better,
        low=min(values),
        high=max(values),
        target=target,
        note=note,
    )


def describe_machine() -> dict[str, Any]:
    """What numbers depend on beside the code: CPU, cores, load, versions, commit."""
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "cpu": cpus[0] if cpus else "unknown CPU",
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "python": sys.version.split()[0],
        "versions": read_versions(),
        "git": read_git_state(),
    }


def write_report(path: Path, rows: Sequence[Row], *, machine: dict[str, Any]) -> None:
    """Write rows and machine as JSON; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, "machine": machine, "rows": [asdict(row) for row in rows]})


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote.

    Raises:
        DataError: There is no such file, or it is another one.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. `make bench` writes one.") from None
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}).") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{path}: this is no report of `python -m tests.benchmarks`.")
    return Report(rows=tuple(Row(**row) for row in found["rows"]), machine=found["machine"])


def table_of(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| what | value | spread | better | target |", "|---|---|---|---|---|"]
    for row in rows:
        spread = "" if row.low is None else f"{row.low:.4g} to {row.high:.4g}"
        target = "" if row.target is None else f"{row.target:g}: {row.verdict}"
        better = "" if row.better == "neither" else row.better
        note = f" ({row.note})" if row.note else ""
        lines.append(
            f"| {row.name}{note} | {row.value:.4g} {row.unit} | {spread} | {better} | {target} |"
        )
    return "\n".join(lines)


def run_benchmark(measure: Callable[[Path], Sequence[Row]], *, description: str) -> int:
    """What every benchmark's own command does; returns the exit code.

    Args:
        measure: From the folder that keeps material to rows.
        description: For `--help`.
    """
    parser = argparse.ArgumentParser(description=description)
    add_words(parser)
    words = parser.parse_args()
    return run_tool(partial(_measure_and_print, measure, words.folder, words.json))


def add_words(parser: argparse.ArgumentParser) -> None:
    """The words that every benchmark takes."""
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, metavar="DIR",
        help=f"keeps what is made once; default: {FOLDER}",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")


def _measure_and_print(
    measure: Callable[[Path], Sequence[Row]], folder: Path, json_path: Path | None
) -> int:
    machine = describe_machine()
    rows = measure(folder)
    print(table_of(rows))
    if json_path is not None:
        write_report(json_path, rows, machine=machine)
    return 0
