"""The thread that carries the journal and artifacts of a run elsewhere, beside training.

The journal is the queue: the sender remembers how far it read. An outage therefore costs no memory
and loses nothing, and a resumed run sends its journal from the beginning again.
"""

import logging
import re
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from fla.journal import Point, read_points

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

POINTS_PER_CALL = 1000
"""MLflow's own limit."""
_PERIOD_S = 1.0
_LONGEST_PAUSE_S = 60.0


class Destination(Protocol):
    """Where things go. Any call may raise, and is then repeated later."""

    is_open: bool

    def open(self) -> None: ...

    def log_points(self, points: list[Point]) -> None: ...

    def log_artifact(self, path: Path, folder: str) -> None: ...

    def log_translations(self, decodes: Path, split: str) -> None: ...

    def log_export(self, folder: Path) -> None: ...

    def set_status(self, status: Status) -> None: ...


class Sender:
    """The background thread: one piece of work after the other, oldest first."""

    def __init__(
        self, journal: Path, open_destination: Callable[[], Destination], *, where: str
    ) -> None:
        self.errands: deque[Callable[[Destination], None]] = deque()
        """What else is to be done there, the first one first; each is safe to repeat."""
        self._journal = journal
        self._open_destination = open_destination
        self._where = where
        self._how_to_send = f"python tools/sync_tracking.py {shlex.quote(str(journal.parent))}"
        self._destination: Destination | None = None
        self._closing = threading.Event()
        self._end_status: Status | None = None
        self._pause_s = 0.0
        self._offset = 0
        self._num_sent = 0
        self._thread = threading.Thread(target=self._work_to_the_end, name="sender", daemon=True)
        self._thread.start()

    def end(self, status: Status | None, *, timeout_s: float) -> None:
        """Finish what is there, then stop; wait for that. The first call decides the status.

        Args:
            status: What the run ends as; None: what it was.
            timeout_s: Longest wait.
        """
        is_first = not self._closing.is_set()
        if is_first:
            self._end_status = status
            self._closing.set()
        self._thread.join(timeout_s)
        if is_first:
            self._sum_up()

    def _sum_up(self) -> None:
        num_points = len(read_points(self._journal)[0])
        text = f"{num_points} points in {self._journal}, {self._num_sent} sent to {self._where}"
        text += f"; {len(self.errands)} artifacts not sent." if self.errands else "."
        if self._num_sent < num_points or self.errands or self._end_status:
            log.warning("%s The rest is sent by: %s", text, self._how_to_send)
        else:
            log.info("%s", text)

    def _work_to_the_end(self) -> None:
        while True:
            # Asked before the work: only then does "nothing left" hold for all that was logged.
            is_closing = self._closing.is_set()
            try:
                was_busy = self._work()
            # Whatever MLflow, its database or the network throws: training must not die of it.
            except Exception as error:
                # One failure is forgiven at the end; two are an outage.
                if is_closing and self._pause_s:
                    return
                self._sit_out(error)
                continue
            if was_busy:
                continue
            # Only now: where points arrive and artifacts do not, each second would tell of both.
            if self._pause_s:
                log.info("%s answers again.", self._where)
                self._pause_s = 0.0
            if is_closing:
                return
            self._closing.wait(_PERIOD_S)

    def _sit_out(self, error: Exception) -> None:
        if not self._pause_s:
            text = "%s does not answer (%s). Training goes on; %s has everything, and %s sends it."
            log.warning(text, self._where, one_line(error), self._journal, self._how_to_send)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S) or _PERIOD_S
        if self._closing.wait(self._pause_s):
            time.sleep(_PERIOD_S)

    def _work(self) -> bool:
        """Do one piece of work; False when there is none."""
        if self._destination is None:
            self._destination = self._open_destination()
        elif not self._destination.is_open:
            self._destination.open()
        elif self._end_status:
            # Before the backlog: a time-out must not leave the run RUNNING for ever.
            self._destination.set_status(self._end_status)
            self._end_status = None
        else:
            return self._send_points(self._destination) or self._run_errand(self._destination)
        return True

    def _send_points(self, destination: Destination) -> bool:
        points, offset = read_points(self._journal, offset=self._offset, limit=POINTS_PER_CALL)
        if offset == self._offset:
            return False
        destination.log_points(points)
        self._offset = offset
        self._num_sent += len(points)
        return True

    def _run_errand(self, destination: Destination) -> bool:
        if not self.errands:
            return False
        self.errands[0](destination)
        self.errands.popleft()
        return True


def one_line(error: Exception) -> str:
    """An error as the short part of a sentence."""
    return without_password(" ".join(f"{type(error).__name__}: {error}".split()))[:200]


def without_password(text: str) -> str:
    """Drop `name:password@` of each URI in the text."""
    # To the last @: a password may hold one.
    return re.sub(r"//[^/\s]*@", "//", text)
