"""Signals: what ends, what is told before, and who is left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fla.signals import SignalWatch

STUCK = """
import ctypes, sys
from pathlib import Path
from fla import signals
from fla.run_folder import open_run_folder
from fla.tracking import open_tracker

tracker = open_tracker(
    run_folder=open_run_folder(Path(sys.argv[1])), uri="", experiment="e", run_name="r",
    pipeline="p", params={}, tags={},
)
signals.PATIENCE_S = float(sys.argv[2])
watch = signals.SignalWatch(lambda: tracker.close("KILLED", 10.0))
tracker.log({"train/loss": 1.0}, step=1)
# In C, without Python's lock, and deaf to signals, like a collective that waits for a dead rank.
mutex, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)
libc.pthread_mutex_lock(mutex)
print("stuck", flush=True)
libc.pthread_mutex_lock(mutex)
"""

WAITING = """
import sys, time
from fla import signals

signals.PATIENCE_S = float(sys.argv[1])
watch = signals.SignalWatch(lambda: print("last act", flush=True))
print("ready", flush=True)
while watch.requested is None:
    time.sleep(0.02)
print(watch.requested.name, flush=True)
time.sleep(float(sys.argv[2]))
print("ended by itself", flush=True)
"""

FORK = """
import multiprocessing, time
from fla.signals import SignalWatch

watch = SignalWatch(lambda: print("parent was told", flush=True))
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
child.start()
time.sleep(0.2)
child.terminate()
child.join(10)
time.sleep(0.2)
print("child", child.exitcode)
"""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("patience_s", "pauses_s"),
    [
        pytest.param("1", [], id="after its patience"),
        pytest.param("60", [2.2], id="at once", marks=pytest.mark.slow),
    ],
)
def test_sigterm_ends_a_stuck_process_and_leaves_its_run_killed(tmp_path, patience_s, pauses_s):
    run_json = tmp_path / "a" / "mlflow_run.json"
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, tmp_path / "a", patience_s],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(run_json)
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGTERM)
        for pause_s in pauses_s:
            time.sleep(pause_s)
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()

    assert process.returncode == 143
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(json.loads(run_json.read_text())["run_id"])
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"train/loss": 1.0}
    assert client.get_run(run.data.tags["mlflow.parentRunId"]).info.status == "KILLED"
    # Nor does MLflow write pages about the tables that it makes.
    assert "INFO" not in errors


def signal_waiting(
    sent: list[tuple[float, signal.Signals]], *, patience_s: float, work_s: float, **env: str
) -> tuple[list[str], int]:
    """Lines and exit status of a process that works on for a time after the first signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(patience_s), str(work_s)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    try:
        assert process.stdout.readline() == "ready\n"
        for pause_s, number in sent:
            time.sleep(pause_s)
            process.send_signal(number)
        lines, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    return lines.splitlines(), process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_first_signal_is_noted_and_leaves_time_to_end(number):
    found = signal_waiting([(0, number)], patience_s=20, work_s=0.5)

    assert found == ([number.name, "ended by itself"], 0)


def test_what_launcher_and_terminal_both_pass_on_is_one_request():
    sent = [(0, signal.SIGINT), (0.3, signal.SIGTERM)]

    assert signal_waiting(sent, patience_s=20, work_s=1)[0] == ["SIGINT", "ended by itself"]


def test_a_second_signal_ends_at_once():
    sent = [(0, signal.SIGINT), (2.3, signal.SIGINT)]

    assert signal_waiting(sent, patience_s=30, work_s=30) == (["SIGINT", "last act"], 130)


def test_sigusr1_leaves_all_the_time_there_is():
    found = signal_waiting([(0, signal.SIGUSR1)], patience_s=0.1, work_s=3)

    assert found == (["SIGUSR1", "ended by itself"], 0)


def test_where_another_rank_of_the_machine_is_gone_nothing_is_waited_for():
    # Of as many ranks as LOCAL_SIZE says, only those are left that this process started.
    found = signal_waiting([(0, signal.SIGTERM)], patience_s=30, work_s=30, LOCAL_SIZE="999")

    assert found == (["SIGTERM", "last act"], 143)


def test_a_forked_child_can_be_terminated_alone():
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "child -15\n"


def test_sigterm_has_its_usual_meaning_after_the_end():
    watch = SignalWatch(lambda: None)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL

    watch.remove()

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.fixture
def own_handler():
    def handle(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGTERM, handle)
    yield handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_handler_of_someone_else_stays(own_handler):
    watch = SignalWatch(lambda: None)
    assert signal.getsignal(signal.SIGTERM) is own_handler

    watch.remove()

    assert signal.getsignal(signal.SIGTERM) is own_handler
