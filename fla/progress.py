"""Progress that a person can follow: a bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts towards a known total.

    Args:
        what: Short name of the work, first in the bar or line.
        total: Units of work.
        unit: Name of one unit, plural.
        first: Units done before, by a run that this one resumes.
        is_shown: False on ranks that stay silent.
    """

    def __init__(
        self, what: str, *, total: int, unit: str, first: int = 0, is_shown: bool = True
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done, self._said, self._note = first, first, ""
        self._first = first
        self._is_shown = is_shown
        self._start_s = self._last_line_s = time.monotonic()
        on_terminal = is_shown and sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=what, unit=f" {unit}", initial=first, disable=not on_terminal
        )
        self._prints_lines = is_shown and not on_terminal

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Count `amount` more units; `note` is shown beside the count until it changes."""
        self._done += amount
        self._note = note or self._note
        self._bar.set_postfix_str(self._note, refresh=False)
        self._bar.update(amount)
        now_s = time.monotonic()
        if self._prints_lines and now_s - self._last_line_s >= SECONDS_BETWEEN_LINES:
            self._print_line(now_s)

    def _print_line(self, now_s: float) -> None:
        self._last_line_s, self._said = now_s, self._done
        elapsed_s = now_s - self._start_s
        per_s = (self._done - self._first) / max(elapsed_s, 1e-9)
        left_s = (self._total - self._done) / per_s if per_s > 0 else float("nan")
        note = f", {self._note}" if self._note else ""
        log.info(
            "%s: %d of %d %s%s, %.1f a second, %.0f s left",
            self._what, self._done, self._total, self._unit, note, per_s, left_s,
        )  # fmt: skip

    def close(self) -> None:
        """Finish the bar, or print the last line where it has not been printed yet."""
        self._bar.close()
        if self._prints_lines and self._done > self._said:
            self._print_line(time.monotonic())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def count_progress(what: str, *, unit: str) -> Callable[[int, int], None]:
    """Progress of work that counts by itself and knows its total when it begins.

    Returns:
        A function to call with the units done so far and their total. What is done at its first
        call was done before, and does not count as speed.
    """
    shown: Progress | None = None
    counted = 0

    def show(done: int, total: int) -> None:
        nonlocal shown, counted
        if shown is None:
            shown, counted = Progress(what, total=total, unit=unit, first=done), done
        shown.advance(done - counted)
        counted = done
        if done == total:
            shown.close()

    return show
