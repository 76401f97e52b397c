"""A tracking server or store that fails in every way: training does not notice, nothing is lost."""

import json
import logging
import re
import shutil
import sqlite3
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from fla.errors import ConfigError, FlaError
from fla.journal import append_row, read_points
from fla.run_folder import RunFolder, open_run_folder
from fla.sender import without_password
from fla.sync import sync_run
from fla.tracking import MlflowTracker, open_tracker
from tests.helpers.commands import ROOT, environment, free_port, on_ranks, python, run, run_well
from tests.helpers.faults import has_step, launched
from tests.helpers.faulty_proxy import (
    FaultyProxy,
    answer_with,
    be_slow,
    cut_answers,
    faulty_proxy,
    hang,
    lose_answers,
    only_for,
    pass_on,
    refuse,
)
from tests.helpers.servers import Server, serve_store
from tests.helpers.tiny_corpus import TinyCorpus

NUM_STEPS = 250
PATIENCE_S = 60
CLOSE_S = 3.0
ANSWER_S = 2
"""How long MLflow's client waits for an answer."""
FLOOR_S = 0.1
"""What a busy machine may cost a step, whatever the tracker does."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("server") / "mlflow.db"
    shutil.copy(empty_store, store)
    with serve_store(store, port=free_port()) as server:
        yield server


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Path:
    """A store of the test's own, without a server."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Wait less for an answer than training does, and keep what is logged."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(ANSWER_S))
    caplog.set_level(logging.INFO)


@dataclass
class Trained:
    """A run as its training thread saw it."""

    folder: RunFolder
    log_s: list[float] = field(default_factory=list)
    """Of each call of `log`."""
    step_s: list[float] = field(default_factory=list)
    close_s: float = 0.0


def train(
    path: Path,
    uri: str,
    *,
    events: Mapping[int, Callable[[], object]] | None = None,
    close_s: float = PATIENCE_S,
) -> Trained:
    """Log two metrics a step, and end as the process of a training ends.

    Args:
        events: What happens before a step.
        close_s: Patience at the end.
    """
    trained = Trained(open_run_folder(path))
    tracker = open_for(trained.folder, uri)
    for step in range(1, NUM_STEPS + 1):
        (events or {}).get(step, lambda: None)()
        begin_s = time.monotonic()
        time.sleep(0.005)
        logging_s = time.monotonic()
        tracker.log({"train/loss": 1 / step, "train/epoch": step / 50}, step=step)
        now_s = time.monotonic()
        trained.log_s.append(now_s - logging_s)
        trained.step_s.append(now_s - begin_s)
    begin_s = time.monotonic()
    tracker.close("FINISHED", timeout_s=close_s)
    trained.close_s = time.monotonic() - begin_s
    return trained


def open_for(folder: RunFolder, uri: str, *, experiment: str = "") -> MlflowTracker:
    return open_tracker(
        run_folder=folder,
        uri=uri,
        # One for each test, of the store that they share.
        experiment=experiment or folder.path.parent.name,
        run_name=folder.path.name,
        pipeline="",
        params={"optim.learning_rate": 0.01},
        tags={"fla.stage": "stage1"},
    )


def end_senders() -> None:
    """Wait for the threads that the end of a process would have ended."""
    for thread in threading.enumerate():
        if thread.name == "sender":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def expect_unhurried(trained: Trained, healthy: Trained) -> None:
    """The training thread saw nothing of a fault."""
    for name in ("log_s", "step_s"):
        ours, theirs = getattr(trained, name), getattr(healthy, name)
        for told in (statistics.median, p99):
            assert told(ours) <= max(5 * told(theirs), told(theirs) + FLOOR_S), name
    # One wait for an answer among all steps shows here alone.
    assert max(trained.step_s) < 0.75 * ANSWER_S


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def run_id(folder: RunFolder) -> str:
    return str(json.loads(folder.mlflow_run_json.read_text())["run_id"])


def expect_all_points(folder: RunFolder, store: Path) -> None:
    """MLflow has every point of the journal, once."""
    journal = [(it.key, it.step, it.value) for it in read_points(folder.metrics_jsonl)[0]]
    words = "SELECT key, step, value FROM metrics WHERE run_uuid = ?"
    with closing(sqlite3.connect(store)) as database:
        stored = database.execute(words, [run_id(folder)]).fetchall()
    assert sorted(stored) == sorted(journal)


def everything(store: Path, experiment: str) -> dict[str, list[tuple[Any, ...]]]:
    """What a store has of an experiment: its runs with their status and times, and all in them."""
    known = "(SELECT experiment_id FROM experiments WHERE name = ?)"
    of_runs = f"SELECT run_uuid FROM runs WHERE experiment_id IN {known}"
    with closing(sqlite3.connect(store)) as database:
        return {
            table: sorted(
                database.execute(
                    f"SELECT * FROM {table} WHERE run_uuid IN ({of_runs})", [experiment]
                ).fetchall(),
                key=repr,
            )
            for table in ("runs", "metrics", "params", "tags")
        }


def expect_sync_brings_all(folder: RunFolder, store: Path, *, uri: str) -> None:
    """After one sync everything is there, in one run; after a second one nothing has changed."""
    experiment = folder.path.parent.name
    sync_run(folder.path, uri=uri)
    expect_all_points(folder, store)
    once = everything(store, experiment)
    sync_run(folder.path, uri=uri)
    assert everything(store, experiment) == once
    names = [run for run in once["runs"] if folder.path.name in run]
    assert len(names) == 1
    assert "FINISHED" in names[0]


def store_of(server: Server) -> Path:
    words = server.process.args
    assert isinstance(words, list)
    return Path(words[words.index("--backend-store-uri") + 1].removeprefix("sqlite:///"))


def address(proxy: FaultyProxy) -> str:
    return f"http://name:secret@127.0.0.1:{proxy.port}"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [it.getMessage() for it in caplog.records if it.levelno >= logging.WARNING]


def record(trained: Trained, healthy: Trained, tell: Callable[[str, object], None]) -> None:
    """Put what was measured into the report of the tests (--junitxml)."""
    for name, times in (("faulty", trained), ("healthy", healthy)):
        tell(f"{name}_p99_log_ms", round(1000 * p99(times.log_s), 2))
        tell(f"{name}_p99_step_ms", round(1000 * p99(times.step_s), 2))
        tell(f"{name}_close_s", round(times.close_s, 2))


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


FAULTS = {
    "refuse": refuse,
    "hang": hang,
    "500": answer_with(500),
    "429": answer_with(429, {"Retry-After": "3600"}),
    "503": answer_with(503, {"Retry-After": "3600"}),
    "slow": be_slow(1.5),
    "cut": cut_answers,
    "lost": lose_answers,
}


def each_fault(*, quick: tuple[str, int]) -> Any:
    """Every fault from the first step and from the middle on; all but one take long together."""
    cases = [(fault, begin) for fault in FAULTS for begin in (1, NUM_STEPS // 2)]
    slow = [pytest.param(*case, marks=pytest.mark.slow) for case in cases if case != quick]
    return pytest.mark.parametrize(("fault", "begin"), [quick, *slow])


@each_fault(quick=("hang", NUM_STEPS // 2))
def test_a_server_that_fails_to_the_end_costs_training_nothing_and_no_points(
    fault: str,
    begin: int,
    server: Server,
    proxy: FaultyProxy,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
):
    healthy = train(tmp_path / "healthy", address(proxy))
    caplog.clear()

    fails = {begin: lambda: proxy.behave(FAULTS[fault])}
    trained = train(tmp_path / "faulty", address(proxy), events=fails, close_s=CLOSE_S)

    record(trained, healthy, record_property)
    expect_unhurried(trained, healthy)
    assert trained.close_s < CLOSE_S + 1
    said = warnings(caplog)
    assert sum("does not answer" in line for line in said) == (fault != "slow")
    assert all(f"python tools/sync_tracking.py {trained.folder.path}" in line for line in said)
    assert "The rest is sent by" in said[-1]
    assert "secret" not in caplog.text
    proxy.behave(refuse)
    end_senders()
    expect_sync_brings_all(trained.folder, store_of(server), uri=server.url)


@each_fault(quick=("500", NUM_STEPS // 4))
def test_a_server_that_comes_back_has_everything_when_the_run_ends(
    fault: str,
    begin: int,
    server: Server,
    proxy: FaultyProxy,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
):
    healthy = train(tmp_path / "healthy", address(proxy))
    caplog.clear()

    passes = {
        begin: lambda: proxy.behave(FAULTS[fault]),
        NUM_STEPS - 10: lambda: proxy.behave(pass_on),
    }
    trained = train(tmp_path / "faulty", address(proxy), events=passes)

    record(trained, healthy, record_property)
    expect_unhurried(trained, healthy)
    assert len(warnings(caplog)) <= 1
    expect_all_points(trained.folder, store_of(server))
    expect_sync_brings_all(trained.folder, store_of(server), uri=server.url)


@pytest.mark.slow
def test_a_run_whose_making_was_not_confirmed_is_not_made_twice(
    server: Server, proxy: FaultyProxy, tmp_path: Path
):
    proxy.behave(only_for("runs/create", lose_answers))

    trained = train(tmp_path / "a", address(proxy))

    expect_sync_brings_all(trained.folder, store_of(server), uri=server.url)


@pytest.mark.slow
def test_artifacts_that_nobody_takes_do_not_hold_up_the_metrics_and_are_told_of_once(
    server: Server, proxy: FaultyProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    proxy.behave(only_for("mlflow-artifacts", answer_with(500)))
    folder = open_run_folder(tmp_path / "a")
    folder.config_yaml.write_text("seed: 1")

    tracker = open_for(folder, address(proxy))
    tracker.log_artifact(folder.config_yaml)
    for step in range(1, 9):
        tracker.log({"train/loss": 1 / step}, step=step)
        time.sleep(0.5)
    tracker.close("FINISHED", timeout_s=PATIENCE_S)

    expect_all_points(folder, store_of(server))
    assert [
        ("does not answer" in line, "1 artifacts not sent" in line) for line in warnings(caplog)
    ] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_gets_everything(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    folder = open_run_folder(tmp_path / "a")
    with serve_store(store, port=port) as first:
        tracker = open_for(folder, uri)
        tracker.log({"train/loss": 1.0}, step=1)
        wait_until(folder.mlflow_run_json.exists)
        first.kill()
    for step in range(2, 202):
        tracker.log({"train/loss": 1 / step}, step=step)
        time.sleep(0.01)
    with serve_store(store, port=port):
        tracker.log({"train/loss": 0.001}, step=202)
        tracker.close("FINISHED", timeout_s=PATIENCE_S)

        expect_all_points(folder, store)
        expect_sync_brings_all(folder, store, uri="")
    assert len(warnings(caplog)) == 1


LOCKING = """
import sqlite3, sys

database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Another process has the store for itself."""
    command = python("-c", LOCKING, store)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("begin", [1, NUM_STEPS // 2])
def test_a_store_that_another_process_has_locked_costs_training_nothing_and_no_points(
    begin: int,
    store: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
):
    uri = f"sqlite:///{store}"
    healthy = train(tmp_path / "healthy", uri)

    with ExitStack() as lock:
        locks = {begin: lambda: lock.enter_context(locked(store))}
        trained = train(tmp_path / "faulty", uri, events=locks, close_s=CLOSE_S)
        with pytest.raises(
            FlaError, match=r"MLflow at sqlite:///\S+ does not take it \(\w+: .*lock"
        ):
            sync_run(trained.folder.path, uri="")
        end_senders()

    record(trained, healthy, record_property)
    expect_unhurried(trained, healthy)
    assert trained.close_s < CLOSE_S + 1
    assert "The rest is sent by: python tools/sync_tracking.py" in caplog.text
    assert "Traceback" not in capfd.readouterr().err
    expect_sync_brings_all(trained.folder, store, uri="")


def test_a_store_that_was_locked_for_a_time_has_everything_when_the_run_ends(
    store: Path, tmp_path: Path
):
    uri = f"sqlite:///{store}"
    healthy = train(tmp_path / "healthy", uri)

    with ExitStack() as lock:
        changes = {
            50: lambda: lock.enter_context(locked(store)),
            NUM_STEPS - 50: lock.close,
        }
        trained = train(tmp_path / "faulty", uri, events=changes)

    expect_unhurried(trained, healthy)
    expect_all_points(trained.folder, store)
    expect_sync_brings_all(trained.folder, store, uri="")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False)


def fill(disk: Path) -> Path:
    """Leave no room; deleting the file makes it again."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.slow
def test_a_store_on_a_full_disk_costs_training_nothing_and_no_points(
    empty_store: Path,
    small_disk: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
):
    store = Path(shutil.copy(empty_store, small_disk / "mlflow.db"))
    uri = f"sqlite:///{store}"
    healthy = train(tmp_path / "healthy", uri)
    caplog.clear()

    fills = {NUM_STEPS // 2: lambda: fill(small_disk)}
    trained = train(tmp_path / "faulty", uri, events=fills, close_s=CLOSE_S)
    end_senders()

    record(trained, healthy, record_property)
    expect_unhurried(trained, healthy)
    assert trained.close_s < CLOSE_S + 1
    assert "disk is full" in warnings(caplog)[0]
    assert "The rest is sent by: python tools/sync_tracking.py" in warnings(caplog)[-1]
    (small_disk / "filler").unlink()
    expect_sync_brings_all(trained.folder, store, uri=uri)


@pytest.mark.slow
def test_a_store_that_had_no_room_to_be_made_is_made_as_soon_as_there_is_some(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = small_disk / "mlflow.db"
    folder = open_run_folder(tmp_path / "a")
    filler = fill(small_disk)

    tracker = open_for(folder, f"sqlite:///{store}")
    tracker.log({"train/loss": 1.0}, step=1)
    wait_until(lambda: "does not answer" in caplog.text)
    filler.unlink()
    tracker.log({"train/loss": 0.5}, step=2)
    tracker.close("FINISHED", timeout_s=PATIENCE_S)

    assert [path.name for path in small_disk.iterdir()] == ["mlflow.db"]
    expect_all_points(folder, store)


def test_a_row_that_a_full_disk_cut_short_takes_no_other_with_it(small_disk: Path):
    journal = small_disk / "metrics.jsonl"
    append_row(journal, {"train/loss": 1.0}, step=1)
    filler = fill(small_disk)
    long = {f"train/{number}": 0.5 for number in range(1000)}
    with pytest.raises(OSError, match="No space left"):
        append_row(journal, long, step=2)

    filler.unlink()
    append_row(journal, {"train/loss": 0.25}, step=3)

    points = read_points(journal)[0]
    assert [(it.step, it.value) for it in points] == [(1, 1.0), (3, 0.25)]


def delete_for_good(client: MlflowClient, folder: RunFolder, store: Path) -> None:
    """As `mlflow gc` does."""
    client.delete_run(run_id(folder))
    SqlAlchemyStore(f"sqlite:///{store}", str(store.parent))._hard_delete_run(run_id(folder))


def delete(client: MlflowClient, folder: RunFolder, store: Path) -> None:
    client.delete_run(run_id(folder))


@pytest.mark.parametrize("lose", [delete, pytest.param(delete_for_good, marks=pytest.mark.slow)])
def test_a_run_that_is_deleted_in_the_middle_is_made_anew_with_all_points_by_sync(
    lose: Callable[[MlflowClient, RunFolder, Path], None],
    store: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    folder = open_run_folder(tmp_path / "a")
    tracker = open_for(folder, f"sqlite:///{store}")
    tracker.log({"train/loss": 1.0}, step=1)
    wait_until(lambda: bool(everything(store, tmp_path.name)["metrics"]))

    lose(MlflowClient(f"sqlite:///{store}"), folder, store)
    deleted = run_id(folder)
    for step in range(2, 302):
        tracker.log({"train/loss": 1 / step}, step=step)
        time.sleep(0.01)
    tracker.close("FINISHED", timeout_s=PATIENCE_S)

    first, last = warnings(caplog)
    assert "does not answer" in first
    assert deleted in first
    assert f"The rest is sent by: python tools/sync_tracking.py {folder.path}" in last
    sync_run(folder.path, uri="")
    assert run_id(folder) != deleted
    expect_all_points(folder, store)
    once = everything(store, tmp_path.name)
    sync_run(folder.path, uri="")
    assert everything(store, tmp_path.name) == once


@pytest.mark.slow
def test_a_run_that_is_deleted_and_restored_in_the_middle_gets_everything(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    client = MlflowClient(f"sqlite:///{store}")
    folder = open_run_folder(tmp_path / "a")
    tracker = open_for(folder, f"sqlite:///{store}")
    tracker.log({"train/loss": 1.0}, step=1)
    wait_until(lambda: bool(everything(store, tmp_path.name)["metrics"]))

    client.delete_run(run_id(folder))
    tracker.log({"train/loss": 0.75}, step=2)
    wait_until(lambda: "does not answer" in caplog.text)
    client.restore_run(run_id(folder))
    tracker.log({"train/loss": 0.5}, step=3)
    tracker.close("FINISHED", timeout_s=PATIENCE_S)

    expect_all_points(folder, store)
    expect_sync_brings_all(folder, store, uri="")


@pytest.mark.slow
def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    client = MlflowClient(f"sqlite:///{store}")
    folder = open_run_folder(tmp_path / "a")
    tracker = open_for(folder, f"sqlite:///{store}")
    tracker.log({"train/loss": 2.0}, step=0)
    wait_until(lambda: bool(everything(store, tmp_path.name)["metrics"]))
    experiment_id = client.get_experiment_by_name(tmp_path.name).experiment_id

    client.delete_experiment(experiment_id)
    for step in range(1, 200):
        tracker.log({"train/loss": 1 / step}, step=step)
        time.sleep(0.01)
    tracker.close("FINISHED", timeout_s=PATIENCE_S)

    assert "The rest is sent by: python tools/sync_tracking.py" in warnings(caplog)[-1]
    restore = (
        rf"was deleted in MLflow\. .*: mlflow experiments restore --experiment-id {experiment_id}"
    )
    with pytest.raises(ConfigError, match=restore):
        sync_run(folder.path, uri="")
    client.restore_experiment(experiment_id)
    expect_sync_brings_all(folder, store, uri="")


STARTING = """
import sys
from pathlib import Path

import mlflow

from fla.run_folder import open_run_folder
from fla.tracking import open_tracker

folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
tracker = open_tracker(
    run_folder=open_run_folder(folder),
    uri="",
    experiment=folder.parent.name,
    run_name=folder.name,
    pipeline="",
    params={},
    tags={},
)
for step in range(1, 201):
    tracker.log({"train/loss": 1 / step}, step=step)
tracker.close("FINISHED", timeout_s=200)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_runs", [2, 4])
def test_runs_that_start_a_new_store_at_once_share_it(num_runs: int, tmp_path: Path):
    folders = [RunFolder(tmp_path / f"run{number}") for number in range(num_runs)]

    with ExitStack() as stack:
        starting = [
            stack.enter_context(
                subprocess.Popen(
                    python("-c", STARTING, folder.path),
                    cwd=ROOT,
                    env=environment() | {"PYTHONPATH": str(ROOT)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for folder in folders
        ]
        for process in starting:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in starting:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=240)[1] for process in starting]

    assert not any("does not answer" in text for text in said), said
    for folder in folders:
        expect_all_points(folder, tmp_path / "mlflow.db")
    assert len(everything(tmp_path / "mlflow.db", tmp_path.name)["runs"]) == num_runs
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {"mlflow.db"}


def test_a_password_with_an_at_sign_is_not_told_either():
    said = without_password("No answer from http://name:se@cret@host:5000/api, a@b.")

    assert said == "No answer from http://host:5000/api, a@b."


@pytest.mark.slow
def test_a_training_whose_server_dies_ends_well_and_is_sent_afterwards(
    corpus: TinyCorpus, store: Path, tmp_path: Path
):
    port = free_port()
    folder = RunFolder(tmp_path / "runs" / "a")
    words = [
        *corpus.stage1(folder.path),
        "train.num_epochs=6",
        "train.max_steps=12",
        "train.evaluate_every_steps=6",
        f"tracking.uri=http://127.0.0.1:{port}",
    ]

    with launched(on_ranks(*words), tmp_path / "run.log") as training:
        with serve_store(store, port=port) as server:
            training.wait_until(has_step(folder, 3), timeout_s=200)
            server.kill()
        assert training.end(timeout_s=250) == 0, training.log.read_text()[-3000:]

    said = training.log.read_text() + (folder.logs / "rank_000.log").read_text()
    assert f"python tools/sync_tracking.py {folder.path}" in said
    send = python("tools/sync_tracking.py", folder.path)
    away = run(send)
    assert away.returncode == 1
    assert re.fullmatch(r"error: \S+: MLflow at \S+ does not take it .*\n", away.stderr)
    with serve_store(store, port=port):
        run_well(send)
        expect_all_points(folder, store)
        once = everything(store, "corpus")
        run_well(send)
        assert everything(store, "corpus") == once
