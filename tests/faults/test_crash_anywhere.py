"""A run that is killed between any two of its file operations, or whose disk fails from any of
them on, goes on as if it had not been.
"""

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import distributed

from fla.checkpoint import TrainState, choose_checkpoint, read_train_state
from fla.errors import FlaError
from fla.run_folder import list_complete_checkpoints, open_run_folder, read_best, step_of
from fla.runtime import join_process_group
from tests.helpers.training import RUNTIME, Training

# The best one, a worse one that goes, a better one, and the newest.
SCORES = {1: 3.0, 2: 1.0, 3: 5.0, 4: 4.0}
FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link")


class Ended(NamedTuple):
    """What is left of a run at its end."""

    checkpoints: list[str]
    best: str | None
    state: TrainState


def train_run(folder: Path) -> None:
    """Begin the run, or go on with it, as a launcher does."""
    training = Training(folder, num_epochs=2, max_steps=4, evaluate_every_steps=1)
    chosen = choose_checkpoint(training.folder, "auto", runtime=RUNTIME)
    state = TrainState(run_id="ours")
    if chosen is not None:
        state = read_train_state(chosen, manifests={})
        training.engine.num_steps = int((chosen / "weights").read_text())
        assert training.engine.num_steps == state.step
    training.run(SCORES, state=state)


def train_until(folder: Path, last_event: int) -> None:
    """Be killed right before one of the file operations in the folder."""
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in FILE_EVENTS and str(folder) in str(arguments[0]):
            seen += 1
            if seen > last_event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    train_run(folder)


def train_on_bad_disk(folder: Path, last_event: int, error: int) -> None:
    """Train until a disk is full, or suddenly read-only; say so in one sentence and no traceback.

    Exits with 3 where a sentence was said.
    """
    seen = 0

    def fail(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in FILE_EVENTS or str(folder) not in str(arguments[0]):
            return
        # A full disk still removes and renames, and is read.
        if not writes(event, arguments, names=error == errno.EROFS):
            return
        seen += 1
        if seen > last_event:
            raise OSError(error, os.strerror(error), str(arguments[0]))

    sys.addaudithook(fail)
    try:
        train_run(folder)
    except FlaError as told:
        assert os.strerror(error) in str(told), told
        assert str(folder) in str(told), told
        assert " free" in str(told), told
        # Not by a return: the rest of the process would meet the same disk.
        os._exit(3)


def writes(event: str, arguments: tuple[Any, ...], *, names: bool) -> bool:
    """Whether an operation takes room on a disk or, with `names`, changes anything of it."""
    if event == "open":
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event == "os.mkdir" or names


def in_own_process(function: Callable[..., None], *arguments: object) -> int:
    """Exit code of a process that was forked for it: imports take longer than training."""

    def work() -> None:
        torch.set_num_threads(1)
        join_process_group("gloo", rank=0, world_size=1)
        function(*arguments)
        distributed.destroy_process_group()

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def look_at(folder: Path) -> Ended:
    run = open_run_folder(folder)
    checkpoints = [path.name for path in list_complete_checkpoints(run)]
    state = read_train_state(run.checkpoint(4), manifests={})
    return Ended(checkpoints, read_best(run), state)


def newest_whole_step(folder: Path) -> int:
    """Where the run would go on; 0: it would begin anew."""
    chosen = choose_checkpoint(open_run_folder(folder), "auto", runtime=RUNTIME)
    return 0 if chosen is None else step_of(chosen.name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("whole")
    assert in_own_process(train_run, folder) == 0
    ended = look_at(folder)
    assert (ended.checkpoints, ended.best) == (["step_0000003", "step_0000004"], "step_0000003")
    return ended


def test_killed_between_any_two_file_operations_it_goes_on_to_the_same_end(whole, tmp_path):
    steps = []
    was_killed = True
    while was_killed:
        folder = tmp_path / f"killed_{len(steps)}"
        was_killed = in_own_process(train_until, folder, len(steps)) == -signal.SIGKILL
        steps.append(newest_whole_step(folder))

        assert in_own_process(train_run, folder) == 0
        assert look_at(folder) == whole, f"killed before file operation {len(steps)}"

    # Folders, files, renames and removals of four checkpoints, of which two are deleted.
    assert len(steps) > 50
    # What was whole once is never lost before something newer is.
    assert steps == sorted(steps)
    assert set(steps) == {0, 1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
def test_a_disk_that_fails_at_any_write_is_told_in_a_sentence_and_loses_nothing(
    error, whole, tmp_path
):
    steps, codes = [], [3]
    while codes[-1]:
        folder = tmp_path / f"failed_{len(steps)}"
        open_run_folder(folder)
        codes.append(in_own_process(train_on_bad_disk, folder, len(steps), error))
        assert codes[-1] in (0, 3), f"a traceback at write {len(steps)}"
        steps.append(newest_whole_step(folder))

        assert in_own_process(train_run, folder) == 0
        assert look_at(folder) == whole, f"failed from write {len(steps)} on"

    assert len(steps) > 15
    assert steps == sorted(steps)
