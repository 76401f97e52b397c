"""Whether a run folder holds this very run: answered without torch, by its records alone."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from fla.config.load import flatten, load_config
from fla.errors import ConfigError
from fla.provenance import SLURM_JOB, read_starts
from fla.run_folder import RunFolder

log = logging.getLogger(__name__)

DONE = "DONE"
"""File in the folder of a run that has reached its end."""
# What may differ between a run and its continuation: where, how long, how fast, how recorded.
FREE_ON_RESUME = (
    "run_dir",
    "train.num_epochs",
    "train.max_steps",
    "train.log_every_steps",
    "train.evaluate_every_steps",
    "train.patience_minutes",
    "train.profile_steps",
    "train.on_nonfinite",
    "train.max_nonfinite_steps",
    "train.save_every_minutes",
    "train.keep_checkpoints",
    "train.keep_best_checkpoints",
    "train.keep_every_steps",
    "data.num_threads",
    "data.prefetch_batches",
    "data.host_memory_gib",
    "data.on_decode_error",
    "data.max_skipped_fraction",
    "features.cache_dir",
    "beam.batch_size",
    "features.encoder_memory_gib",
    "model.gradient_checkpointing",
    "model.checkpointed_stages",
    "model.compile",
    "tracking.uri",
    "tracking.experiment",
    "tracking.pipeline",
)


def begin_once(config: Any) -> Any:
    """The settings of a job that Slurm has queued again: `resume=none` is for its first start.

    The job may have been queued again before it came to that.
    """
    if config.resume != "none" or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return config
    starts = read_starts(RunFolder(Path(config.run_dir)))
    if not starts or starts[0].get("slurm_job") != os.environ.get(SLURM_JOB):
        return config
    log.info("This job has begun %s anew already, and goes on with it.", config.run_dir)
    return replace(config, resume="auto")


def is_finished(config: Any) -> bool:
    """Whether the run folder holds this very run, ended; says so in one line."""
    folder = Path(config.run_dir)
    if config.resume != "auto" or not (folder / DONE).is_file():
        return False
    if changed_keys(config, folder / "config.yaml"):
        return False
    log.info(
        "%s is finished; its model is %s. To train it again: resume=none.",
        folder, folder / "export",
    )  # fmt: skip
    return True


def changed_keys(config: Any, saved: Path) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ between a run and its continuation, with both values."""
    if not saved.is_file():
        return {}
    old, new = flatten(load_config(type(config), [str(saved)])), flatten(config)
    return {
        key: (old.get(key), new[key]) for key in new if key != "resume" and old.get(key) != new[key]
    }


def check_changes(config: Any, folder: RunFolder) -> None:
    """Refuse to go on with a run by other settings, but for those that are free to change.

    Raises:
        ConfigError: The folder holds a run of another configuration; both values of each key.
    """
    changed = changed_keys(config, folder.config_yaml)
    refused = {key: values for key, values in changed.items() if key not in FREE_ON_RESUME}
    if refused:
        lines = [f"{key} was {old} and is now {new}" for key, (old, new) in refused.items()]
        raise ConfigError(
            f"{folder.path} holds a run with other settings: {'; '.join(lines)}. Set them back, "
            "choose another run_dir, or start again with resume=none."
        )
    for key, (old, new) in changed.items():
        log.info("%s changes from %s to %s.", key, old, new)
