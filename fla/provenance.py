"""What a run was made of: the code, the packages, the machines, the manifests."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from fla.run_folder import RunFolder, write_json

SLURM_JOB = "SLURM_JOB_ID"
_PACKAGES = (
    "torch torchvision transformers deepspeed nvidia-dali-cuda130 av mlflow omegaconf "
    "sacrebleu rouge-score sentencepiece numpy"
).split()


def write_provenance(
    run: RunFolder, *, command: Sequence[str], devices: Sequence[str], manifests: Mapping[str, str]
) -> None:
    """Write what this start was made of; the starts before a resume are kept in the same file.

    Args:
        command: The words that started the run.
        devices: One name a rank, such as "cpu" or "NVIDIA H100".
        manifests: SHA-256 of each manifest file, by its path.
    """
    earlier: list[dict[str, object]] = []
    if run.provenance_json.exists():
        last = json.loads(run.provenance_json.read_text(encoding="utf-8"))
        earlier = [*last.pop("earlier_starts"), last]
    start = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "slurm_job": os.environ.get(SLURM_JOB, ""),
        "git": read_git_state(),
        "versions": read_versions(),
        "devices": list(devices),
        "manifests": dict(manifests),
        "earlier_starts": earlier,
    }
    write_json(run.provenance_json, start)


def read_starts(run: RunFolder) -> list[dict[str, Any]]:
    """All starts of a run, the first one first; empty where that is not known."""
    try:
        last = json.loads(run.provenance_json.read_text(encoding="utf-8"))
        return [*last["earlier_starts"], last]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def read_git_state(folder: Path = Path(__file__).parent) -> dict[str, object] | None:
    """Commit of the code and whether files differ from it; None outside of a git checkout."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def read_versions() -> dict[str, str]:
    """Installed versions of the packages that a result depends on."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git(folder: Path, *words: str) -> str:
    # optional-locks: `status` must not touch the index of a checkout that someone else works in.
    done = subprocess.run(
        ["git", "--no-optional-locks", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()
