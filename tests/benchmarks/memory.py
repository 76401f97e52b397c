"""Time and memory of some work in processes of its own, so that nothing before it counts."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.race import seconds_of
from tests.helpers.ranks import run_ranks

_PROCESS = Path("/proc/self")
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MANY_BLOCKS = 65536
_SMALL_BYTES = 64 * 1024
_TIMEOUT_S = 300

Make = Callable[..., Callable[[], object]]
"""Makes some work in the process that does it; at the top level of a module."""


def measure_seconds(make: Make, *args: object, world_size: int = 1, times: int = 2) -> float:
    """Time of some work, the fastest of several times, on the slowest rank.

    Args:
        make: Called with `args` in the process; the work is done once more before, to warm up.
        args: Picklable.
        world_size: Ranks that do it at once.
        times: How often it is measured.
    """
    found = run_ranks(_time, make, args, times, world_size=world_size, timeout_s=_TIMEOUT_S)
    return float(max(found))


def measure_peak(make: Make, *args: object, world_size: int = 1) -> float:
    """Most memory that some work takes above what is there before and after it, in MiB.

    Args:
        make: As of `measure_seconds`, like the others.
        args: Picklable.
        world_size: The rank with the most memory counts.
    """
    found = run_ranks(_peak, make, args, world_size=world_size, timeout_s=_TIMEOUT_S)
    return float(max(found))


def _time(make: Make, args: tuple[object, ...], times: int) -> float:
    work = make(*args)
    work()
    return min(seconds_of(work) for _ in range(times))


def _give_freed_memory_back() -> None:
    """At once, which takes time but shows in the resident memory."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, _MANY_BLOCKS)
    libc.mallopt(_M_MMAP_THRESHOLD, _SMALL_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _SMALL_BYTES)


def _peak(make: Make, args: tuple[object, ...]) -> float:
    _give_freed_memory_back()
    work = make(*args)
    # A rank that was started keeps what it frees.
    _give_freed_memory_back()
    work()
    # Free blocks between others: what the work takes of them counts.
    ctypes.CDLL(None).malloc_trim(0)
    before = _read_status("VmRSS")
    # Forgets the highest that was.
    (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
    work()
    return (_read_status("VmHWM") - before) / 1024


def _read_status(name: str) -> int:
    """A size of this process in KiB."""
    found = re.search(rf"{name}:\s*(\d+)", (_PROCESS / "status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])
