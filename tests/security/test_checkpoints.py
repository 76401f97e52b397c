"""A checkpoint that was downloaded: decoding it and going on from it run nothing in its pickles.

Nor do they write anywhere else.

Whoever changes a checkpoint can compute its checksums, too: these help against disks alone.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from fla.checkpoint import choose_checkpoint, load_checkpoint
from fla.checkpoint_export import export_checkpoints, write_model
from fla.checkpoint_files import check_pickles, write_state
from fla.checkpoint_weights import open_checkpoint
from fla.description import read_description
from fla.engine import Engine, convert_to_universal
from fla.errors import CheckpointError
from fla.run_folder import RunFolder, mark_complete
from fla.text.codec import read_codec
from tests.distributed.test_universal import open_model, take_step
from tests.helpers.exports import write_untrained_export
from tests.helpers.ranks import one_of, run_ranks
from tests.security.traps import PICKLES, Trap, write_torch_file

# None of these tests gets as far as an engine.
NOBODY = cast(Engine, None)
REFUSED = r"_states\.pt: (the file holds .*, which no checkpoint of this toolkit does|this is no)"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with one complete checkpoint, whose files hold nothing."""
    folder = RunFolder(tmp_path / "run")
    folder.checkpoint(10).mkdir(parents=True)
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        torch.save({"weights": torch.zeros(2)}, folder.checkpoint(10) / name)
    write_state(folder.checkpoint(10), {"world_size": 1, "run_id": ""}, {})
    mark_complete(folder.checkpoint(10))
    return folder


@pytest.fixture(params=["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"])
def hostile(request: pytest.FixtureRequest, run: RunFolder, tmp_path: Path) -> Path:
    """The same, one of whose files makes the folder `mark`."""
    folder = run.checkpoint(10)
    torch.save({"weights": torch.zeros(2), "more": Trap(tmp_path / "mark")}, folder / request.param)
    return folder


def test_a_checkpoint_of_tensors_is_not_suspected(run):
    check_pickles(run.checkpoint(10))


@pytest.mark.parametrize("write", PICKLES.values(), ids=PICKLES.keys())
def test_whatever_way_a_pickle_names_code_it_is_seen(write, run, tmp_path):
    path = run.checkpoint(10) / "mp_rank_00_model_states.pt"
    write_torch_file(path, write(tmp_path / "mark"))

    with pytest.raises(CheckpointError, match=REFUSED):
        check_pickles(run.checkpoint(10))

    assert not (tmp_path / "mark").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "mark").is_dir()


def test_a_file_of_another_format_which_loading_would_accept_is_refused(run, tmp_path):
    path = run.checkpoint(10) / "mp_rank_00_model_states.pt"
    torch.save(Trap(tmp_path / "mark"), path, _use_new_zipfile_serialization=False)

    with pytest.raises(CheckpointError, match=REFUSED):
        check_pickles(run.checkpoint(10))

    torch.load(path, weights_only=False)
    assert (tmp_path / "mark").is_dir()


def test_a_checkpoint_is_not_opened_for_decoding(hostile, tmp_path):
    with pytest.raises(CheckpointError, match=REFUSED):
        open_checkpoint(hostile)

    assert not (tmp_path / "mark").exists()


def test_it_is_not_exported(hostile, run, tmp_path):
    export = write_untrained_export(tmp_path)
    write_model(
        run,
        description=read_description(export),
        codec=read_codec(export, language="en_XX"),
        frozen={"frozen": torch.zeros(2)},
        dtype=torch.float32,
    )

    with pytest.raises(CheckpointError, match=REFUSED):
        export_checkpoints([hostile])

    assert not (tmp_path / "mark").exists()
    assert not run.exports.exists()


@pytest.mark.parametrize("world_size", [1, 2], ids=["as many ranks", "other ranks"])
def test_a_run_does_not_go_on_from_it(world_size, hostile, run, tmp_path):
    write_state(hostile, {"world_size": world_size, "run_id": ""}, {})
    chosen = choose_checkpoint(run, str(hostile), runtime=one_of(1))
    assert chosen == hostile

    with pytest.raises(CheckpointError, match=REFUSED):
        load_checkpoint(NOBODY, chosen, run_folder=run, runtime=one_of(1))

    assert not (tmp_path / "mark").exists()
    assert not (run.path / "universal").exists()


def load_without_a_check(folder: Path, mark: Path) -> list[bool]:
    """Whether the mark is there after what `load_checkpoint` does behind its check."""
    engine, _ = open_model(1)
    found = []
    for load in (engine.load, lambda path: convert_to_universal(path, path.with_name("other"))):
        # The rest of the checkpoint is not there.
        with suppress(Exception):
            load(folder)
        found.append(mark.is_dir())
        mark.rmdir()
    return found


def test_without_the_check_deepspeed_and_its_converter_would_run_it(run, tmp_path):
    folder = run.checkpoint(10)
    for path in folder.glob("*.pt"):
        torch.save({"more": Trap(tmp_path / "mark")}, path)

    (found,) = run_ranks(load_without_a_check, folder, tmp_path / "mark", world_size=1)

    assert found == [True, True]


def save_with_a_name(name: str, zero_stage: int, folder: Path) -> None:
    """A checkpoint one of whose parameters is called so."""
    engine, _ = open_model(zero_stage)
    take_step(engine, 0)
    for file in engine.copy_files(folder):
        file.write(file.path)
    for path in folder.glob("*.pt"):
        torch.save(renamed(torch.load(path, weights_only=False), name), path)


def renamed(content: Any, name: str) -> Any:
    if isinstance(content, dict):
        return type(content)(
            (name if key == "hidden.weight" else key, renamed(value, name))
            for key, value in content.items()
        )
    if type(content) is list:
        return [renamed(value, name) for value in content]
    return content


@pytest.mark.parametrize("is_absolute", [False, True], ids=["climbing", "absolute"])
def test_a_parameter_whose_name_is_a_path_is_refused_before_it_becomes_a_folder(
    is_absolute, tmp_path
):
    folder = tmp_path / "a" / "b" / "c" / "d" / "step"
    folder.mkdir(parents=True)
    name = str(tmp_path / "escaped") if is_absolute else "../../../../../escaped"
    run_ranks(save_with_a_name, name, 3, folder, world_size=1)

    with pytest.raises(CheckpointError, match=r"_states\.pt: the file holds '.*escaped'"):
        check_pickles(folder)

    assert not [*tmp_path.rglob("escaped*")]
    convert_to_universal(folder, folder.with_name("converted"))
    assert [*tmp_path.rglob("escaped*")]
