"""Files of a checkpoint and their checksums: what is damaged is named before anything is loaded.

DeepSpeed's files are pickles, and loading one runs what it names. They are looked through first:
one that names anything beside tensors and DeepSpeed's own records is refused. DeepSpeed's converter
makes a folder of each parameter's name, so that names which climb out of theirs are refused, too.
"""

import hashlib
import json
import pickletools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from fla.errors import CheckpointError, first_line
from fla.run_folder import write_json

STATE = "state.json"
_NUM_THREADS = 4
# What DeepSpeed 0.19 keeps beside tensors and plain Python values.
_RECORDS = {
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
}

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


def digest_file(path: Path) -> Digest:
    """Size and checksum of a file."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


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


def check_pickles(folder: Path) -> None:
    """Refuse a checkpoint whose pickles would run code, or write files anywhere else.

    Nothing in them is run to see.

    Raises:
        CheckpointError: Names the file, and what is in it.
    """
    for path in sorted(folder.glob("*.pt")):
        try:
            strangers = {*torch.serialization.get_unsafe_globals_in_checkpoint(path)} - _RECORDS
            climbers = [text for text in _strings_of(path) if _climbs(text)]
        except Exception as error:
            # Whatever a damaged file makes of its reader.
            raise CheckpointError(
                f"{path}: this is no whole file of a checkpoint ({first_line(error)}). Take "
                "another checkpoint."
            ) from error
        if strangers:
            raise CheckpointError(
                f"{path}: the file holds {sorted(strangers)[0]}, which no checkpoint of this "
                "toolkit does, and what it holds is not run. Take a checkpoint that you trust."
            )
        if climbers:
            raise CheckpointError(
                f"{path}: the file holds {climbers[0]!r}, which would be written outside of the "
                "checkpoint's folder. Take a checkpoint that you trust."
            )


def _strings_of(path: Path) -> Iterator[str]:
    pickle = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    return (value for _, value, _ in pickletools.genops(pickle) if isinstance(value, str))


def _climbs(text: str) -> bool:
    return text.startswith("/") or ".." in PurePosixPath(text).parts


def _digest_all(folder: Path, names: Iterable[str]) -> dict[str, Digest]:
    names = [*names]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        digests = pool.map(lambda name: digest_file(folder / name), names)
        return dict(zip(names, digests, strict=True))


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
