"""A rank that hangs: the others end in bounded time, nothing of it is left, the run goes on."""

import re
import signal
from pathlib import Path

import psutil
import pytest

from fla.run_folder import RunFolder
from tests.helpers.commands import deepspeed, run_well
from tests.helpers.faults import expect_same_runs, has_step, launched

STEPS = (
    "train.num_epochs=4",
    "train.max_steps=10",
    "train.evaluate_every_steps=4",
    "train.log_every_steps=3",
    "train.patience_minutes=0.3",
)
# The patience of the others, theirs to close what is open, and the launcher's to end a stopped one.
BOUND_S = 18 + 25 + 35


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("hung", [0, 1])
def test_a_rank_that_hangs_ends_the_run_in_bounded_time_and_it_goes_on(
    hung: int, corpus: object, tmp_path: Path
):
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    run_well(deepspeed(*corpus.stage1(whole.path), *STEPS), timeout_s=300)
    again = deepspeed(*corpus.stage1(stopped.path), *STEPS)

    with launched(again, tmp_path / "hung.log") as run:
        run.wait_until(has_step(stopped, 6), timeout_s=200)
        ranks = run.ranks()
        ranks[hung].send_signal(signal.SIGSTOP)
        status = run.end(timeout_s=BOUND_S)
        alive = [
            rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE
        ]

    assert status != 0
    assert alive == []
    # Who waited says for what.
    words = (stopped.logs / f"rank_00{1 - hung}.log").read_text()
    assert re.search(r"This rank ends: ", words), words[-2000:]
    run_well(again, timeout_s=300)
    expect_same_runs(whole, stopped)
