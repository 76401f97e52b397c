import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from torch import distributed

from fla.checkpoint_files import write_state
from fla.config.load import load_config, save_config
from fla.config.schema import Stage1Config
from fla.continuation import begin_once, changed_keys, is_finished
from fla.errors import ConfigError
from fla.lock import hold_lock
from fla.provenance import read_starts, write_provenance
from fla.run import open_run
from fla.run_folder import mark_complete, open_run_folder, write_json
from fla.runtime import Runtime, join_process_group

RUNTIME = Runtime(
    device="cpu",
    rank=1,
    local_rank=1,
    world_size=2,
    dali_device_id=None,
    decode_device="cpu",
)


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    join_process_group("gloo", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.fixture(autouse=True)
def no_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 is alone here, and asks itself."""
    for module in ("checkpoint", "run"):
        monkeypatch.setattr(f"fla.{module}.ask_main", lambda runtime, question: question())


def config_of(folder: Path, *words: str) -> Stage1Config:
    needed = [f"run_dir={folder}", "data.manifest_dir=m", "text.tokenizer_dir=t"]
    return load_config(Stage1Config, [*needed, *words])


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run of two ranks that was stopped after step 4."""
    folder = open_run_folder(tmp_path / "run")
    save_config(config_of(folder.path), folder.config_yaml)
    checkpoint = folder.checkpoint(4)
    checkpoint.mkdir()
    state = {
        "step": 4,
        "best_score": 3.5,
        "best_step": 2,
        "windows": [],
        "ranking": [],
        "run_id": "",
    }
    write_state(checkpoint, {"world_size": 2, **state}, {})
    mark_complete(checkpoint)
    return folder.path


@pytest.fixture
def finished(stopped: Path) -> Path:
    (stopped / "DONE").touch()
    return stopped


def open_as_rank_1(config: Stage1Config, runtime: Runtime = RUNTIME):
    """Rank 0 would write into the folder and start a tracker."""
    return open_run(
        config,
        stage="stage1",
        experiment="e",
        runtime=runtime,
        deepspeed_config={},
        manifests={},
    )


def test_a_run_goes_on_from_its_newest_checkpoint(stopped):
    with open_as_rank_1(config_of(stopped)) as run:
        assert run.checkpoint == stopped / "checkpoints" / "step_0000004"
        assert (run.state.step, run.state.best_score, run.state.best_step) == (4, 3.5, 2)


def test_another_setting_is_refused_with_both_values(stopped):
    config = config_of(stopped, "optim.learning_rate=0.5", "seed=7")

    with (
        pytest.raises(ConfigError, match=r"optim\.learning_rate was 0\.01 and is now 0\.5") as told,
        open_as_rank_1(config),
    ):
        pass

    assert "seed was 1 and is now 7" in str(told.value)
    assert str(stopped) in str(told.value) and "resume=none" in str(told.value)


def test_a_longer_run_that_logs_elsewhere_goes_on(stopped):
    words = ["train.num_epochs=99", "tracking.uri=sqlite:///x.db", "data.num_threads=1"]

    with open_as_rank_1(config_of(stopped, *words)) as run:
        assert run.state.step == 4


@pytest.mark.parametrize(
    ("job_of_first_start", "restarts", "resume"),
    [("7", "1", "auto"), ("7", "0", "none"), ("6", "1", "none"), (None, "1", "none")],
)
def test_a_job_that_is_queued_again_begins_anew_once(
    stopped, monkeypatch, job_of_first_start, restarts, resume
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    if job_of_first_start is not None:
        starts = {"slurm_job": "9", "earlier_starts": [{"slurm_job": job_of_first_start}]}
        write_json(stopped / "provenance.json", starts)

    assert begin_once(config_of(stopped, "resume=none")).resume == resume
    assert begin_once(config_of(stopped, "resume=step_9")).resume == "step_9"


def test_provenance_knows_the_job_of_the_first_start(tmp_path, monkeypatch):
    folder = open_run_folder(tmp_path / "run")
    for job in ("7", "8"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        write_provenance(folder, command=[], devices=[], manifests={})

    assert [start["slurm_job"] for start in read_starts(folder)] == ["7", "8"]


@pytest.mark.parametrize("word", ["resume=auto", "resume=none"])
def test_a_folder_that_another_process_trains_in_is_left_alone(stopped, word):
    before = sorted(stopped.rglob("*"))

    with (
        hold_lock(stopped / "lock", otherwise=ConfigError("")),
        pytest.raises(ConfigError, match="another process trains there") as told,
        open_as_rank_1(config_of(stopped, word)),
    ):
        pass

    assert str(stopped) in str(told.value)
    assert {*stopped.rglob("*")} - {*before} == {stopped / "lock"}
    with open_as_rank_1(config_of(stopped, word)):
        pass


def test_a_fresh_start_may_differ_in_everything(stopped):
    with open_as_rank_1(config_of(stopped, "seed=7", "resume=none")) as run:
        assert (run.checkpoint, run.state.step) == (None, 0)


def test_another_number_of_ranks_goes_on_where_the_run_stood(stopped):
    with open_as_rank_1(config_of(stopped)) as run:
        expected = (run.checkpoint, run.state)

    with open_as_rank_1(config_of(stopped), replace(RUNTIME, world_size=1)) as run:
        assert (run.checkpoint, run.state) == expected


def test_a_run_is_finished_only_with_its_mark(stopped):
    assert not is_finished(config_of(stopped))


def test_a_finished_run_says_so_and_how_to_train_it_again(finished, caplog):
    caplog.set_level(logging.INFO)

    assert is_finished(config_of(finished))

    assert f"{finished} is finished; its model is {finished / 'export'}." in caplog.text
    assert "resume=none" in caplog.text


@pytest.mark.parametrize("word", ["resume=none", "train.num_epochs=99", "seed=7"])
def test_a_finished_run_with_another_wish_is_not_finished(finished, word):
    assert not is_finished(config_of(finished, word))


def test_only_what_differs_is_a_change(stopped):
    config = config_of(stopped, "seed=7", "resume=none", "beam.num_beams=5")

    assert changed_keys(config, stopped / "config.yaml") == {"seed": (1, 7)}
    assert changed_keys(config, stopped / "missing.yaml") == {}


@pytest.mark.parametrize(
    ("error", "has_traceback"), [(ConfigError("Set it back."), False), (KeyError("x"), True)]
)
def test_the_log_of_a_rank_ends_with_its_last_words(stopped, error, has_traceback):
    with pytest.raises(type(error)), open_as_rank_1(config_of(stopped)) as run:
        raise error

    last = (run.folder.logs / "rank_001.log").read_text()
    assert f"ERROR fla.run: This rank ends: {error}" in last
    assert ("Traceback" in last) == has_traceback


def test_a_run_that_goes_on_from_another_ones_checkpoint_looks_for_a_best_of_its_own(
    stopped, tmp_path
):
    here = open_run_folder(tmp_path / "here")
    config = config_of(here.path, f"resume={stopped / 'checkpoints' / 'step_0000004'}")

    with open_as_rank_1(config) as run:
        assert (run.state.step, run.state.best_step, run.state.best_score) == (4, None, None)
