"""Recordings of a download: which there are, and when their frames appear.

What has been read is noted in the folder of the manifests: an import that was stopped goes on where
it was, and a second one reads nothing again. A recording that has changed since is read again.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from fla.data.decode.video import probe_video
from fla.data.importers.clips import Clip
from fla.data.importers.recording_notes import (
    Note,
    Recording,
    open_notes,
    read_notes,
)
from fla.data.processes import map_on_all_cores
from fla.errors import DataError

NOTES = "recordings.jsonl"
"""Name of the notes in the folder of the manifests."""


NO_FILE = "there is no file {name}.mp4"


def find_recordings(folder: Path) -> dict[str, Path]:
    """Every mp4 file below a folder, by its name without the ending; none is opened.

    Raises:
        DataError: two recordings of one name.
        OSError: a folder that cannot be listed.
    """
    recordings: dict[str, Path] = {}
    seen: set[tuple[int, int]] = set()
    # The split archives unpack to a folder of their own inside; follow links, since the
    # recordings of a large corpus often lie on another disk.
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen:
            # A link led back to a folder above it, or to one that another link led to.
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            # "._x.mp4" is what macOS leaves beside x.mp4 on foreign disks.
            if path.suffix != ".mp4" or path.name.startswith("._"):
                continue
            if path.stem in recordings:
                raise DataError(
                    f"{path}: the recording is also at {recordings[path.stem]}. Remove one."
                )
            recordings[path.stem] = path
    return recordings


def read_recordings(
    paths: Iterable[Path], *, root: Path, notes: Path, on_progress: Callable[[int, int], None]
) -> dict[Path, Recording | DataError]:
    """Read what has not been noted, on all cores, and note it.

    Args:
        paths: Recordings below `root`; one may be named twice.
        root: Folder that the notes' paths are relative to.
        notes: File of the notes; made where it is missing. Recordings that cannot be read are not
            noted, so that they are tried again.
        on_progress: Called with recordings done so far, noted ones included, and their total.

    Returns:
        Every recording, or why it cannot be read.
    """
    unique = sorted(set(paths))
    noted = read_notes(notes)
    found: dict[Path, Recording | DataError] = {}
    for path in unique:
        note = noted.get(path.relative_to(root).as_posix())
        if note is not None and (note.size, note.mtime_ns) == _size_and_mtime(path):
            found[path] = note.recording
    waiting = [path for path in unique if path not in found]
    on_progress(len(found), len(unique))
    if not waiting:
        return found
    with (
        open_notes(notes) as add_note,
        closing(map_on_all_cores(_read, waiting)) as results,
    ):
        for path, result in zip(waiting, results, strict=True):
            if isinstance(result, DataError):
                found[path] = result
            else:
                found[path] = result.recording
                add_note(path.relative_to(root).as_posix(), result)
            on_progress(len(found), len(unique))
    return found


def describe_clips(
    recordings: Mapping[Path, Recording | DataError],
) -> dict[Path, Clip | DataError]:
    """Recordings as clips that are shown from beginning to end."""
    return {path: _describe(recording) for path, recording in recordings.items()}


def _raise(error: OSError) -> None:
    raise error


def _size_and_mtime(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _read(path: Path) -> Note | DataError:
    # Before the file is read: what changes while it is read is to be read again.
    status = _size_and_mtime(path)
    try:
        info = probe_video(path)
    except DataError as error:
        return error
    # What a damaged file makes a library do is not one kind of error, and must not end the import.
    except Exception as error:
        return DataError(
            f"{path} does not decode: {type(error).__name__}: {error}. Replace the file, or leave "
            "it out."
        )
    size, mtime_ns = status or (-1, -1)
    return Note(
        size=size,
        mtime_ns=mtime_ns,
        recording=Recording(fps=info.fps, frame_times=info.frame_times),
    )


def _describe(recording: Recording | DataError) -> Clip | DataError:
    if isinstance(recording, DataError):
        return recording
    return Clip(
        fps=recording.fps,
        num_frames=len(recording.frame_times),
        length_s=recording.length_s,
    )
