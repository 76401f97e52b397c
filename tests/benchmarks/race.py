"""Contestants in turns: each in a process of its own, one at work at a time, CPU time counted."""

import multiprocessing
import resource
import sys
from collections.abc import Callable, Sequence
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
