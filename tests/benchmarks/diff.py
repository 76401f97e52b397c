"""What changed between two reports: python -m tests.benchmarks.diff OLD.json NEW.json

It informs and never judges: the exit code is 0 whatever has become slower.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fla.data.command import run_tool
from tests.benchmarks.rows import Report, Row, read_report

THRESHOLD_PERCENT = 5.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """A row of both reports."""

    old: Row
    new: Row

    @property
    def ratio(self) -> float:
        """New in old; infinite where the old one is 0 and the new one is not."""
        if self.old.value == self.new.value:
            return 1.0
        return self.new.value / self.old.value if self.old.value else float("inf")

    @property
    def judgement(self) -> str:
        """Better, worse, or changed; and whether their spreads meet."""
        if self.new.better == "neither":
            word = "changed"
        else:
            is_better = (self.new.value < self.old.value) == (self.new.better == "lower")
            word = "better" if is_better else "worse"
        return f"{word}, within the spread" if self._spreads_meet() else word

    def _spreads_meet(self) -> bool:
        ends = (self.old.low, self.old.high, self.new.low, self.new.high)
        old_low, old_high, new_low, new_high = ends
        if old_low is None or old_high is None or new_low is None or new_high is None:
            return False
        return old_low <= new_high and new_low <= old_high


def find_changes(old: Report, new: Report, *, threshold_percent: float) -> list[Change]:
    """Rows of both reports that differ by more than the threshold, the largest change first."""
    before = {row.name: row for row in old.rows}
    changes = [Change(old=before[row.name], new=row) for row in new.rows if row.name in before]
    low, high = 1 - threshold_percent / 100, 1 + threshold_percent / 100
    changed = [it for it in changes if not low <= it.ratio <= high]
    return sorted(changed, key=lambda it: -max(it.ratio, 1 / it.ratio if it.ratio > 0 else 1e9))


def describe(old: Report, new: Report, *, threshold_percent: float) -> Iterator[str]:
    """Lines that say what changed."""
    for key in ("cpu", "cores", "threads"):
        if old.machine.get(key) != new.machine.get(key):
            yield f"Other machine: {key} was {old.machine.get(key)}, is {new.machine.get(key)}."
    yield f"old: {_commit(old)}, load {old.machine.get('load')}"
    yield f"new: {_commit(new)}, load {new.machine.get('load')}"
    changes = find_changes(old, new, threshold_percent=threshold_percent)
    if changes:
        yield "\n| what | old | new | new / old | |\n|---|---|---|---|---|"
    for it in changes:
        yield (
            f"| {it.new.name} | {it.old.value:.4g} | {it.new.value:.4g} {it.new.unit} "
            f"| {it.ratio:.3f} | {it.judgement} |"
        )
    both = {row.name for row in old.rows} & {row.name for row in new.rows}
    yield f"\n{len(changes)} of {len(both)} rows changed by more than {threshold_percent:g} %."
    yield from _only("Only in the old report", old.rows, both)
    yield from _only("Only in the new report", new.rows, both)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD_PERCENT, metavar="PERCENT",
        help=f"smallest change that is shown; default: {THRESHOLD_PERCENT:g}",
    )  # fmt: skip
    words = parser.parse_args()
    return run_tool(partial(_print, words.old, words.new, words.threshold))


def _print(old: Path, new: Path, threshold_percent: float) -> int:
    for line in describe(read_report(old), read_report(new), threshold_percent=threshold_percent):
        print(line)
    return 0


def _commit(report: Report) -> str:
    git = report.machine.get("git")
    if not git:
        return "no commit"
    return f"commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}"


def _only(title: str, rows: Sequence[Row], both: set[str]) -> Iterator[str]:
    names = [row.name for row in rows if row.name not in both]
    if names:
        yield f"{title}: {'; '.join(names)}."


if __name__ == "__main__":
    sys.exit(main())
