"""Work spread over all cores."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fla.errors import FlaError

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_cores() -> int:
    """Cores that this process may use: of a job's share, not of the whole machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_on_all_cores(
    function: Callable[[Item], Result], items: Sequence[Item], *, at_once: int = 1
) -> Generator[Result, None, None]:
    """Results in the order of the items.

    Closing the iterator, an error and Ctrl-C end the work at once, in the middle of an item; so
    does the end of the caller's process, however it comes. For the main thread: nobody else may
    say what Ctrl-C does.

    Args:
        function: Picklable.
        items: Picklable.
        at_once: Items that a process takes in one go.

    Raises:
        FlaError: A process was killed.
    """
    chunks = [items[first : first + at_once] for first in range(0, len(items), at_once)]
    workers = max(1, min(count_cores(), len(chunks)))
    others = set(multiprocessing.active_children())
    # Started anew and not forked: the caller's process may hold threads and locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_caller) as pool:
        # Ctrl-C reaches the whole group, and only the caller answers it: what is ignored when a
        # process starts stays ignored in it. All of them start here.
        answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            # Not pool.map: it cancels what is left, and a pool whose workers end meanwhile
            # trips over that.
            futures = [pool.submit(_apply, function, chunk) for chunk in chunks]
        finally:
            signal.signal(signal.SIGINT, answer)
        try:
            for future in futures:
                yield from future.result()
        except BrokenProcessPool:
            raise FlaError(
                "A process of this command ended before its work did: perhaps memory ran out, or "
                "a file made a decoder crash. Start it again: what is done is kept."
            ) from None
        except BaseException:
            # Nobody wants what has begun, and it may take minutes more.
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _apply(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _end_with_caller() -> None:
    # A worker whose caller was killed would wait for work for ever, or write what the next
    # caller is writing.
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    caller = multiprocessing.parent_process()
    assert caller is not None
    caller.join()
    os._exit(1)
