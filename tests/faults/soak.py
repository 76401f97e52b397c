"""Stop runs at random for a while: python -m tests.faults.soak --minutes 30 [--seed 1].

Every run is stopped up to three times, in a random way at a random moment, and started again; at
its end it must be the run that nothing stopped, bit for bit. Prints what happened as a table.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fla.run_folder import RunFolder, list_complete_checkpoints, step_of
from tests.helpers.commands import deepspeed, run_well
from tests.helpers.faults import Launched, expect_same_runs, launched, read_rows
from tests.helpers.stops import STOPS, lose_power
from tests.helpers.tiny_corpus import TinyCorpus, make_corpus

STEPS = ("train.num_epochs=10", "train.max_steps=24", "train.evaluate_every_steps=8")
STEPS += ("train.log_every_steps=3", "train.patience_minutes=0.5")
LONGEST_S = 400


class Stopped(NamedTuple):
    """What one stop took."""

    stage: int
    name: str
    ended_s: float
    lost_steps: int
    """Between the last row of training and the checkpoint that the run goes on from."""


class Soak:
    """Runs that nothing stops, by stage, and what became of those that were stopped."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.corpus: TinyCorpus = make_corpus(folder)
        self.whole = {stage: RunFolder(folder / f"whole_{stage}") for stage in (1, 2)}
        self.seconds = {}
        for stage, run in self.whole.items():
            start_s = time.monotonic()
            run_well(deepspeed(*self.words(stage, run.path)), timeout_s=LONGEST_S)
            self.seconds[stage] = time.monotonic() - start_s
        self.stopped: list[Stopped] = []

    def words(self, stage: int, run_dir: Path) -> list[str]:
        if stage == 1:
            return [*self.corpus.stage1(run_dir), *STEPS]
        return [*self.corpus.stage2(run_dir, self.whole[1].export), *STEPS]

    def play(self, number: int) -> None:
        """Stop one run at random, let it end, and compare it."""
        stage = self.random.choice((1, 2))
        run = RunFolder(self.folder / f"run_{number:03d}")
        command = deepspeed(*self.words(stage, run.path))
        log = self.folder / f"run_{number:03d}.log"
        for _ in range(self.random.randint(1, 3)):
            with launched(command, log) as running:
                self.stop(running, run, stage)
            if (run.path / "DONE").exists():
                break
        run_well(command, timeout_s=LONGEST_S)
        expect_same_runs(self.whole[stage], run)
        print(f"stage {stage}: the run ends as the one that nothing stopped", flush=True)

    def stop(self, running: Launched, run: RunFolder, stage: int) -> None:
        moment_s = self.random.uniform(2, self.seconds[stage])
        end_s = time.monotonic() + moment_s
        while time.monotonic() < end_s and running.process.poll() is None:
            time.sleep(0.05)
        if running.process.poll() is not None:
            return
        stop = self.random.choice(STOPS)
        if len(running.ranks()) < 2:
            # The ranks are not there yet, or no longer.
            stop = lose_power
        start_s = time.monotonic()
        try:
            stop(running)
        except AssertionError:
            # A rank that is asked before it trains ends without saving.
            if run.metrics_jsonl.exists() and newest(run) > 0:
                raise
        took_s = time.monotonic() - start_s
        reached = max((row["step"] for row in read_rows(run)), default=0)
        kept = newest(run)
        self.stopped.append(Stopped(stage, stop.__name__, took_s, max(0, reached - kept)))
        print(
            f"stage {stage}  {stop.__name__:26} at {moment_s:5.1f} s  ended in {took_s:4.1f} s  "
            f"rows up to step {reached:2}, checkpoint of step {kept:2}",
            flush=True,
        )


def summarize(stopped: Sequence[Stopped]) -> Iterator[str]:
    """A table for people, a line for each way to stop a stage."""
    yield "| fault | stage | times | ended within | most steps lost |"
    yield "|---|---|---|---|---|"
    for name, stage in sorted({(it.name, it.stage) for it in stopped}):
        those = [it for it in stopped if (it.name, it.stage) == (name, stage)]
        longest_s, lost = max(it.ended_s for it in those), max(it.lost_steps for it in those)
        yield f"| {name} | {stage} | {len(those)} | {longest_s:.0f} s | {lost} |"


def newest(run: RunFolder) -> int:
    """Step of the newest complete checkpoint; 0: there is none."""
    complete: Sequence[Path] = list_complete_checkpoints(run)
    return step_of(complete[-1].name) if complete else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    end_s = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), args.seed)
        number = 0
        while time.monotonic() < end_s:
            soak.play(number)
            number += 1
    print(*summarize(soak.stopped), sep="\n")
    print(f"{number} runs were stopped and ended as the ones that nothing stopped.")


if __name__ == "__main__":
    main()
