"""SIGTERM: what ends, what is told before, and who is left alone."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fla.sigterm import SigtermWatch

STUCK = """
import ctypes, sys
from pathlib import Path
from fla.run_folder import open_run_folder
from fla.tracking import open_tracker

tracker = open_tracker(
    run_folder=open_run_folder(Path(sys.argv[1])), uri="", experiment="e", run_name="r",
    pipeline="p", params={}, tags={},
)
tracker.log({"train/loss": 1.0}, step=1)
# In C, without Python's lock, and deaf to signals, like a collective that waits for a dead rank.
mutex, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)
libc.pthread_mutex_lock(mutex)
libc.pthread_mutex_lock(mutex)
"""

FORK = """
import multiprocessing, time
from fla.sigterm import SigtermWatch

watch = SigtermWatch(lambda: print("parent was told", flush=True))
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


def test_sigterm_ends_a_stuck_process_and_leaves_its_run_killed(tmp_path):
    run_json = tmp_path / "a" / "mlflow_run.json"
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, tmp_path / "a"], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(run_json)
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


def test_a_forked_child_can_be_terminated_alone():
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "child -15\n"


def test_sigterm_has_its_usual_meaning_after_the_end():
    watch = SigtermWatch(lambda: None)
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
    watch = SigtermWatch(lambda: None)
    assert signal.getsignal(signal.SIGTERM) is own_handler

    watch.remove()

    assert signal.getsignal(signal.SIGTERM) is own_handler
