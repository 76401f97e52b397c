"""A node whose disk shows new files late, simulated on one of two real ranks."""

import builtins
import os
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, distributed

from tests.distributed.test_engine import open_toy, runtime, take_step, whole_weights
from tests.helpers.ranks import run_ranks

LATE_S = 1.5


def show_late(folder: Path) -> None:
    """For a while this process sees nothing in a folder."""
    start_s = time.monotonic()

    def late(function: Any) -> Any:
        def look(path: Any, *arguments: Any, **options: Any) -> Any:
            is_inside = isinstance(path, str | Path) and str(folder) in str(path)
            if is_inside and time.monotonic() < start_s + LATE_S:
                raise FileNotFoundError(2, "No such file or directory", str(path))
            return function(path, *arguments, **options)

        return look

    os.stat, os.open, builtins.open = late(os.stat), late(os.open), late(builtins.open)


def resume_on_a_late_disk(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    from fla.checkpoint import TrainState, load_checkpoint
    from fla.run_folder import open_run_folder
    from fla.saving import Retention, Saver

    run_folder = open_run_folder(folder)
    engine = open_toy(3)
    take_step(engine, 0)
    saver = Saver(engine, run_folder, runtime=runtime(), retention=Retention(newest=1))
    saver.begin(TrainState(step=1))
    saver.finish()
    saved = whole_weights(engine)
    take_step(engine, 1)
    if distributed.get_rank() == 1:
        show_late(run_folder.checkpoint(1))

    start_s = time.monotonic()
    load_checkpoint(engine, run_folder.checkpoint(1), run_folder=run_folder, runtime=runtime())
    return saved, whole_weights(engine), time.monotonic() - start_s


@pytest.mark.slow
def test_a_checkpoint_is_loaded_as_soon_as_every_node_sees_it(tmp_path: Path):
    for saved, loaded, seconds in run_ranks(resume_on_a_late_disk, tmp_path, world_size=2):
        assert seconds > 1
        assert all(loaded[name].equal(tensor) for name, tensor in saved.items())
