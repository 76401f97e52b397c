"""Checkpoints of a run: what training needs to go on as if it had never stopped."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import distributed

from fla.arrival import see_what_main_sees
from fla.checkpoint_files import Digest, check_files, check_pickles, read_state, write_state
from fla.engine import Engine, convert_to_universal
from fla.errors import CheckpointError
from fla.run_folder import (
    RunFolder,
    check_complete,
    list_complete_checkpoints,
    mark_complete,
    newest_complete_checkpoint,
)
from fla.runtime import Runtime, ask_main

log = logging.getLogger(__name__)


class WindowSums(NamedTuple):
    """What a rank has counted since the last row of training metrics."""

    nats: float = 0.0
    """Of its share."""
    num_tokens: int = 0
    """Target tokens of all ranks."""
    num_skipped_tokens: int = 0
    """Of its clips that did not decode."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands. No random state: each step's numbers are drawn from (seed, step)."""

    step: int = 0
    """Optimizer steps done."""
    best_score: float | None = None
    """Highest dev BLEU-4 so far, 0 to 100."""
    best_step: int | None = None
    """Step of that score."""
    ranking: tuple[tuple[float, int], ...] = ()
    """Scores and steps of the best evaluations, as many as are kept, the best one first."""
    evaluated_step: int = 0
    """Step of the last evaluation: a checkpoint is saved before its own."""
    windows: tuple[WindowSums, ...] = ()
    """By rank, so that the next row of metrics is that of a run that never stopped."""
    run_id: str = ""
    """Of the run folder that it belongs to."""
    manifests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the manifests that the steps went through, by their name, such as train.tsv."""
    nonfinite_steps: int = 0
    """Steps that were left out because their loss or gradient is no number."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Training clips that have been left out because they do not decode: reason by id."""


def complete_checkpoint(
    run_folder: RunFolder, state: TrainState, files: Mapping[str, Digest], *, world_size: int
) -> None:
    """Write what makes this step's files a checkpoint; rank 0 calls it when all are on disk.

    The COMPLETE marker comes last: a folder without it is never resumed from.

    Args:
        run_folder: Of the run.
        state: Where it stood.
        files: Of all ranks, by name.
        world_size: Ranks.
    """
    folder = run_folder.checkpoint(state.step)
    write_state(folder, {"world_size": world_size, **_as_json(state)}, files)
    mark_complete(folder)


def update_checkpoint(run_folder: RunFolder, state: TrainState, *, runtime: Runtime) -> None:
    """Note in this step's checkpoint what its evaluation gave; every rank calls it."""
    if runtime.is_main:
        folder = run_folder.checkpoint(state.step)
        saved, files = read_state(folder)
        write_state(folder, saved | _as_json(state), files)
    distributed.barrier()


def _as_json(state: TrainState) -> dict[str, object]:
    return asdict(state) | {"windows": [list(window) for window in state.windows]}


def load_checkpoint(
    engine: Engine, folder: Path, *, run_folder: RunFolder, runtime: Runtime
) -> None:
    """Restore a checkpoint, of this number of ranks or of another; every rank calls it.

    Args:
        engine: Takes weights, optimizer and schedule.
        folder: Of the checkpoint.
        run_folder: Has room for the converted copy that other numbers of ranks need for a moment.
        runtime: Of this rank.

    Raises:
        CheckpointError: Files are missing or damaged, or hold more than a checkpoint does, or
            another number of ranks wrote them with an optimizer whose state cannot be converted.
    """
    # DeepSpeed and its converter run what a pickle names, whoever has computed its checksum.
    ask_main(runtime, lambda: check_pickles(folder))
    see_what_main_sees(folder, runtime)
    saved_world_size = int(read_state(folder)[0]["world_size"])
    if saved_world_size == runtime.world_size:
        engine.load(folder)
        return
    converted = run_folder.path / "universal" / folder.name
    log.info(
        "%s was saved by %d ranks, this run has %d: converting.",
        folder, saved_world_size, runtime.world_size,
    )  # fmt: skip
    engine.check_convertible(folder)
    ask_main(runtime, lambda: _convert(folder, converted))
    see_what_main_sees(converted, runtime)
    engine.load(folder, universal=converted)
    distributed.barrier()
    if runtime.is_main:
        shutil.rmtree(converted.parent)


def _convert(folder: Path, converted: Path) -> None:
    # Remains of a start that was killed.
    shutil.rmtree(converted.parent, ignore_errors=True)
    convert_to_universal(folder, converted)


def find_checkpoint(run_folder: RunFolder, resume: str) -> Path | None:
    """The checkpoint that `resume` means, auto, none or a path, before its files are looked at.

    Raises:
        CheckpointError: The path is no complete checkpoint.
    """
    if resume == "none":
        return None
    if resume == "auto":
        return newest_complete_checkpoint(run_folder)
    check_complete(Path(resume))
    return Path(resume)


def choose_checkpoint(run_folder: RunFolder, resume: str, *, runtime: Runtime) -> Path | None:
    """The checkpoint to go on from, whole by its checksums; every rank calls it.

    `auto` goes back to the checkpoint before one that is damaged or of another run, and says so.

    Raises:
        CheckpointError: The checkpoint that was named, or every one of the run, cannot be used.
    """
    return ask_main(runtime, lambda: _choose(run_folder, resume))


def _choose(run_folder: RunFolder, resume: str) -> Path | None:
    if resume != "auto":
        named = find_checkpoint(run_folder, resume)
        if named is not None:
            _check(named, "Resume from another checkpoint, or start again with resume=none.")
        return named
    complete = list_complete_checkpoints(run_folder)
    for folder in reversed(complete):
        try:
            _check(folder, "It is left out.", run_id=read_run_id(run_folder))
        except CheckpointError as error:
            log.warning("%s", error)
            continue
        return folder
    if complete:
        raise CheckpointError(
            f"{run_folder.checkpoints}: none of its {len(complete)} checkpoints can be used; the "
            "log says why. Put one back from a copy, or start again with resume=none."
        )
    return None


def _check(folder: Path, advice: str, *, run_id: str = "") -> None:
    check_files(folder, advice=advice)
    saved, _ = read_state(folder)
    if run_id and saved["run_id"] != run_id:
        raise CheckpointError(f"{folder}: the checkpoint is of another run. {advice}")


def read_run_id(run_folder: RunFolder) -> str:
    """What the checkpoints of a run are known by; empty where there is none yet."""
    path = run_folder.run_id_txt
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def read_train_state(folder: Path, *, manifests: Mapping[str, str]) -> TrainState:
    """Read where the run stood, whatever the number of ranks.

    Args:
        folder: Of the checkpoint.
        manifests: SHA-256 of this run's manifests, by name.

    Raises:
        CheckpointError: A manifest has changed since: the rest of the epoch would not be what the
            first part left.
    """
    content, _ = read_state(folder)
    content.pop("world_size")
    content["ranking"] = tuple((score, step) for score, step in content["ranking"])
    content["windows"] = tuple(WindowSums(*window) for window in content["windows"])
    state = TrainState(**content)
    changed = [name for name in manifests if manifests[name] != state.manifests.get(name)]
    if changed:
        raise CheckpointError(
            f"{changed[0]} has changed since {folder} was saved: its SHA-256 was "
            f"{state.manifests.get(changed[0], 'none')[:12]} and is {manifests[changed[0]][:12]}. "
            "Put the former file back, or start again with resume=none."
        )
    return state
