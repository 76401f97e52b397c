"""Errors that a user can fix. A launcher or tool prints the sentence and exits with the code."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FlaError(Exception):
    """One sentence: where, what value, what to do."""

    exit_code = 1


class ConfigError(FlaError):
    """A key, a value or a combination of keys that cannot be run."""

    exit_code = 2


class DataError(FlaError):
    """A manifest, annotation or video that is not what it should be."""


class CheckpointError(FlaError):
    """A checkpoint or an export that cannot be used."""


class DiskError(FlaError, OSError):
    """A file that could not be written: no space, no permission, or a disk that fails.

    Args:
        path: Of the file.
        error: What the system says.
        free: What is free there, as `free_space` says it; empty: it is looked up.
    """

    def __init__(self, path: Path, error: OSError, free: str = "") -> None:
        super().__init__(error.errno, error.strerror or str(error))
        self._path = path
        self._free = free or free_space(path)

    def __reduce__(self) -> tuple[type["DiskError"], tuple[Path, OSError, str]]:
        # A rank tells the others, and all of them say the same.
        return DiskError, (self._path, OSError(self.errno, self.strerror), self._free)

    def __str__(self) -> str:
        return (
            f"{self._path}: it could not be written ({self.strerror}; {self._free}). "
            "Free some space, or choose another folder; what was there before is unchanged."
        )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system says of a disk into a sentence.

    Args:
        path: What is written, where the system does not name it.

    Raises:
        DiskError: Something could not be written, renamed or removed.
    """
    try:
        yield
    except FlaError:
        raise
    except OSError as error:
        raise DiskError(Path(error.filename or path), error) from error


class RunStopped(FlaError):
    """A run that a signal has stopped, and that the same command continues."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: try again."""


def free_space(path: Path) -> str:
    """What is free where a file was to be written, such as `12 MB are free`."""
    existing = next((it for it in (path, *path.absolute().parents) if it.exists()), Path("/"))
    try:
        return f"{shutil.disk_usage(existing).free / 1e6:,.0f} MB are free"
    except OSError:
        return "how much is free is unknown"


def first_line(error: Exception) -> str:
    """What a library says of an error, short enough to be quoted in a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
