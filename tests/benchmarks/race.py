"""Contestants in turns, one at work at a time, so that other work on the machine disturbs all.

`race` gives each a process of its own and counts CPU time; `take_turns` goes from one to the next
within a process.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray

from tests.benchmarks.contestants import IMAGENET_STD, Job, Way

# What a batch of the loader holds.
_CLIPS_PER_BATCH = 4

_way: Way | None = None
"""In a contestant's process: what it keeps open."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A row of a table."""

    table: str
    """Its letter."""
    name: str
    make: Callable[[], Way]
    """Picklable."""
    jobs: Sequence[Job]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured of a contestant."""

    row: Contestant
    cpu_s: list[float]
    """CPU seconds of all jobs, one a round; empty where it does not run."""
    sample: NDArray[np.float32]
    """Every 4th frame of the first job, normalized; empty where it gives none."""
    fault: str
    """Why it does not run, or nothing."""

    def differs_from(self, other: "Result") -> float | None:
        """Mean difference of the samples, in levels of 255."""
        if self.sample.size == 0 or other.sample.size == 0:
            return None
        std = np.array(IMAGENET_STD, np.float32)[:, None, None]
        return float(np.abs((self.sample - other.sample) * std * 255).mean())


def race(rows: Sequence[Contestant], *, rounds: int, seed: int) -> list[Result]:
    """Warm every contestant up, then measure each once a round, in an order drawn anew."""
    spawn = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=spawn) for _ in rows]
    results = [Result(row=row, cpu_s=[], sample=np.empty(0, np.float32), fault="") for row in rows]
    random = Random(seed)
    try:
        for turn in range(rounds + 1):
            for place in random.sample(range(len(rows)), len(rows)):
                results[place] = _take_turn(results[place], pools[place], is_first=turn == 0)
            print(f"{turn} of {rounds} rounds", file=sys.stderr, flush=True)
    finally:
        for pool in pools:
            pool.shutdown()
    return results


def take_turns(
    ways: Mapping[str, Callable[[], float]], *, rounds: int, seed: int
) -> dict[str, list[float]]:
    """Measure each way once a round, in an order drawn anew; a round before warms up.

    Args:
        ways: Each does its work and gives what is measured of it, most often its seconds.
        rounds: How often each counts.
        seed: Of the order.

    Returns:
        By name, one value a round.
    """
    random = Random(seed)
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name in random.sample([*ways], len(ways)):
            value = ways[name]()
            if turn:
                measured[name].append(value)
        print(f"{turn} of {rounds} rounds", file=sys.stderr, flush=True)
    return measured


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock time of some work."""
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours in theirs, one ratio a round."""
    return [own / other for own, other in zip(ours, theirs, strict=True)]


def _take_turn(result: Result, pool: ProcessPoolExecutor, *, is_first: bool) -> Result:
    row, cpu_s, sample = result.row, result.cpu_s, result.sample
    if result.fault:
        return result
    try:
        if is_first:
            sample = pool.submit(_begin, row.make, row.jobs[0]).result()
        else:
            cpu_s = [*cpu_s, pool.submit(_measure, row.jobs).result()]
    # A report: what ends a contestant is said in its row, and the others go on.
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [""]
        fault = f"{type(error).__name__}: {reason[0]}"
        return Result(row=row, cpu_s=[], sample=np.empty(0, np.float32), fault=fault)
    return Result(row=row, cpu_s=cpu_s, sample=sample, fault="")


def _begin(make: Callable[[], Way], job: Job) -> NDArray[np.float32]:
    global _way
    torch.set_num_threads(1)
    _way = make()
    frames: NDArray[np.float32] = _way([job])[::4].numpy()
    return frames


def _measure(jobs: Sequence[Job]) -> float:
    assert _way is not None
    before_s = _cpu_s()
    for begin in range(0, len(jobs), _CLIPS_PER_BATCH):
        _way(jobs[begin : begin + _CLIPS_PER_BATCH])
    return _cpu_s() - before_s


def _cpu_s() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
