"""The run folder survives cuts, keeps what it must, and reads back what it wrote."""

import json
import logging
import pickle
import subprocess
from pathlib import Path

import pytest

from fla import run_folder
from fla.errors import CheckpointError, ConfigError, DataError, DiskError
from fla.provenance import read_git_state, write_provenance
from fla.run_folder import (
    DecodedRow,
    RunFolder,
    check_complete,
    clear_checkpoint,
    list_complete_checkpoints,
    mark_complete,
    newest_complete_checkpoint,
    open_run_folder,
    prune_checkpoints,
    read_best,
    read_decodes,
    set_aside,
    start_rank_log,
    step_of,
    write_atomically,
    write_best,
    write_decodes,
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return open_run_folder(tmp_path / "runs" / "a")


def save(run: RunFolder, step: int, *, complete: bool = True) -> Path:
    folder = clear_checkpoint(run, step)
    (folder / "shard.pt").write_text("weights")
    if complete:
        mark_complete(folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_in_the_way_of_the_run_folder_is_named(tmp_path):
    (tmp_path / "a").write_text("")

    with pytest.raises(ConfigError, match=r"run_dir \(.*/a\): the folder cannot be made"):
        open_run_folder(tmp_path / "a")


def test_a_write_that_dies_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write_atomically(path, "old")

    def die(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.os, "fsync", die)
    with pytest.raises(DiskError, match=r"config\.yaml: it could not be written \(No space left"):
        write_atomically(path, "new and longer")

    assert path.read_text() == "old"


def test_a_save_that_was_cut_short_is_never_resumed_from(run):
    save(run, 1000)
    cut_short = save(run, 2000, complete=False)

    assert newest_complete_checkpoint(run) == run.checkpoints / "step_0001000"
    with pytest.raises(CheckpointError, match=r"no COMPLETE file.*Resume from step_0001000\.$"):
        check_complete(cut_short)


def test_a_checkpoint_that_does_not_exist_is_named(run):
    with pytest.raises(CheckpointError, match=r"step_0000007: there is no such checkpoint"):
        check_complete(run.checkpoint(7))


def test_newest_goes_by_step_and_not_by_name(run):
    save(run, 9_999_999)
    newest = save(run, 10_000_000)

    assert newest_complete_checkpoint(run) == newest


def test_a_run_without_checkpoints_has_no_newest(run):
    (run.checkpoints / "step_notes").mkdir()

    assert newest_complete_checkpoint(run) is None


def test_saving_a_step_again_removes_the_shards_of_the_first_time(run):
    save(run, 10, complete=False)

    folder = clear_checkpoint(run, 10)

    assert names(folder) == []


def test_going_back_to_an_old_step_moves_the_later_checkpoints_aside(run):
    for step in (1, 3, 4):
        save(run, step)

    mark_complete(clear_checkpoint(run, 2))
    prune_checkpoints(run, keep_newest=1)

    assert names(run.checkpoints) == ["step_0000002"]
    (before,) = run.path.glob("before_*")
    assert names(before / "checkpoints") == ["step_0000003", "step_0000004"]


def test_retention_keeps_the_best_and_the_newest(run):
    for step in (1, 2, 3, 4, 5):
        save(run, step)
    write_best(run, "step_0000002")

    prune_checkpoints(run, keep_newest=2)

    assert names(run.checkpoints) == ["step_0000002", "step_0000004", "step_0000005"]


def test_retention_keeps_the_steps_that_are_named_and_multiples(run):
    for step in range(1, 9):
        save(run, step)

    prune_checkpoints(run, keep_newest=1, keep_steps=[2, 5], keep_every=3)

    assert [step_of(name) for name in names(run.checkpoints)] == [2, 3, 5, 6, 8]


def test_retention_removes_old_remains_but_not_a_save_in_progress(run):
    save(run, 1, complete=False)
    save(run, 2)
    save(run, 3, complete=False)

    prune_checkpoints(run, keep_newest=1)

    assert names(run.checkpoints) == ["step_0000002", "step_0000003"]


def test_retention_without_a_complete_checkpoint_deletes_nothing(run):
    save(run, 1, complete=False)
    save(run, 2, complete=False)

    prune_checkpoints(run, keep_newest=1)

    assert names(run.checkpoints) == ["step_0000001", "step_0000002"]


def test_a_deletion_that_dies_leaves_no_checkpoint_that_looks_whole(run, monkeypatch):
    save(run, 1)
    save(run, 2)

    def die(folder: Path) -> None:
        raise OSError("killed")

    monkeypatch.setattr(run_folder.shutil, "rmtree", die)
    with pytest.raises(OSError, match="killed"):
        prune_checkpoints(run, keep_newest=1)

    assert [folder.name for folder in list_complete_checkpoints(run)] == ["step_0000002"]


def test_best_is_none_until_it_is_written(run):
    assert read_best(run) is None

    write_best(run, "step_0000003")

    assert read_best(run) == "step_0000003"


def test_tags_and_steps_belong_together(run):
    assert run.checkpoint(2000).name == "step_0002000"
    assert step_of("step_0002000") == 2000
    with pytest.raises(ValueError, match="step_7"):
        step_of("step_7")


def test_a_fresh_start_moves_the_former_run_aside_and_leaves_the_logs(run):
    run.metrics_jsonl.write_text("old")
    (run.logs / "rank_000.log").write_text("old")
    save(run, 5)

    set_aside(run)

    (before,) = run.path.glob("before_*")
    assert names(before) == ["checkpoints", "metrics.jsonl"]
    assert (before / "checkpoints" / "step_0000005" / "COMPLETE").exists()
    assert names(run.path) == [before.name, "checkpoints", "decodes", "logs"]
    assert newest_complete_checkpoint(run) is None


def test_a_fresh_start_in_a_new_folder_moves_nothing(run):
    set_aside(run)

    assert names(run.path) == ["checkpoints", "decodes", "logs"]


def test_decodes_come_back_as_they_were(run):
    rows = [
        DecodedRow("-a1", "a tab\there", 'he said "no"'),
        DecodedRow("#b", "", "two\nlines\r\nand"),
        DecodedRow("d", "", "a\rreturn"),
        DecodedRow("c", "  spaces  ", "¿qué? … 天"),
    ]
    path = run.decodes_tsv("step_0002000", "dev")

    write_decodes(path, rows, signature="nrefs:1|tok:13a")

    assert path.name == "step_0002000.dev.tsv"
    assert read_decodes(path) == (rows, "nrefs:1|tok:13a")


def test_decodes_are_a_plain_table_with_a_comment(run):
    path = run.decodes_tsv("best", "test")

    write_decodes(path, [DecodedRow("a", "hyp", "ref")], signature="s")

    assert path.read_text().splitlines() == [
        "# s",
        '"id"\t"hypothesis"\t"reference"',
        '"a"\t"hyp"\t"ref"',
    ]


@pytest.mark.parametrize("text", ["", "# s\n", "id\thypothesis\treference\n", "# s\na\tb\n"])
def test_a_file_that_holds_no_decodes_is_named(tmp_path, text):
    path = tmp_path / "other.tsv"
    path.write_text(text)

    with pytest.raises(DataError, match=r"other\.tsv: a decodes file has"):
        read_decodes(path)


def test_decodes_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.tsv: this file cannot be read"):
        read_decodes(tmp_path / "gone.tsv")


def test_provenance_says_what_was_run_and_keeps_the_starts_before_a_resume(run):
    write_provenance(run, command=["one"], devices=["cpu"], manifests={"train.tsv": "ab12"})
    write_provenance(run, command=["two"], devices=["cpu", "cpu"], manifests={})
    write_provenance(run, command=["three"], devices=["cpu"], manifests={})

    now = json.loads(run.provenance_json.read_text())
    assert now["command"] == ["three"]
    assert now["versions"]["torch"].startswith("2.")
    assert [start["command"] for start in now["earlier_starts"]] == [["one"], ["two"]]
    assert now["earlier_starts"][0]["manifests"] == {"train.tsv": "ab12"}


def test_git_state_is_commit_and_dirtiness_or_nothing(tmp_path):
    assert read_git_state(tmp_path) is None

    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    (tmp_path / "code.py").write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = read_git_state(tmp_path)
    (tmp_path / "code.py").write_text("2")

    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    assert read_git_state(tmp_path) == {"commit": clean["commit"], "dirty": True}


def test_each_rank_logs_to_its_file_what_its_terminal_does_not_show(run, monkeypatch):
    root = logging.RootLogger(logging.WARNING)
    terminal = logging.StreamHandler()
    shown = []
    terminal.emit = lambda record: shown.append(record.getMessage())
    root.addHandler(terminal)
    monkeypatch.setattr(logging, "getLogger", lambda: root)

    file = start_rank_log(run, 3)
    root.info("quiet")
    root.warning("loud")
    file.close()

    assert shown == ["loud"]
    text = (run.logs / "rank_003.log").read_text()
    assert "quiet" in text
    assert "loud" in text


def test_a_disk_error_says_the_same_on_every_rank():
    error = DiskError(Path("/nowhere/config.yaml"), OSError(28, "No space left on device"))

    again = pickle.loads(pickle.dumps(error))

    assert str(again) == str(error)
    assert (again.errno, again.exit_code) == (28, 1)
