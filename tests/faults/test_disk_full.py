"""A disk that fills up while a run saves."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fla.run_folder import RunFolder, list_complete_checkpoints
from tests.helpers.commands import deepspeed, run, run_well
from tests.helpers.faults import expect_same_runs

STEPS = ("train.num_epochs=4", "train.max_steps=6", "train.evaluate_every_steps=2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk"),
]


class SmallDisk:
    """A tmpfs of a size that can change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def resize(self, megabytes: float) -> None:
        options = f"size={megabytes:.0f}m" + (",remount" if self.path.is_mount() else "")
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk.path)], check=False)


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_a_full_disk_ends_a_run_in_a_sentence_and_it_goes_on_when_there_is_room(
    corpus, disk, tmp_path
):
    whole, filled = RunFolder(tmp_path / "whole"), RunFolder(disk.path / "filled")
    run_well(deepspeed(*corpus.stage1(whole.path), *STEPS), timeout_s=300)
    saved = list_complete_checkpoints(whole)[-1]
    words = [*corpus.stage1(filled.path), *STEPS, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]

    # One checkpoint fits, and half of a second one.
    disk.resize(1.5 * size_mb(saved) + size_mb(whole.model))
    done = run(deepspeed(*words), timeout_s=300)

    assert done.returncode != 0
    (told,) = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    # Of the checkpoint, or of what its evaluation writes at the same time.
    assert "step_0000004" in told
    assert "could not be written (" in told
    assert "MB are free" in told
    assert [path.name for path in list_complete_checkpoints(filled)] == ["step_0000002"]
    disk.resize(10 * size_mb(saved))
    run_well(deepspeed(*words), timeout_s=300)
    expect_same_runs(whole, filled)
