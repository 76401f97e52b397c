"""A plan as a shell script for Slurm: an array a level, each level after what it needs.

Nothing is submitted here. Every task is a run of launchers/slurm/train.sbatch, with its limits.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from fla.ablation.execute import decoding_words, training_words
from fla.ablation.plan import Plan, Run
from fla.ablation.state import is_decoded, is_trained
from fla.config.schema import Stage2Config

SBATCH = Path("launchers/slurm/train.sbatch")
# A plan's runs have one node, and an array has other names.
_OUR_OWN = (
    *("--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--output"),
    *("-J", "-N", "-o"),
)

Task = tuple[str, tuple[str, ...]]
"""Name of a run, and the words after train.sbatch."""


def describe_jobs(plan: Plan, *, command: str) -> str:
    """The script that submits what is missing of a plan.

    Args:
        plan: One that `check_plan` has accepted.
        command: The user's own without --slurm, which writes the table when all has ended.
    """
    levels = [level for level in _levels(plan) if level[1]]
    lines = [
        "#!/bin/bash",
        f"# {plan.table.heading}: {plan.table.title}. Read it, change the limits, then: bash FILE",
        "set -euo pipefail",
        "mkdir -p logs",
        f"limits=({' '.join(_limits(plan.num_gpus))})",
    ]
    submitted: list[str] = []
    for name, tasks, turns in levels:
        lines += ["", *_submit(name, tasks, turns, after=submitted, table=plan.table.name)]
        submitted.append(name)
    if not levels:
        lines += ["", "# Every run is done."]
    lines += ["", "# When all have ended, this writes the table:", f"#   {command}"]
    return "\n".join(lines) + "\n"


def _levels(plan: Plan) -> Iterator[tuple[str, list[Task], str]]:
    """Name, tasks, and what limits how many of them run at once."""
    waiting = [run for run in plan.runs if not is_trained(run)]
    missing = {run.name for run in waiting}
    first = [run for run in waiting if run.needs not in missing]
    second = [run for run in waiting if run.needs in missing]
    for name, runs in (("first", first), ("second", second)):
        yield name, [(run.name, training_words(run)) for run in runs], _turns(runs)
    yield (
        "decoding",
        [
            (run.name, decoding_words(run))
            for run in plan.runs
            if run.is_decoded and not (is_trained(run) and is_decoded(run))
        ],
        "",
    )


def _turns(runs: Sequence[Run]) -> str:
    """One after the other, where the first is to make the features that the others read."""
    encoders = [
        run.needs
        for run in runs
        if isinstance(run.config, Stage2Config) and run.config.features.mode == "cached"
    ]
    return "%1" if len(set(encoders)) < len(encoders) else ""


def _limits(num_gpus: int) -> Iterator[str]:
    """train.sbatch's own, which a script on the standard input would not have."""
    yield from ("--nodes=1", f"--ntasks-per-node={num_gpus}", f"--gpus-per-node={num_gpus}")
    for line in re.findall(r"^#SBATCH\s(.+)$", SBATCH.read_text(encoding="utf-8"), re.MULTILINE):
        is_ours = False
        for word in shlex.split(line, comments=True):
            # A value may be a word of its own.
            if word.startswith("-"):
                is_ours = word.partition("=")[0] in _OUR_OWN
            if not is_ours:
                yield shlex.quote(word)


def _submit(
    level: str, tasks: Sequence[Task], turns: str, *, after: Sequence[str], table: str
) -> Iterator[str]:
    options = [
        "--parsable",
        f"--array=0-{len(tasks) - 1}{turns}",
        f"--job-name=ablation-{table}-{level}",
        "--output=logs/%x_%A_%a.out",
    ]
    if after:
        options.append("--dependency=afterok:" + ":".join(f"${name}" for name in after))
    yield f"{level}=$(sbatch {' '.join(options)} \"${{limits[@]}}\" <<'JOB'"
    yield "#!/bin/bash"
    yield 'case "$SLURM_ARRAY_TASK_ID" in'
    for number, (name, words) in enumerate(tasks):
        yield f"    # {name}"
        yield f"    ({number}) words=({shlex.join(words)}) ;;"
    yield "esac"
    yield f'exec bash {SBATCH} "${{words[@]}}"'
    yield "JOB"
    yield ")"
