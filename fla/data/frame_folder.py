"""Frames that lie as images in a folder, or in a folder of a zip archive: listed and read.

A path may lead into an archive as if that were a folder: `frames.zip/train/clip_1`.
"""

import lzma
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from stat import S_ISREG

from fla.errors import DataError

_ENDINGS = frozenset({".png", ".jpg", ".jpeg"})
_NUMBER = re.compile(r"(\d+)$")
# Far above any image; what claims more is damaged, or is meant to fill the memory.
_MAX_IMAGE_BYTES = 1 << 28
# What reading gives for damage of one kind or another; RuntimeError is for an encrypted archive.
_DAMAGE = (
    OSError,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)


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
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def read_images(path: Path, names: Sequence[str]) -> list[bytes]:
    """The images of a folder, still compressed.

    Raises:
        DataError: An image or its archive cannot be read.
    """
    inside = _split_archive(path)
    try:
        if inside is None:
            return [_read_file(path / name) for name in names]
        archive, folder = inside
        file = _open_archive(archive).file
        return [_read_member(file, PurePosixPath(folder, name)) for name in names]
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def find_gap(names: Sequence[str]) -> tuple[str, str] | None:
    """The first two neighbors between whose numbers one is missing."""
    for before, after in pairwise(names):
        if _number(after) != _number(before) + 1:
            return before, after
    return None


def _read_file(path: Path) -> bytes:
    about = path.stat()
    # A pipe would be waited for until somebody writes to it.
    if not S_ISREG(about.st_mode):
        raise ValueError(f"{path.name} is not a file")
    _check_size(path.name, about.st_size)
    return path.read_bytes()


def _read_member(archive: zipfile.ZipFile, path: PurePosixPath) -> bytes:
    member = archive.getinfo(str(path))
    _check_size(path.name, member.file_size)
    with archive.open(member) as file:
        # Told how much, it unpacks no more than that, even where there is more than it claims.
        return file.read(member.file_size)


def _check_size(name: str, num_bytes: int) -> None:
    if num_bytes > _MAX_IMAGE_BYTES:
        raise ValueError(f"{name} claims {num_bytes:,} bytes, which no image has")


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
    reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
    return DataError(f"{path} cannot be read: {reason.rstrip('.')}. Unpack or download it again.")
