"""Checkpoints of a run: what training needs to go on as if it had never stopped."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import distributed

from fla.engine import Engine
from fla.errors import CheckpointError
from fla.run_folder import (
    RunFolder,
    check_complete,
    clear_checkpoint,
    mark_complete,
    newest_complete_checkpoint,
    write_json,
)
from fla.runtime import Runtime

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


def read_train_state(folder: Path, *, world_size: int, manifests: Mapping[str, str]) -> TrainState:
    """Read where the run stood.

    Args:
        folder: Of the checkpoint.
        world_size: Ranks of this run.
        manifests: SHA-256 of this run's manifests, by name.

    Raises:
        CheckpointError: Another number of ranks wrote it: each rank holds a shard. Or a manifest
            has changed since: the rest of the epoch would not be what the first part left.
    """
    content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    saved_world_size = content.pop("world_size")
    if saved_world_size != world_size:
        raise CheckpointError(
            f"{folder} was saved by {saved_world_size} ranks, this run has {world_size}. "
            f"Start {saved_world_size} ranks, or start again with resume=none."
        )
    state = TrainState(**content)
    changed = [name for name in manifests if manifests[name] != state.manifests.get(name)]
    if changed:
        raise CheckpointError(
            f"{changed[0]} has changed since {folder} was saved: its SHA-256 was "
            f"{state.manifests.get(changed[0], 'none')[:12]} and is {manifests[changed[0]][:12]}. "
            "Put the former file back, or start again with resume=none."
        )
    return state
