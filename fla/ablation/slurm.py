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

SBATCH = Path("launchers/slurm/train.sbatch")
# A plan's runs have one node, and an array has other names.
_OUR_OWN = ("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "output")

Task = tuple[str, tuple[str, ...]]
"""Name of a run, and the words after train.sbatch."""


def describe_jobs(plan: Plan, *, command: str) -> str:
    """The script that submits what is missing of a plan.

    Args:
        plan: One that `check_plan` has accepted.
        command: The user's own without --slurm, which writes the table when all has ended.
    """
    levels = [(name, tasks) for name, tasks in _levels(plan) if tasks]
    lines = [
        "#!/bin/bash",
        f"# {plan.table.heading}: {plan.table.title}. Read it, change the limits, then: bash FILE",
        "set -euo pipefail",
        "mkdir -p logs",
        f"limits=({' '.join(_limits(plan.num_gpus))})",
    ]
    submitted: list[str] = []
    for name, tasks in levels:
        lines += ["", *_submit(name, tasks, after=submitted, table=plan.table.name)]
        submitted.append(name)
    if not levels:
        lines += ["", "# Every run is done."]
    lines += ["", "# When all have ended, this writes the table:", f"#   {command}"]
    return "\n".join(lines) + "\n"


def _levels(plan: Plan) -> Iterator[tuple[str, list[Task]]]:
    waiting = [run for run in plan.runs if not is_trained(run)]
    missing = {run.name for run in waiting}
    yield "first", [_training(run) for run in waiting if run.needs not in missing]
    yield "second", [_training(run) for run in waiting if run.needs in missing]
    yield (
        "decoding",
        [
            (run.name, decoding_words(run))
            for run in plan.runs
            if run.is_decoded and not (is_trained(run) and is_decoded(run))
        ],
    )


def _training(run: Run) -> Task:
    return run.name, training_words(run)


def _limits(num_gpus: int) -> Iterator[str]:
    """train.sbatch's own, which a script on the standard input would not have."""
    yield from ("--nodes=1", f"--ntasks-per-node={num_gpus}", f"--gpus-per-node={num_gpus}")
    for name, value in re.findall(
        r"^#SBATCH --([\w-]+)(=\S+)?$", SBATCH.read_text(encoding="utf-8"), re.MULTILINE
    ):
        if name not in _OUR_OWN:
            yield f"--{name}{value}"


def _submit(
    level: str, tasks: Sequence[Task], *, after: Sequence[str], table: str
) -> Iterator[str]:
    options = [
        "--parsable",
        f"--array=0-{len(tasks) - 1}",
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
