"""Ranks end when their launcher does: a dead launcher's ranks would hold GPUs and ports for ever.

DeepSpeed starts a launcher on every node, launch.py, which starts the ranks. A signal to
`deepspeed` alone ends neither of them, and launch.py leaves its ranks behind when it is killed.
"""

import ctypes
import os
import signal
import sys
import threading
import time

import psutil

_PR_SET_PDEATHSIG = 1
_PERIOD_S = 1.0
_LAUNCHERS = ("deepspeed.launcher.launch", "torch.distributed.run", "torchrun")


def end_with_launcher() -> None:
    """Get SIGTERM when the launcher is gone; without one, or off Linux, do nothing.

    By then `fla.signals` may have taken SIGTERM over: the step is finished and saved.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        parent = psutil.Process(os.getppid())
        words = parent.cmdline()
        starter = parent.parent()
    except psutil.Error:
        return
    if not any(word.endswith(_LAUNCHERS) for word in words):
        if parent.pid == 1 and _has_had_launcher():
            # It went while this process was importing.
            os.kill(os.getpid(), signal.SIGTERM)
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent.pid:
        # It went before it could be told to take us along.
        os.kill(os.getpid(), signal.SIGTERM)
    if starter is not None and any("deepspeed" in word for word in starter.cmdline()):
        watch = threading.Thread(
            target=_watch, args=(parent, starter.pid), name="launcher", daemon=True
        )
        watch.start()


def _has_had_launcher() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ or any(
        word.startswith("--local_rank") for word in sys.argv
    )


def _watch(launcher: psutil.Process, starter_pid: int) -> None:
    """Wait until the process that started the launcher is no longer its parent."""
    while True:
        time.sleep(_PERIOD_S)
        try:
            if launcher.ppid() == starter_pid:
                continue
        except psutil.Error:
            # The launcher itself has gone: the kernel has sent the signal.
            return
        os.kill(os.getpid(), signal.SIGTERM)
        return
