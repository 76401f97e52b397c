"""Files that another node has written: some network file systems show them late."""

import time
from collections.abc import Mapping
from pathlib import Path

from fla.errors import DataError
from fla.runtime import Runtime, ask_main

# NFS may remember for 60 s that a file is not there (acdirmax of nfs(5)).
_PATIENCE_S = 120.0
_PERIOD_S = 0.1


def see_what_main_sees(folder: Path, runtime: Runtime) -> None:
    """Wait until this rank sees a folder's files as rank 0 does; every rank calls it.

    Args:
        folder: On a disk that all ranks share.
        runtime: Of this rank.

    Raises:
        DataError: A file does not arrive; its name.
    """
    sizes = ask_main(runtime, lambda: sizes_of(folder))
    wait_for_files(folder, sizes)


def sizes_of(folder: Path) -> dict[str, int]:
    """Bytes of the files in a folder and below, by their path in it, hidden ones left out."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def wait_for_files(
    folder: Path, sizes: Mapping[str, int | None], *, patience_s: float = _PATIENCE_S
) -> None:
    """Wait until files are there.

    Args:
        folder: That they lie in.
        sizes: Bytes by path in the folder; None: any.
        patience_s: Longest wait.

    Raises:
        DataError: A file does not arrive; its name.
    """
    end_s = time.monotonic() + patience_s
    for name, size in sizes.items():
        path = folder / name
        while not _is_there(path, size):
            if time.monotonic() > end_s:
                raise DataError(
                    f"{path}: another rank sees this file, and after {patience_s:g} s this one "
                    "does not. Is the folder on a disk that all nodes share?"
                )
            # Reading the folder makes the kernel ask the server again.
            if path.parent.is_dir():
                list(path.parent.iterdir())
            time.sleep(_PERIOD_S)


def _is_there(path: Path, size: int | None) -> bool:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return False
    return size is None or found == size
