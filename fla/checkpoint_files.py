"""Files of a checkpoint and their checksums: what is damaged is named before anything is loaded."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import distributed

from fla.errors import CheckpointError
from fla.run_folder import COMPLETE, write_json
from fla.runtime import Runtime, ask_main

STATE = "state.json"
_NUM_THREADS = 4

Digest = tuple[int, str]
"""Bytes and SHA-256 of a file."""


def write_state(folder: Path, state: Mapping[str, Any], files: Mapping[str, Digest]) -> None:
    """Write state.json, with the checksums of the other files and one of its own."""
    content = {**state, "files": files}
    write_json(folder / STATE, {**content, "sha256": _digest_of(content)})


def read_state(folder: Path) -> tuple[dict[str, Any], dict[str, Digest]]:
    """What `write_state` wrote.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    path = folder / STATE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        own = content.pop("sha256")
        files = content["files"]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: the file is missing or damaged. Take another checkpoint."
        ) from error
    if own != _digest_of(content):
        raise CheckpointError(
            f"{path}: the file is not the one that was written. Take another checkpoint."
        )
    del content["files"]
    return content, {name: (size, sha256) for name, (size, sha256) in files.items()}


def digest_files(folder: Path, runtime: Runtime) -> dict[str, Digest]:
    """Checksums of all files of a checkpoint; every rank calls it and reads what it wrote."""
    names = ask_main(runtime, lambda: sorted(path.name for path in folder.iterdir()))
    own = [name for name in names if _writer(name, runtime.world_size) == runtime.rank]
    found = _digest_all(folder, own)
    if runtime.world_size == 1:
        return found
    shares: list[Any] = [None] * runtime.world_size
    distributed.all_gather_object(shares, found)
    return {name: digest for share in shares for name, digest in share.items()}


def check_files(folder: Path, *, advice: str) -> None:
    """Refuse a checkpoint of which a file is missing, cut short or changed.

    Args:
        folder: Of the checkpoint.
        advice: What to do then, a sentence.

    Raises:
        CheckpointError: Names the file, and what is wrong with it.
    """
    _, files = read_state(folder)
    # Sizes first: they cost nothing.
    for path, (size, _) in ((folder / name, files[name]) for name in sorted(files)):
        if not path.is_file():
            raise CheckpointError(f"{path}: the file is missing. {advice}")
        if path.stat().st_size != size:
            raise CheckpointError(
                f"{path}: the file has {path.stat().st_size} bytes, and {size} were written. "
                f"{advice}"
            )
    found = _digest_all(folder, files)
    for name in sorted(files):
        if found[name] != files[name]:
            raise CheckpointError(
                f"{folder / name}: the bytes are not those that were written. {advice}"
            )


def _digest_all(folder: Path, names: Iterable[str]) -> dict[str, Digest]:
    names = [name for name in names if name != COMPLETE]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True))


def _digest(path: Path) -> Digest:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _writer(name: str, world_size: int) -> int:
    """The rank that wrote a file: its page cache has it."""
    found = re.search(r"rank_?(\d+)", name)
    rank = int(found[1]) if found else 0
    return rank if rank < world_size else 0
