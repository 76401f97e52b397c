"""What shows that a recording has changed: its size and time, without a look at its bytes."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

# Looking up waits for the disk or the network, not for a core.
_NUM_THREADS = 16


def stamp_recordings(videos: Iterable[str], root: Path) -> dict[str, str]:
    """A stamp of each recording, by its path.

    Args:
        videos: Files, folders of images, or folders in archives, relative to `root`.
        root: Absolute.

    Returns:
        Size in bytes and modification time in nanoseconds, with a tab between them; of a folder,
        which knows nothing of what is in it, a hash of those of its files. What cannot be looked at
        has a stamp, too: to name it is up to who decodes it.
    """
    names = list(dict.fromkeys(videos))
    # Many clips lie in one archive.
    stamp = lru_cache(maxsize=None)(_stamp_file)

    def stamp_one(name: str) -> str:
        path = root / name
        return _stamp_folder(path) if path.is_dir() else stamp(_existing(path))

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return dict(zip(names, pool.map(stamp_one, names), strict=True))


def _stamp_folder(path: Path) -> str:
    try:
        files = sorted(path.iterdir())
    except OSError as error:
        return _unknown(error)
    lines = (f"{file.name}\t{_stamp_file(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _stamp_file(path: Path) -> str:
    try:
        about = path.stat()
    except OSError as error:
        return _unknown(error)
    return f"{about.st_size}\t{about.st_mtime_ns}"


def _unknown(error: OSError) -> str:
    return f"cannot be looked at\t{error.errno}"


def _existing(path: Path) -> Path:
    """The path, or the archive that it leads into."""
    return next((place for place in (path, *path.parents) if place.exists()), path)
