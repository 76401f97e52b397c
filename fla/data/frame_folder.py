"""Frames that lie as images in a folder, or in a folder of a zip archive: listed and read.

A path may lead into an archive as if that were a folder: `frames.zip/train/clip_1`.
"""

import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath

from fla.errors import DataError

_ENDINGS = frozenset({".png", ".jpg", ".jpeg"})
_NUMBER = re.compile(r"(\d+)$")


@dataclass(frozen=True, eq=False)
class _Archive:
    file: zipfile.ZipFile
    folders: dict[str, tuple[str, ...]]
    """Names of the images in each folder, in order."""


def is_frame_folder(path: Path) -> bool:
    """Whether frames are looked for at a path as images; they need not be there."""
    return path.is_dir() or _split_archive(path) is not None


def list_frames(path: Path) -> tuple[str, ...]:
    """Names of a folder's images by the numbers at their ends; other files are passed over.

    Raises:
        DataError: No such folder, or an archive that cannot be read.
    """
    inside = _split_archive(path)
    try:
        if inside is None:
            return _in_order(child.name for child in path.iterdir())
        archive, folder = inside
        return _open_archive(archive).folders.get(folder, ())
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def read_images(path: Path, names: Sequence[str]) -> list[bytes]:
    """The images of a folder, still compressed.

    Raises:
        DataError: An image or its archive cannot be read.
    """
    inside = _split_archive(path)
    try:
        if inside is None:
            return [(path / name).read_bytes() for name in names]
        archive, folder = inside
        file = _open_archive(archive).file
        return [file.read(str(PurePosixPath(folder, name))) for name in names]
    # RuntimeError is what an encrypted archive gives.
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise _unreadable(path, error) from error


def find_gap(names: Sequence[str]) -> tuple[str, str] | None:
    """The first two neighbors between whose numbers one is missing."""
    for before, after in pairwise(names):
        if _number(after) != _number(before) + 1:
            return before, after
    return None


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    # "._x.png" is what macOS leaves beside x.png on foreign disks.
    images = (
        name
        for name in names
        if PurePosixPath(name).suffix.lower() in _ENDINGS and not name.startswith(".")
    )
    return tuple(sorted(images, key=lambda name: (_number(name), name)))


def _number(name: str) -> int:
    found = _NUMBER.search(PurePosixPath(name).stem)
    return int(found[1]) if found else -1


def _split_archive(path: Path) -> tuple[Path, str] | None:
    """The archive that a path leads into, and the folder inside."""
    for above in (path, *path.parents):
        if above.suffix == ".zip" and above.is_file():
            return above, path.relative_to(above).as_posix()
    return None


# A process works with a few archives, and reading the list of a large one takes seconds.
@lru_cache(maxsize=8)
def _open_archive(path: Path) -> _Archive:
    file = zipfile.ZipFile(path)
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for name in file.namelist():
        folder, _, image = name.rpartition("/")
        folders[folder or "."].append(image)
    return _Archive(file, {folder: _in_order(names) for folder, names in folders.items()})


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(f"{path} cannot be read: {reason}. Unpack or download it again.")
