"""A run that is stopped in any way and started again ends as if it had never been stopped."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fla.run_folder import RunFolder, list_complete_checkpoints
from tests.helpers.commands import deepspeed, run_well
from tests.helpers.faults import Launched, expect_same_runs, has_step, launched
from tests.helpers.stops import (
    ask_the_launcher_to_stop,
    lose_a_rank,
    lose_power,
    lose_the_launcher,
    lose_the_starter,
    warn_a_rank,
)

LONGER = (
    "train.num_epochs=4",
    "train.max_steps=10",
    "train.evaluate_every_steps=4",
    # A row spans a checkpoint.
    "train.log_every_steps=3",
)


def stage1(corpus, runs: Path) -> list[str]:
    return corpus.stage1(runs)


def stage2(corpus, runs: Path) -> list[str]:
    encoder = runs.parent / "encoder"
    if not (encoder / "DONE").exists():
        run_well(deepspeed(*corpus.stage1(encoder)), timeout_s=250)
    return corpus.stage2(runs, encoder / "export")


SHARDED = ("deepspeed=ds_configs/zero3_fp32.json",)
ZERO_2 = ("deepspeed=ds_configs/zero2_fp32.json",)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("stage", "words", "stops"),
    [
        (stage1, (), [lose_power, ask_the_launcher_to_stop]),
        (stage1, ZERO_2, [lose_a_rank, lose_the_launcher]),
        (stage1, ("data.on_decode_error=skip", "train.ema_decay=0.9"), [lose_power, warn_a_rank]),
        (stage2, (), [lose_power, lose_the_starter]),
        (stage2, (*SHARDED, "features.mode=cached"), [lose_a_rank, ask_the_launcher_to_stop]),
        (stage2, ("features.mode=cached", "features.num_views=2"), [warn_a_rank, lose_power]),
    ],
)
def test_whatever_stops_a_run_it_ends_as_the_one_that_nothing_stopped(
    stage: Callable[[object, Path], list[str]],
    words: tuple[str, ...],
    stops: list[Callable[[Launched], None]],
    corpus: object,
    tmp_path: Path,
):
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    run_well(deepspeed(*stage(corpus, whole.path), *LONGER, *words), timeout_s=300)
    again = [*stage(corpus, stopped.path), *LONGER, *words]

    for step, stop in zip((3, 6), stops, strict=True):
        with launched(deepspeed(*again), tmp_path / f"{step}.log") as run:
            run.wait_until(has_step(stopped, step), timeout_s=200)
            stop(run)
    run_well(deepspeed(*again), timeout_s=300)

    expect_same_runs(whole, stopped)
    # Those of a stop count among the newest, so only the last is the same.
    assert list_complete_checkpoints(stopped)[-1].name == "step_0000010"
