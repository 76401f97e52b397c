"""A training run from the outside: its folder, where it goes on from, its records, its end."""

import logging
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from fla.checkpoint import (
    TrainState,
    choose_checkpoint,
    find_checkpoint,
    read_train_state,
)
from fla.config.load import flatten, save_config
from fla.continuation import DONE, check_changes
from fla.errors import ConfigError, FlaError, RunStopped, disk_errors
from fla.journal import truncate_journal
from fla.lock import hold_lock
from fla.provenance import write_provenance
from fla.run_folder import (
    RunFolder,
    open_run_folder,
    set_aside,
    start_rank_log,
    write_atomically,
    write_json,
)
from fla.run_tags import build_tags
from fla.runtime import Runtime, ask_main
from fla.signals import SignalWatch
from fla.tracking import NullTracker, Tracker, open_tracker

log = logging.getLogger(__name__)

_LOCK = "lock"
# With the patience of signals less than the 30 s after which DeepSpeed's launcher kills.
_LAST_ACT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """An open run."""

    folder: RunFolder
    tracker: Tracker
    checkpoint: Path | None
    """Where its weights go on from; None: a fresh start."""
    state: TrainState
    signals: SignalWatch
    """Tell training to stop."""


def check_continuation(config: Any) -> None:
    """Refuse before hours of work what `open_run` would refuse after them; errors are its own."""
    folder = RunFolder(Path(config.run_dir))
    if find_checkpoint(folder, config.resume) is not None:
        check_changes(config, folder)


@contextmanager
def open_run(
    config: Any,
    *,
    stage: str,
    experiment: str,
    runtime: Runtime,
    deepspeed_config: Mapping[str, Any],
    manifests: Mapping[str, str],
) -> Iterator[Run]:
    """Open the run folder and the tracker, and end both rightly however the run ends.

    Args:
        config: Of a stage; it has run_dir, resume, seed, tracking.
        stage: Name of the child run in MLflow: stage1, stage2, pretrain.
        experiment: MLflow experiment.
        runtime: Of this rank.
        deepspeed_config: What the engine was given.
        manifests: SHA-256 of each manifest, by path.

    Raises:
        ConfigError: The folder holds a run of another configuration, or one that still goes on.
        CheckpointError: There is nothing to resume from where `resume` points.
    """
    folder = open_run_folder(Path(config.run_dir))
    with ExitStack() as held:
        ask_main(runtime, lambda: _hold(folder, held))
        checkpoint, state = _choose_state(config, folder, runtime, manifests)
        # No rank may write before every rank has looked.
        distributed.barrier()
        rank_log = start_rank_log(folder, runtime.rank)
        if runtime.is_main:
            with disk_errors(folder.path):
                _write_records(config, folder, runtime, deepspeed_config, manifests, state)
        distributed.barrier()
        if checkpoint is not None:
            log.info("Going on from %s.", checkpoint)
        try:
            with ExitStack() as stack:
                tracker = _open_tracker(config, stage, experiment, folder, runtime)
                signals = SignalWatch(lambda: tracker.close("KILLED", _LAST_ACT_S))
                # After the tracker is closed, which takes its time, too.
                stack.callback(signals.remove)
                stack.enter_context(tracker)
                stack.enter_context(_last_words(rank_log))
                for path in (folder.config_yaml, folder.deepspeed_json, folder.provenance_json):
                    tracker.log_artifact(path)
                yield Run(
                    folder=folder,
                    tracker=tracker,
                    checkpoint=checkpoint,
                    state=state,
                    signals=signals,
                )
        except RunStopped:
            # Who ends first would have the launcher end the others, which may still be closing.
            distributed.barrier()
            raise
        if runtime.is_main:
            write_atomically(folder.path / DONE, "")
        distributed.barrier()


def _hold(folder: RunFolder, held: ExitStack) -> None:
    """Keep other processes from training in a folder."""
    busy = ConfigError(
        f"{folder.path}: another process trains there. Wait until it has ended, or choose another "
        "run_dir."
    )
    with disk_errors(folder.path):
        held.enter_context(hold_lock(folder.path / _LOCK, otherwise=busy))


def _choose_state(
    config: Any, folder: RunFolder, runtime: Runtime, manifests: Mapping[str, str]
) -> tuple[Path | None, TrainState]:
    """Where the run goes on from, and what it has done until there."""
    checkpoint = choose_checkpoint(folder, config.resume, runtime=runtime)
    by_name = {Path(path).name: sha256 for path, sha256 in manifests.items()}
    state = TrainState(manifests=by_name, run_id=secrets.token_hex(8))
    if checkpoint is not None:
        check_changes(config, folder)
        state = read_train_state(checkpoint, manifests=by_name)
        if checkpoint.absolute().parent != folder.checkpoints:
            # The best checkpoint of another run is not here to be kept or exported.
            state = replace(state, best_score=None, best_step=None, ranking=())
    return checkpoint, state


@contextmanager
def _last_words(rank_log: logging.Handler) -> Iterator[None]:
    """Put into this rank's log, and there alone, why it ends."""
    try:
        yield
    except Exception as error:
        # What a user can fix needs no traceback.
        info = None if isinstance(error, FlaError) else sys.exc_info()
        words = ("This rank ends: %s", (error,), info)
        rank_log.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, *words))
        raise


def _write_records(
    config: Any,
    folder: RunFolder,
    runtime: Runtime,
    deepspeed_config: Mapping[str, Any],
    manifests: Mapping[str, str],
    state: TrainState,
) -> None:
    (folder.path / DONE).unlink(missing_ok=True)
    if state.step == 0:
        set_aside(folder)
    else:
        truncate_journal(folder.metrics_jsonl, state.step)
    # A checkpoint that was named may be of another run, which goes on here.
    write_atomically(folder.run_id_txt, state.run_id)
    save_config(config, folder.config_yaml)
    write_json(folder.deepspeed_json, dict(deepspeed_config))
    write_provenance(
        folder,
        command=sys.argv,
        devices=[_device_name(runtime)] * runtime.world_size,
        manifests=manifests,
    )


def _open_tracker(
    config: Any, stage: str, experiment: str, folder: RunFolder, runtime: Runtime
) -> Tracker:
    if not runtime.is_main:
        return NullTracker()
    settings = flatten(config)
    return open_tracker(
        run_folder=folder,
        uri=config.tracking.uri,
        experiment=experiment,
        run_name=f"{stage}-seed{config.seed}",
        pipeline=config.tracking.pipeline,
        params=settings,
        tags=build_tags(settings, stage=stage, folder=folder, world_size=runtime.world_size),
    )


def _device_name(runtime: Runtime) -> str:
    return runtime.device if runtime.device == "cpu" else torch.cuda.get_device_name()
