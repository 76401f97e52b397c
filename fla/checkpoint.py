"""Checkpoints of a run: what training needs to go on as if it had never stopped."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import distributed

from fla.engine import Engine, convert_to_universal
from fla.errors import CheckpointError
from fla.run_folder import (
    RunFolder,
    check_complete,
    clear_checkpoint,
    mark_complete,
    newest_complete_checkpoint,
    write_json,
)
from fla.runtime import Runtime, ask_main

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands. No random state: each step's numbers are drawn from (seed, step)."""

    step: int = 0
    """Optimizer steps done."""
    best_score: float | None = None
    """Highest dev BLEU-4 so far, 0 to 100."""
    best_step: int | None = None
    """Step of that score."""
    manifests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the manifests that the steps went through, by their name, such as train.tsv."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Training clips that have been left out because they do not decode: reason by id."""


def save_checkpoint(
    engine: Engine, run_folder: RunFolder, state: TrainState, *, runtime: Runtime
) -> Path:
    """Write a checkpoint of this step; every rank calls it.

    The COMPLETE marker comes last, after all ranks have written: a folder without it is never
    resumed from.
    """
    folder = run_folder.checkpoint(state.step)
    if runtime.is_main:
        clear_checkpoint(run_folder, state.step)
    distributed.barrier()
    engine.save(folder)
    distributed.barrier()
    if runtime.is_main:
        write_json(folder / "state.json", {"world_size": runtime.world_size, **asdict(state)})
        mark_complete(folder)
    distributed.barrier()
    return folder


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
        CheckpointError: Files are missing or damaged, or another number of ranks wrote them with
            an optimizer whose state cannot be converted.
    """
    saved_world_size = int(_read_state(folder)["world_size"])
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
    engine.load(folder, universal=converted)
    distributed.barrier()
    if runtime.is_main:
        shutil.rmtree(converted.parent)


def _convert(folder: Path, converted: Path) -> None:
    # Remains of a start that was killed.
    shutil.rmtree(converted.parent, ignore_errors=True)
    convert_to_universal(folder, converted)


def choose_checkpoint(run_folder: RunFolder, resume: str) -> Path | None:
    """The checkpoint that `resume` means: auto, none or a path.

    Raises:
        CheckpointError: The path is no complete checkpoint.
    """
    if resume == "none":
        return None
    if resume == "auto":
        return newest_complete_checkpoint(run_folder)
    check_complete(Path(resume))
    return Path(resume)


def read_train_state(folder: Path, *, manifests: Mapping[str, str]) -> TrainState:
    """Read where the run stood, whatever the number of ranks.

    Args:
        folder: Of the checkpoint.
        manifests: SHA-256 of this run's manifests, by name.

    Raises:
        CheckpointError: A manifest has changed since: the rest of the epoch would not be what the
            first part left.
    """
    content = _read_state(folder)
    content.pop("world_size")
    state = TrainState(**content)
    changed = [name for name in manifests if manifests[name] != state.manifests.get(name)]
    if changed:
        raise CheckpointError(
            f"{changed[0]} has changed since {folder} was saved: its SHA-256 was "
            f"{state.manifests.get(changed[0], 'none')[:12]} and is {manifests[changed[0]][:12]}. "
            "Put the former file back, or start again with resume=none."
        )
    return state


def _read_state(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return content
