"""Real runs that are stopped on purpose, and what is left of them."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from fla.run_folder import RunFolder
from fla.weights import SAFETENSORS, open_tensors
from tests.helpers.commands import ROOT, environment

_TIMED = ("time_s", "train/tokens_per_s", "train/data_wait_fraction")


class Launched:
    """A launcher with its ranks, in a session of their own."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("a") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, happened: Callable[[], bool], *, timeout_s: float = 150) -> None:
        """Wait for something of the run; fail with its output where it ends before."""
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.01)

    def end(self, *, timeout_s: float) -> int:
        """Wait for the launcher; its exit status."""
        return self.process.wait(timeout_s)

    def tree(self) -> list[psutil.Process]:
        """The launcher and all that it started, the launcher first."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def launcher_of_ranks(self) -> psutil.Process:
        """DeepSpeed's launch.py, which `deepspeed` starts on every node."""
        return next(it for it in self.tree() if "deepspeed.launcher.launch" in it.cmdline())

    def ranks(self) -> list[psutil.Process]:
        """The ranks, by number."""
        found = [it for it in self.tree() if any("--local_rank" in word for word in it.cmdline())]
        return sorted(found, key=lambda it: it.environ()["RANK"])

    def kill_all(self) -> None:
        """SIGKILL to everything at once, as a machine that loses its power."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def launched(command: list[str], log: Path) -> Iterator[Launched]:
    """A launcher that leaves nothing behind, whatever a test does."""
    run = Launched(command, log)
    try:
        yield run
    finally:
        run.kill_all()


def has_step(folder: RunFolder, step: int) -> Callable[[], bool]:
    """Whether the journal has a row of training at this step or later."""

    def look() -> bool:
        return any(row["step"] >= step for row in read_rows(folder))

    return look


def read_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Whole rows of the journal of a run that may be just writing one."""
    if not folder.metrics_jsonl.exists():
        return []
    lines = folder.metrics_jsonl.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def metrics_of(folder: RunFolder) -> dict[tuple[int, str], float]:
    """Every metric by step, the last one said, but for what is a time."""
    return {
        (row["step"], name): value
        for row in read_rows(folder)
        for name, value in row.items()
        if name not in _TIMED
    }


def expect_same_runs(one: RunFolder, other: RunFolder) -> None:
    """Two runs that nobody can tell apart: metrics, translations of dev and weights, bit by bit."""
    assert metrics_of(one) == metrics_of(other)
    decodes, others = (
        # A process that is killed while it writes leaves half a file with a dot before its name.
        {path.name for path in run.decodes.iterdir() if not path.name.startswith(".")}
        for run in (one, other)
    )
    assert decodes == others
    for name in decodes:
        assert (one.decodes / name).read_bytes() == (other.decodes / name).read_bytes(), name
    assert one.best_txt.read_text() == other.best_txt.read_text()
    ours, theirs = (open_tensors(run.export / SAFETENSORS) for run in (one, other))
    assert ours.names == theirs.names
    for name in ours.names:
        assert torch.equal(ours.tensor(name), theirs.tensor(name)), name
