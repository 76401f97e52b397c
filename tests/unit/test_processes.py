"""Work on all cores: results in order, and Ctrl-C answered by the caller alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fla.data.processes import count_cores, map_on_all_cores
from fla.errors import FlaError

ROOT = Path(__file__).parents[2]


def square(number: int) -> int:
    return number * number


def ignores_ctrl_c(_: int) -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def write_id_and_sleep(path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(str(os.getpid()))
    unfinished.replace(path)
    time.sleep(600)


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def is_running(process_id: int) -> bool:
    # One that has ended and that nobody asks about is still listed, as a zombie.
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return False


def test_cores_are_those_that_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert count_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert count_cores() == len(allowed)


def test_results_come_in_the_order_of_the_items():
    assert list(map_on_all_cores(square, range(7), at_once=2)) == [0, 1, 4, 9, 16, 25, 36]
    assert list(map_on_all_cores(square, [])) == []


def test_ctrl_c_is_for_the_caller_and_not_for_the_workers():
    # Tests that a shell has put in the background inherit that it is ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        in_workers = list(map_on_all_cores(ignores_ctrl_c, range(4)))
        afterwards = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, inherited)

    assert in_workers == [True] * 4
    assert afterwards is signal.default_int_handler


def test_a_closed_iterator_ends_what_has_begun():
    begin_s = time.monotonic()

    with closing(map_on_all_cores(time.sleep, [0, 600])) as results:
        next(results)

    assert time.monotonic() - begin_s < 30


def test_workers_end_with_a_caller_that_was_killed(tmp_path: Path):
    script = (
        "from pathlib import Path; from fla.data.processes import map_on_all_cores; "
        "from tests.unit.test_processes import write_id_and_sleep; "
        f"list(map_on_all_cores(write_id_and_sleep, [Path({str(tmp_path / 'id')!r})]))"
    )
    caller = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    wait_until((tmp_path / "id").exists)
    worker = int((tmp_path / "id").read_text())

    caller.kill()
    caller.wait()

    wait_until(lambda: not is_running(worker))


def test_a_process_that_was_killed_is_told_in_a_sentence():
    with pytest.raises(FlaError, match=r"ended before its work did: .* Start it again"):
        list(map_on_all_cores(die, [1, 2]))
