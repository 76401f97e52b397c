"""The tracker against real MLflow stores: what arrives, what a run ends as, what it costs."""

import json
import logging
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from fla.errors import ConfigError, FlaError, RunStopped
from fla.journal import truncate_journal
from fla.metrics.protocols import find_protocol
from fla.metrics.scores import score
from fla.run_folder import DecodedRow, RunFolder, open_run_folder, set_aside, write_decodes
from fla.sync import sync_run
from fla.tracking import NullTracker, log_decoding, open_tracker
from tests.helpers.servers import serve_mlflow

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> Path:
    """The folder that holds run folders, with a store in it; its name has a blank."""
    home = tmp_path / "my runs"
    home.mkdir()
    shutil.copy(empty_store, home / "mlflow.db")
    return home


def start(folder: Path, **changes: Any):
    words: dict[str, Any] = {
        "run_folder": open_run_folder(folder),
        "uri": "",
        "experiment": "corpus",
        "run_name": "stage1",
        "pipeline": "",
        "params": {"optim.learning_rate": 0.01, "data.augment": True},
        "tags": {"fla.stage": "stage1"},
    }
    return open_tracker(**(words | changes))


def client(home: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")


def run_id(folder: Path) -> str:
    return json.loads((folder / "mlflow_run.json").read_text())["run_id"]


def read_run(folder: Path) -> Run:
    return client(folder.parent).get_run(run_id(folder))


def history(folder: Path, key: str) -> list[tuple[int, float]]:
    points = client(folder.parent).get_metric_history(run_id(folder), key)
    return sorted((point.step, point.value) for point in points)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def test_a_run_arrives_whole_in_a_new_store_and_training_does_not_wait_for_it(tmp_path):
    folder = tmp_path / "stage1"

    begin_s = time.monotonic()
    with start(folder) as tracker:
        for step in range(1, 301):
            tracker.log({"train/loss_nats_per_token": 1 / step, "train/epoch": step}, step=step)
        (folder / "config.yaml").write_text("seed: 1")
        tracker.log_artifact(folder / "config.yaml")
        tracker.log_artifact(folder / "gone.txt")
        (folder / "export").mkdir()
        (folder / "export" / "config.json").write_text("{}")
        tracker.log_artifact(folder / "export", "export")
        training_s = time.monotonic() - begin_s

    assert training_s < 1.0
    run = read_run(folder)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "stage1"
    assert run.data.params == {"optim.learning_rate": "0.01", "data.augment": "True"}
    assert run.data.tags["fla.stage"] == "stage1"
    assert run.data.tags["mlflow.user"]
    loss = history(folder, "train/loss_nats_per_token")
    assert loss == [(step, 1 / step) for step in range(1, 301)]
    artifacts = tmp_path / "mlartifacts" / run.info.run_id / "artifacts"
    assert (artifacts / "config.yaml").read_text() == "seed: 1"
    assert (artifacts / "export" / "config.json").exists()


DYING = """
import os, sys
import fla.mlflow_opening as opening

# The process dies when MLflow has made its tables, and before anybody may see them.
opening.os.link = lambda *paths: os._exit(9)
opening.make_store(f"sqlite:///{sys.argv[1]}")
"""


def test_a_process_that_dies_while_it_makes_a_store_leaves_none_that_nobody_can_open(tmp_path):
    store = tmp_path / "mlflow.db"
    done = subprocess.run([sys.executable, "-c", DYING, store], check=False)
    assert done.returncode == 9
    assert not store.exists()

    with start(tmp_path / "a") as tracker:
        tracker.log({"train/loss": 1.0}, step=1)

    assert history(tmp_path / "a", "train/loss") == [(1, 1.0)]


def test_the_journal_has_every_row_with_its_step_and_time(home):
    before_s = time.time()
    with start(home / "a") as tracker:
        tracker.log({"train/loss": 2.5, "train/epoch": 0.1}, step=10)
        tracker.log({"dev/bleu4": 3.0}, step=20)

    rows = [json.loads(line) for line in (home / "a" / "metrics.jsonl").read_text().splitlines()]
    times = [row.pop("time_s") for row in rows]
    assert rows == [
        {"step": 10, "train/loss": 2.5, "train/epoch": 0.1},
        {"step": 20, "dev/bleu4": 3.0},
    ]
    assert before_s - 0.001 <= times[0] <= times[1] <= time.time() + 0.001


def test_a_dead_server_neither_blocks_nor_raises_and_is_reported_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    begin_s = time.monotonic()
    # Port 9 is the discard service's; nothing listens there.
    with start(tmp_path / "a", uri="http://name:secret@127.0.0.1:9") as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
        training_s = time.monotonic() - begin_s
        while "does not answer" not in caplog.text:
            assert time.monotonic() < begin_s + 60
            time.sleep(0.05)
        time.sleep(2.5)
        tracker.log({"train/loss": 0.5}, step=2)
        tracker.log_artifact(tmp_path / "a" / "metrics.jsonl")
        closing_s = time.monotonic()

    assert training_s < 0.5
    assert time.monotonic() - closing_s < 10
    assert caplog.text.count("does not answer") == 1
    assert "2 points in" in caplog.text
    assert "0 sent to MLflow at http://127.0.0.1:9; 1 artifacts not sent." in caplog.text
    assert "secret" not in caplog.text
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 2


def test_close_gives_up_after_its_timeout(home, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *args, **kwargs: time.sleep(5))
    tracker = start(home / "a")
    tracker.log({"train/loss": 1.0}, step=1)
    wait_for(home / "a" / "mlflow_run.json")

    begin_s = time.monotonic()
    tracker.close("FINISHED", timeout_s=0.5)

    assert time.monotonic() - begin_s < 2
    assert "1 points in" in caplog.text
    assert ", 0 sent" in caplog.text


def test_what_was_logged_during_an_outage_arrives_afterwards(home, caplog):
    caplog.set_level(logging.INFO)
    store = home / "mlflow.db"
    store.rename(home / "whole.db")
    store.write_text("this is no database, and longer than the head of one" * 10)

    with start(home / "a") as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
        deadline = time.monotonic() + 60
        while "does not answer" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        tracker.log({"train/loss": 0.5}, step=2)
        # In place: connections that were opened to the broken file see the whole one.
        shutil.copyfile(home / "whole.db", store)
        tracker.log({"train/loss": 0.25}, step=3)

    assert history(home / "a", "train/loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert read_run(home / "a").info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("out of memory"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_the_end_status_says_how_the_block_ended(home, error, status):
    with pytest.raises(type(error)), start(home / "a") as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
        raise error

    assert read_run(home / "a").info.status == status
    assert history(home / "a", "train/loss") == [(1, 1.0)]


def test_a_run_ends_only_once(home):
    tracker = start(home / "a")
    tracker.close("FAILED")
    tracker.close("FINISHED")

    assert read_run(home / "a").info.status == "FAILED"


def test_a_resumed_run_goes_on_in_the_same_run_from_its_step(home):
    folder = home / "a"
    with pytest.raises(RuntimeError), start(folder) as tracker:
        for step in (1, 2, 3, 4):
            tracker.log({"train/loss": 1 / step}, step=step)
        raise RuntimeError
    first = run_id(folder)

    truncate_journal(folder / "metrics.jsonl", 2)
    with start(folder) as tracker:
        for step in (3, 4, 5):
            tracker.log({"train/loss": 1 / step}, step=step)

    assert run_id(folder) == first
    assert read_run(folder).info.status == "FINISHED"
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
    assert steps == [1, 2, 3, 4, 5]
    # MLflow forgets nothing: the steps that were taken twice are there twice, with two times.
    assert [step for step, _ in history(folder, "train/loss")] == [1, 2, 3, 3, 4, 4, 5]


def test_sending_a_journal_again_changes_nothing(home):
    folder = home / "a"
    with start(folder) as tracker:
        for step in range(1, 1201):
            tracker.log({"train/loss": 1 / step, "train/nan": math.nan}, step=step)
    before = history(folder, "train/loss")

    for _ in range(2):
        with start(folder):
            pass

    assert history(folder, "train/loss") == before
    assert len(before) == len(history(folder, "train/nan")) == 1200


def run_without_server(folder: Path) -> None:
    """Nobody listens on this port."""
    with start(folder, uri="http://127.0.0.1:9") as tracker:
        for step in (1, 2, 3):
            tracker.log({"train/loss": 1 / step}, step=step)
        tracker.close("FINISHED", timeout_s=0.1)


def test_what_no_server_took_is_sent_later_and_again_without_change(home):
    folder = home / "a"
    run_without_server(folder)
    assert not (folder / "mlflow_run.json").exists()
    write_decodes(
        folder / "decodes" / "export.test.tsv", [DecodedRow("x", "a", "b")], signature="text.v1"
    )
    (folder / "DONE").touch()

    first = sync_run(folder, uri=f"sqlite:///{home}/mlflow.db")
    again = sync_run(folder, uri=f"sqlite:///{home}/mlflow.db")

    assert first == again
    assert first.num_points == 3
    assert history(folder, "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert read_run(folder).info.status == "FINISHED"
    assert read_run(folder).data.params["optim.learning_rate"] == "0.01"
    tables = client(home).list_artifacts(run_id(folder), "translations")
    assert [it.path for it in tables] == ["translations/test.json"]


def test_scores_of_a_run_that_no_server_took_are_sent_with_it(home, caplog):
    folder = open_run_folder(home / "a")
    run_without_server(folder.path)
    decodes = folder.decodes_tsv("export", "test")
    write_decodes(decodes, [DecodedRow("x", "a", "b")], signature="text.v1")
    scores = score(["a b c d"], ["a b c d"], protocol=find_protocol("text"))

    log_decoding(folder, decodes=decodes, split="test", scores=scores)
    sync_run(folder.path, uri=f"sqlite:///{home}/mlflow.db")

    assert f"python tools/sync_tracking.py {folder.path}" in caplog.text
    assert history(folder.path, "test/bleu4") == [(3, pytest.approx(100))]


def test_the_files_of_a_copy_are_where_its_own_store_keeps_them(home, tmp_path, empty_store):
    folder = home / "a"
    with start(folder) as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
    assert client(home).get_experiment_by_name("corpus").artifact_location.startswith("file:")

    with serve_mlflow(empty_store, temporary=tmp_path) as server:
        sync_run(folder, uri=server.url)
        there = MlflowClient(tracking_uri=server.url).get_experiment_by_name("corpus")

    assert there.artifact_location.startswith("mlflow-artifacts:")


def test_the_files_of_a_servers_run_are_beside_it_once_it_is_in_a_database(home):
    run_without_server(home / "a")

    sync_run(home / "a", uri=f"sqlite:///{home}/mlflow.db")

    experiment = client(home).get_experiment_by_name("corpus")
    assert experiment.artifact_location == (home / "mlartifacts").as_uri()


def test_a_run_that_was_killed_stays_killed_when_it_is_sent_again(home):
    folder = home / "a"
    with pytest.raises(RunStopped), start(folder) as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
        raise RunStopped("Stopped.")
    assert read_run(folder).info.status == "KILLED"

    sync_run(folder, uri="")

    assert read_run(folder).info.status == "KILLED"
    assert history(folder, "train/loss") == [(1, 1.0)]


def test_a_server_that_is_still_away_is_one_sentence(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = home / "a"
    run_without_server(folder)

    with pytest.raises(FlaError, match=r"a: MLflow at http://127\.0\.0\.1:9 does not take it"):
        sync_run(folder, uri="http://127.0.0.1:9")


def test_a_folder_of_no_run_cannot_be_sent(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no tracking\.json, so this is no folder of"):
        sync_run(tmp_path, uri="")


def test_a_fresh_start_in_a_used_folder_is_another_run(home):
    folder = home / "a"
    with start(folder) as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
    first = run_id(folder)

    set_aside(RunFolder(folder))
    with start(folder) as tracker:
        tracker.log({"train/loss": 0.5}, step=1)

    assert run_id(folder) != first
    assert history(folder, "train/loss") == [(1, 0.5)]


def test_a_run_that_was_deleted_is_followed_by_a_new_one(home, caplog):
    folder = home / "a"
    with start(folder) as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
    first = run_id(folder)
    client(home).delete_run(first)

    with start(folder) as tracker:
        tracker.log({"train/loss": 0.5}, step=2)

    assert run_id(folder) != first
    assert read_run(folder).data.tags["fla.resumed_from"] == first
    assert history(folder, "train/loss") == [(1, 1.0), (2, 0.5)]


def test_a_parameter_that_changed_on_resume_is_tagged(home):
    with start(home / "a", params={"train.num_epochs": 3, "seed": 1}):
        pass

    with start(home / "a", params={"train.num_epochs": 5, "seed": 1, "new": "x"}):
        pass

    data = read_run(home / "a").data
    assert data.params == {"train.num_epochs": "3", "seed": "1", "new": "x"}
    assert json.loads(data.tags["fla.param_drift"]) == {"train.num_epochs": "5"}


def test_the_stages_of_a_pipeline_share_a_parent(home):
    name = 'it\'s a "demo", seed 1'
    with start(home / "other", pipeline="other"):
        pass
    with start(home / "stage1", pipeline=name):
        pass
    with pytest.raises(RuntimeError), start(home / "stage2", pipeline=name) as tracker:
        wait_for(home / "stage2" / "mlflow_run.json")
        parent_id = read_run(home / "stage1").data.tags["mlflow.parentRunId"]
        assert client(home).get_run(parent_id).info.status == "RUNNING"
        tracker.log({"train/loss": 1.0}, step=1)
        raise RuntimeError

    assert read_run(home / "stage2").data.tags["mlflow.parentRunId"] == parent_id
    assert read_run(home / "other").data.tags["mlflow.parentRunId"] != parent_id
    parent = client(home).get_run(parent_id)
    assert parent.info.run_name == name
    assert parent.info.status == "FAILED"


def test_an_infinite_value_stays_in_the_journal_and_out_of_the_chart(home):
    with start(home / "a") as tracker:
        tracker.log({"train/loss": math.inf, "train/epoch": 1.0}, step=1)
        tracker.log({"train/loss": 2.0}, step=2)

    assert history(home / "a", "train/loss") == [(2, 2.0)]
    first = json.loads((home / "a" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["train/loss"] == math.inf


def test_a_name_that_mlflow_refuses_does_not_hold_up_the_rest(home, caplog):
    with start(home / "a") as tracker:
        tracker.log({"bleu@4": 1.0}, step=1)
        deadline = time.monotonic() + 60
        while "refuses" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        tracker.log({"train/loss": 1.0}, step=2)

    assert history(home / "a", "train/loss") == [(2, 1.0)]


def test_half_a_line_that_a_crash_left_is_dropped(home):
    journal = open_run_folder(home / "a").metrics_jsonl
    whole = '{"step": 1, "time_s": 1.0, "train/loss": 1.0}\n'
    journal.write_text(whole + '{"step": 2, "ti')

    with start(home / "a") as tracker:
        tracker.log({"train/loss": 0.5}, step=2)

    assert journal.read_text().startswith(whole + '{"step": 2, "time_s"')
    assert history(home / "a", "train/loss") == [(1, 1.0), (2, 0.5)]


def test_the_other_ranks_record_nothing(tmp_path):
    with NullTracker() as tracker:
        tracker.log({"train/loss": 1.0}, step=1)
        tracker.log_artifact(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_importing_the_tracker_does_not_import_mlflow():
    code = "import sys, fla.tracking; print(*{'mlflow', 'torch'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""
