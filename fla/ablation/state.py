"""How far the runs of a plan are, by their folders alone."""

import json
from typing import Any

from fla.ablation.plan import TEST, Plan, Run
from fla.config.check import check_stage1, check_stage2
from fla.config.schema import Stage1Config
from fla.continuation import DONE, FREE_ON_RESUME, changed_keys
from fla.errors import ConfigError
from fla.provenance import read_starts
from fla.run_folder import RunFolder, newest_complete_checkpoint

# Free for a run that goes on, not for a row of a table.
_LENGTHS = ("train.num_epochs", "train.max_steps")


def is_trained(run: Run) -> bool:
    """Whether the run folder holds this very run, ended."""
    return (run.folder.path / DONE).is_file() and not _other_settings(run)


def is_decoded(run: Run) -> bool:
    """Whether the test split was translated with this very run, and as its words say."""
    path = run.folder.decodes_tsv("export", TEST)
    done = run.folder.path / DONE
    if not path.is_file() or not done.is_file():
        return False
    # Another training in the folder leaves the translations of the one before.
    if path.stat().st_mtime < done.stat().st_mtime:
        return False
    entry = read_scores(run)
    beam = run.config.beam
    wanted = {
        "num_beams": beam.num_beams,
        "length_penalty": beam.length_penalty,
        "max_new_tokens": beam.max_new_tokens,
    }
    return (
        wanted.items() <= entry.get("beam", {}).items()
        and entry.get("dtype") == "float32"
        and entry.get("shuffle_videos") == run.config.data.shuffle_videos
    )


def is_done(run: Run) -> bool:
    """Whether there is nothing left to do for a run."""
    return is_trained(run) and (is_decoded(run) or not run.is_decoded)


def read_scores(run: Run) -> dict[str, Any]:
    """What scores.json has of the test split; empty: nothing."""
    try:
        content = json.loads(run.folder.scores_json.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entry = content.get(TEST, {}) if isinstance(content, dict) else {}
    return entry if isinstance(entry, dict) else {}


def describe_state(run: Run) -> str:
    """A word for a list: done, to translate, started or new."""
    if is_done(run):
        return "done"
    if is_trained(run):
        return "to translate"
    return "started" if run.folder.config_yaml.is_file() else "new"


def check_plan(plan: Plan) -> None:
    """Find before the first run starts whatever would stop a later one.

    Exports of stage 1 that the plan itself makes need not be there yet.

    Raises:
        ConfigError: Every broken rule, one sentence each.
    """
    problems: dict[str, None] = {}
    for run in plan.runs:
        if not is_trained(run):
            problems |= dict.fromkeys([*_broken_rules(run, plan.num_gpus), *_refusals(run)])
        problems |= dict.fromkeys(_outdated(run))
    if problems:
        raise ConfigError("\n".join(problems))


def _broken_rules(run: Run, num_gpus: int) -> list[str]:
    try:
        if isinstance(run.config, Stage1Config):
            check_stage1(run.config, num_gpus)
        else:
            check_stage2(run.config, num_gpus)
    except ConfigError as error:
        missing = f"model.encoder_export ({run.folder.path.parent / run.needs / 'export'}): "
        return [
            line
            for line in str(error).splitlines()
            if not run.needs or not line.startswith(f"{missing}there is no export")
        ]
    return []


def _other_settings(run: Run) -> dict[str, tuple[Any, Any]]:
    """What decides a row and differs from the folder's run: old and new values by key."""
    changed = changed_keys(run.config, run.folder.config_yaml)
    return {
        key: values
        for key, values in changed.items()
        if key not in FREE_ON_RESUME or key in _LENGTHS
    }


def _refusals(run: Run) -> list[str]:
    refused = _other_settings(run) if _is_kept(run) else {}
    if not refused:
        return []
    told = "; ".join(f"{key} was {old} and is now {new}" for key, (old, new) in refused.items())
    return [
        f"{run.folder.path} holds a run with other settings: {told}. Set them back, or choose "
        "another folder with --dir."
    ]


def _is_kept(run: Run) -> bool:
    """Whether something goes on from the folder: not from a run without a checkpoint."""
    is_done = (run.folder.path / DONE).is_file()
    return is_done or newest_complete_checkpoint(run.folder) is not None


def _outdated(run: Run) -> list[str]:
    """Of a stage 2 that goes on or has ended: its stage 1 is gone, or was trained after it."""
    if not run.needs or not _is_kept(run):
        return []
    first = RunFolder(run.folder.path.parent / run.needs)
    ours, theirs = read_starts(run.folder), read_starts(first)
    is_older = bool(ours and theirs) and ours[0]["started"] < theirs[-1]["started"]
    if (first.path / DONE).is_file() and not is_older:
        return []
    return [
        f"{run.folder.path} was trained on another {first.path} than the one that is there now. "
        "Remove the first of the two, and the same command trains it again."
    ]
