"""Exports of checkpoints: which are meant, what is refused; nothing in a pickle is run."""

import subprocess
from pathlib import Path

import pytest
import torch

from fla.checkpoint_export import choose_checkpoints, export_checkpoints
from fla.checkpoint_weights import check_pickles, open_checkpoint
from fla.errors import CheckpointError
from fla.run_folder import RunFolder, mark_complete


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three complete checkpoints and one that was cut short."""
    folder = RunFolder(tmp_path / "run")
    for step in (10, 20, 30, 40):
        folder.checkpoint(step).mkdir(parents=True)
        if step < 40:
            mark_complete(folder.checkpoint(step))
    return folder


def test_a_run_means_its_newest_complete_checkpoint(run):
    assert choose_checkpoints(run.path, num_checkpoints=1) == [run.checkpoint(30)]


def test_the_last_two_end_with_the_checkpoint_that_is_named(run):
    chosen = choose_checkpoints(run.checkpoint(20), num_checkpoints=2)

    assert chosen == [run.checkpoint(10), run.checkpoint(20)]


@pytest.mark.parametrize("step", [40, 50])
def test_a_checkpoint_that_is_cut_short_or_missing_is_refused_with_those_that_are_there(run, step):
    with pytest.raises(CheckpointError) as error:
        choose_checkpoints(run.checkpoint(step), num_checkpoints=1)

    assert str(error.value) == (
        f"checkpoint={run.checkpoint(step)}: this is no complete checkpoint, nor a run that has "
        f"one. Complete ones of {run.path}: step_0000010, step_0000020, step_0000030."
    )


def test_more_checkpoints_than_were_kept_are_refused(run):
    with pytest.raises(CheckpointError, match=r"average_last=3: up to step_0000020 .* has 2 comp"):
        choose_checkpoints(run.checkpoint(20), num_checkpoints=3)


def test_a_run_of_before_is_told_what_to_do(run):
    with pytest.raises(CheckpointError, match=r"has no model/config\.json.*Decode its export/"):
        export_checkpoints([run.checkpoint(10)])


class Mark:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return subprocess.call, (["touch", str(self.path)],)


def test_a_checkpoint_that_holds_code_is_refused_and_the_code_not_run(run, tmp_path):
    marker = tmp_path / "was_run"
    path = run.checkpoint(10) / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"weights": torch.zeros(2), "more": Mark(marker)}, path)

    with pytest.raises(
        CheckpointError, match=r"rank_00_optim_states\.pt: the file holds .*call, wh"
    ):
        open_checkpoint(run.checkpoint(10))
    assert not marker.exists()


def test_a_damaged_file_is_named(run):
    path = run.checkpoint(10) / "mp_rank_00_model_states.pt"
    path.write_bytes(b"no zip file")

    with pytest.raises(CheckpointError, match=r"mp_rank_00_model_states\.pt: this is no whole"):
        check_pickles(run.checkpoint(10))


def test_a_checkpoint_without_files_is_refused(run):
    with pytest.raises(CheckpointError, match=r"step_0000010: DeepSpeed's files cannot be read"):
        open_checkpoint(run.checkpoint(10))
