"""Signals that ask a run to stop: finish the step, save, end; and end in any case, in bounded time.

SIGTERM, SIGINT and SIGUSR1 are noted, and training looks at the note after every step. A thread
sees to the end: where the main thread is stuck in C, such as in a collective that waits for a rank
that has died, Python's own handlers cannot run. The signal's byte in a socket reaches a thread all
the same.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PATIENCE_S = 22.0
"""For finishing the step and saving; DeepSpeed's launcher kills what lasts longer than 30 s."""
# The launcher, a terminal and Slurm may all pass on one and the same request.
_SAME_REQUEST_S = 2.0
_STOP = b"\0"


class SignalWatch:
    """Notes that the run is to stop, from when it is made until `remove`.

    Ends the process with exit status 128 + signal where it has not ended by itself in time: at a
    second signal, when `PATIENCE_S` are over, or when another rank of this machine is gone. SIGUSR1
    leaves all the time there is: schedulers send it long before they kill. Does nothing where
    someone else handles SIGTERM already, or off the main thread.

    Args:
        last_act: Done before the process is ended, in a bounded time.
    """

    def __init__(self, last_act: Callable[[], None]) -> None:
        self.requested: signal.Signals | None = None
        """The first signal that came."""
        self._last_act = last_act
        self._launcher = os.getppid()
        self._is_installed = False
        on_main_thread = threading.current_thread() is threading.main_thread()
        if not on_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._sender.fileno())
        # Without a handler of Python's the byte is never written.
        self._handlers = {it: signal.signal(it, _leave_it_to_the_thread) for it in SIGNALS}
        self._is_installed = True
        # A forked child shares the socket: its own signals would be taken for ours.
        os.register_at_fork(after_in_child=self._uninstall)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def remove(self) -> None:
        """Give the signals back their former meaning; off the main thread, do nothing."""
        if self._is_installed and threading.current_thread() is threading.main_thread():
            self._uninstall()
            self._sender.send(_STOP)

    def _uninstall(self) -> None:
        if self._is_installed:
            self._is_installed = False
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup_before)

    def _watch(self) -> None:
        first_s = 0.0
        while True:
            try:
                received = self._receiver.recv(64)
            except TimeoutError:
                received = b""
            if _STOP in received:
                self._receiver.close()
                self._sender.close()
                return
            came = [it for it in SIGNALS if it in received]
            now_s = time.monotonic()
            if self.requested is None:
                if came:
                    self.requested, first_s = came[0], now_s
                    self._receiver.settimeout(1.0)
                continue
            if (came and now_s - first_s > _SAME_REQUEST_S) or self._is_over(now_s - first_s):
                self._last_act()
                os._exit(128 + self.requested)

    def _is_over(self, waited_s: float) -> bool:
        # A step in which a rank is missing never ends, and the launcher asks the others to stop one
        # after the other, each when the one before has ended.
        has_time = self.requested is signal.SIGUSR1 or waited_s <= PATIENCE_S
        return not has_time or self._a_rank_is_gone()

    def _a_rank_is_gone(self) -> bool:
        """Whether a rank that DeepSpeed's launcher started on this machine has ended."""
        num_ranks = int(os.environ.get("LOCAL_SIZE", "1"))
        if num_ranks == 1 or os.getppid() != self._launcher:
            # Without its launcher nobody can tell.
            return False
        try:
            ranks = psutil.Process(self._launcher).children()
            num_alive: int = sum(it.status() != psutil.STATUS_ZOMBIE for it in ranks)
        except psutil.Error:
            return False
        return num_alive < num_ranks


def _leave_it_to_the_thread(number: int, frame: FrameType | None) -> None:
    return
