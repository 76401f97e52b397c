"""Checksums of checkpoints: whatever is damaged is named, and left out."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fla.checkpoint import choose_checkpoint, find_checkpoint
from fla.checkpoint_files import check_files, digest_file, read_state, write_state
from fla.errors import CheckpointError
from fla.run_folder import RunFolder, mark_complete, open_run_folder
from fla.runtime import Runtime

RUNTIME = Runtime(
    device="cpu", rank=0, local_rank=0, world_size=1, dali_device_id=None, decode_device="cpu"
)  # fmt: skip


def save(run: RunFolder, step: int) -> Path:
    folder = run.checkpoint(step)
    folder.mkdir(parents=True)
    for name in ("mp_rank_00_model_states.pt", "buffers.safetensors"):
        (folder / name).write_bytes(bytes(range(256)) * step)
    digests = {path.name: digest_file(path) for path in folder.iterdir()}
    write_state(folder, {"step": step, "run_id": "ours"}, digests)
    mark_complete(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = open_run_folder(tmp_path / "run")
    folder.run_id_txt.write_text("ours")
    for step in (1, 2, 3):
        save(folder, step)
    return folder


def test_a_checkpoint_that_nobody_touched_is_whole(run):
    check_files(run.checkpoint(2), advice="")

    assert read_state(run.checkpoint(2))[0] == {"step": 2, "run_id": "ours"}
    assert choose_checkpoint(run, "auto", runtime=RUNTIME) == run.checkpoint(3)


def remove(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["mp_rank_00_model_states.pt", "buffers.safetensors", "state.json"]
)
@pytest.mark.parametrize("damage", [remove, cut_short, flip_a_bit])
def test_any_damage_is_named_and_the_checkpoint_before_is_taken(
    run: RunFolder, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
):
    path = run.checkpoint(3) / name
    damage(path)

    with caplog.at_level(logging.WARNING):
        chosen = choose_checkpoint(run, "auto", runtime=RUNTIME)

    assert chosen == run.checkpoint(2)
    (message,) = caplog.messages
    assert message.startswith(f"{path}: the ")
    with pytest.raises(CheckpointError, match=name):
        choose_checkpoint(run, str(run.checkpoint(3)), runtime=RUNTIME)


def test_what_is_wrong_with_a_file_is_told(run):
    cut_short(run.checkpoint(3) / "buffers.safetensors")

    with pytest.raises(
        CheckpointError, match=r"the file has 766 bytes, and 768 were written\. Hm\."
    ):
        check_files(run.checkpoint(3), advice="Hm.")


def test_a_state_that_says_another_step_is_damaged(run):
    path = run.checkpoint(3) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 5}))

    with pytest.raises(CheckpointError, match=r"state\.json: the file is not the one that was"):
        check_files(run.checkpoint(3), advice="")


def test_a_checkpoint_that_was_copied_from_another_run_is_left_out(run, tmp_path, caplog):
    other = open_run_folder(tmp_path / "other")
    folder = save(other, 4)
    state, files = read_state(folder)
    write_state(folder, state | {"run_id": "theirs"}, files)
    shutil.copytree(folder, run.checkpoint(4))

    chosen = choose_checkpoint(run, "auto", runtime=RUNTIME)

    assert chosen == run.checkpoint(3)
    assert f"{run.checkpoint(4)}: the checkpoint is of another run. It is left out." in caplog.text
    # Who names it means it.
    named = choose_checkpoint(run, str(run.checkpoint(4)), runtime=RUNTIME)
    assert named == run.checkpoint(4)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again_by_itself(run):
    for step in (1, 2, 3):
        remove(run.checkpoint(step) / "buffers.safetensors")

    with pytest.raises(CheckpointError, match=r"none of its 3 checkpoints can be used"):
        choose_checkpoint(run, "auto", runtime=RUNTIME)
    assert choose_checkpoint(run, "none", runtime=RUNTIME) is None


def test_what_resume_means_is_found_without_reading_the_files(run):
    remove(run.checkpoint(3) / "buffers.safetensors")

    assert find_checkpoint(run, "auto") == run.checkpoint(3)
    assert find_checkpoint(run, "none") is None
