"""Work spread over all cores."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_on_all_cores(
    function: Callable[[Item], Result], items: Sequence[Item], *, at_once: int = 1
) -> Generator[Result, None, None]:
    """Results in the order of the items; closing the iterator drops what has not begun.

    For the main thread: nobody else may say what Ctrl-C does.

    Args:
        function: Picklable.
        items: Picklable.
        at_once: Items that a process takes in one go.
    """
    workers = max(1, min(os.cpu_count() or 1, len(items)))
    # Started anew and not forked: the caller's process may hold threads and locks.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        # Ctrl-C reaches the whole group, and only the caller answers it: what is ignored when a
        # process starts stays ignored in it. All of them start here.
        answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            results = pool.map(function, items, chunksize=at_once)
        finally:
            signal.signal(signal.SIGINT, answer)
        yield from results
