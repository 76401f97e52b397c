"""A profile of some training steps: a trace to look at, and a table of what took longest.

`profile/trace.json.gz` is for chrome://tracing or https://ui.perfetto.dev; `profile/operators.txt`
has the phases of a step, and the operators by their own time.
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, record_function, schedule

from fla.run_folder import RunFolder
from fla.runtime import Runtime
from fla.tracking import Tracker

log = logging.getLogger(__name__)

T = TypeVar("T")

_PREFIX = "fla: "
# The first steps warm up; before the last of these the profiler itself does.
_NUM_BEFORE = 3
_NUM_OPERATORS = 30


class Profile(Protocol):
    """What the training loop says of itself."""

    def steps(self, steps: Iterator[T]) -> Iterator[T]:
        """The same steps, of which some are recorded with the waiting for them."""
        ...

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """A named part of a step."""
        ...


class NoProfile:
    """Records nothing."""

    def steps(self, steps: Iterator[T]) -> Iterator[T]:
        return steps

    def phase(self, name: str) -> AbstractContextManager[Any]:
        return nullcontext()


NO_PROFILE = NoProfile()


class TorchProfile:
    """Records steps with torch.profiler and writes what it found behind the last one.

    Args:
        num_steps: To record; fewer where training ends before.
        run_folder: Takes the files, in the place of earlier ones.
        tracker: Takes them, too.
        has_gpu: Whether there is a GPU to be looked at.
    """

    def __init__(
        self, num_steps: int, *, run_folder: RunFolder, tracker: Tracker, has_gpu: bool
    ) -> None:
        self._folder = run_folder.profile
        self._tracker = tracker
        self._num_steps = num_steps
        self._has_gpu = has_gpu

    def steps(self, steps: Iterator[T]) -> Iterator[T]:
        """As of `Profile`."""
        activities = [ProfilerActivity.CPU]
        if self._has_gpu:
            activities.append(ProfilerActivity.CUDA)
        with torch.profiler.profile(
            activities=activities,
            schedule=schedule(wait=_NUM_BEFORE - 1, warmup=1, active=self._num_steps, repeat=1),
            on_trace_ready=self._write,
            # The frozen encoder of stage 2 works in a thread of its own.
            experimental_config=_ExperimentalConfig(profile_all_threads=True),
        ) as profiler:
            for _ in range(_NUM_BEFORE + self._num_steps):
                with self.phase("data wait"):
                    step = next(steps, None)
                if step is None:
                    return
                yield step
                profiler.step()
        yield from steps

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """As of `Profile`."""
        return record_function(_PREFIX + name)

    def _write(self, profiler: torch.profiler.profile) -> None:
        num_steps = profiler.step_num - _NUM_BEFORE
        if num_steps == 0:
            # Training ended as it was to begin.
            return
        averages = profiler.key_averages()
        order = "self_device_time_total" if self._has_gpu else "self_cpu_time_total"
        text = _describe(averages, num_steps=num_steps, order=order)
        try:
            self._folder.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(self._folder / "trace.json.gz"))
            (self._folder / "operators.txt").write_text(text, encoding="utf-8")
        except OSError as error:
            log.warning("%s: the profile could not be written (%s).", self._folder, error)
            return
        log.info("A profile is in %s.", self._folder)
        self._tracker.log_artifact(self._folder, self._folder.name)


def open_profile(
    num_steps: int, *, run_folder: RunFolder, tracker: Tracker, runtime: Runtime
) -> Profile:
    """Record so many steps after three, on rank 0 alone; 0: nothing, at no cost."""
    if not num_steps or not runtime.is_main:
        return NO_PROFILE
    return TorchProfile(
        num_steps, run_folder=run_folder, tracker=tracker, has_gpu=runtime.device != "cpu"
    )


def _describe(averages: Any, *, num_steps: int, order: str) -> str:
    operators: str = averages.table(
        sort_by=order, row_limit=_NUM_OPERATORS, max_name_column_width=60
    )
    lines = [
        f"{num_steps} steps; times of the training thread, behind which a GPU may work on.",
        "",
        f"{'phase':<12}{'times':>7}{'ms a step':>12}",
        *(
            f"{row.key.removeprefix(_PREFIX):<12}{row.count:>7}"
            f"{row.cpu_time_total / 1000 / num_steps:>12.2f}"
            for row in averages
            if row.key.startswith(_PREFIX) and row.cpu_time_total
        ),
        "",
        "Operators of all threads, those of the most time of their own first:",
        "",
    ]
    return "\n".join(lines) + operators
