"""SIGTERM: do one last thing in a bounded time, then end, even if the main thread is stuck.

When a rank dies, the launcher sends SIGTERM to the others. They are waiting for the dead one in a
collective, in C, where Python's own handlers cannot run. The signal's byte in a socket reaches a
thread all the same.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

EXIT_STATUS = 128 + signal.SIGTERM
_STOP = b"\0"


class SigtermWatch:
    """Calls `last_act` on SIGTERM, in a thread of its own, and then ends the process.

    Does nothing where someone else handles SIGTERM already, or off the main thread.
    """

    def __init__(self, last_act: Callable[[], None]) -> None:
        self._last_act = last_act
        self._is_installed = False
        on_main_thread = threading.current_thread() is threading.main_thread()
        if not on_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._sender.fileno())
        # Without a handler of Python's the byte is never written.
        signal.signal(signal.SIGTERM, _leave_it_to_the_thread)
        self._is_installed = True
        # A forked child shares the socket: its own SIGTERM would be taken for ours.
        os.register_at_fork(after_in_child=self._uninstall)
        threading.Thread(target=self._watch, name="sigterm", daemon=True).start()

    def remove(self) -> None:
        """Give SIGTERM back its usual meaning; on another thread than the main one, do nothing."""
        if self._is_installed and threading.current_thread() is threading.main_thread():
            self._uninstall()
            self._sender.send(_STOP)

    def _uninstall(self) -> None:
        if self._is_installed:
            self._is_installed = False
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.set_wakeup_fd(self._wakeup_before)

    def _watch(self) -> None:
        while True:
            received = self._receiver.recv(64)
            if signal.SIGTERM in received:
                self._last_act()
                os._exit(EXIT_STATUS)
            if _STOP in received:
                self._receiver.close()
                self._sender.close()
                return


def _leave_it_to_the_thread(number: int, frame: FrameType | None) -> None:
    return
