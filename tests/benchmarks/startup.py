"""How long it takes until a run trains: python -m tests.benchmarks.startup

Each time is that of whole processes, started one after the other. What torch and DeepSpeed take to
be imported is taken off: nobody here can change it.
"""

import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

from fla.journal import read_points
from tests.benchmarks.corpus import make_demo_corpus
from tests.benchmarks.race import seconds_of, take_turns
from tests.benchmarks.rows import Row, median_row, run_benchmark

ROUNDS = 2
SEED = 1
LAUNCHER = "launchers/stage1.py"


def measure(folder: Path) -> list[Row]:
    """`--help`, imports, and the first step of the demo's stage 1."""
    corpus = make_demo_corpus(folder / "demo")
    run_dir, unused_dir = (corpus.folder / "runs" / name for name in ("startup", "unused"))
    training = [
        LAUNCHER,
        *corpus.words(run_dir),
        "deepspeed=ds_configs/zero1_fp32.json",
        "train.max_steps=1",
        "train.log_every_steps=1",
    ]
    wholes: list[float] = []
    times = take_turns(
        {
            "help": partial(_seconds_of, LAUNCHER, "--help"),
            "check": partial(_seconds_of, LAUNCHER, *corpus.words(unused_dir), "--check"),
            "imports": partial(_seconds_of, "-c", "import torch, deepspeed"),
            "first step": lambda: _seconds_to_first_step(training, run_dir, wholes),
        },
        rounds=ROUNDS,
        seed=SEED,
    )
    imports_s = median(times["imports"])
    return [
        median_row("startup: --help", times["help"], unit="s", better="lower", target=1.0),
        median_row("startup: --check of stage 1", times["check"], unit="s", better="lower"),
        median_row(
            "startup: import of torch and deepspeed", times["imports"], unit="s", better="neither"
        ),
        median_row(
            "startup: first step of the demo's stage 1 is over, without these imports",
            [seconds - imports_s for seconds in times["first step"]], unit="s", better="lower",
        ),
        median_row(
            "startup: a whole run of one step, with evaluation and export", wholes[1:], unit="s",
            better="lower",
        ),
    ]  # fmt: skip


def _seconds_of(*words: str) -> float:
    return seconds_of(lambda: _python(*words))


def _seconds_to_first_step(words: list[str], run_dir: Path, wholes: list[float]) -> float:
    shutil.rmtree(run_dir, ignore_errors=True)
    start_s = time.time()
    _python(*words)
    wholes.append(time.time() - start_s)
    points, _ = read_points(run_dir / "metrics.jsonl")
    first_s = min(point.timestamp_ms for point in points if point.step == 1) / 1000
    return first_s - start_s


def _python(*words: str) -> None:
    subprocess.run(
        [sys.executable, *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )


if __name__ == "__main__":
    sys.exit(run_benchmark(measure, description=__doc__))
