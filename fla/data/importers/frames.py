"""Clips that lie as folders of images: which there are, and what is in them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fla.data.frame_folder import find_gap, list_frames
from fla.data.importers.clips import Clip
from fla.errors import DataError

NO_FOLDER = "there is no folder {name} with images"

# Listing waits for the disk or the network, not for a core.
_NUM_THREADS = 16


def find_folders(parent: Path) -> dict[str, Path]:
    """Folders in a folder, by their names."""
    return {path.name: path for path in parent.iterdir() if path.is_dir()}


def list_clips(
    paths: Sequence[Path], *, fps: float, on_progress: Callable[[int, int], None]
) -> dict[Path, Clip | DataError]:
    """Count the images of folders.

    Args:
        paths: Folders that are there.
        fps: Frames a second.
        on_progress: Called with folders read so far and their total number.

    Returns:
        What is in the folders that have images; an error where images are missing between others,
        or the folder cannot be read.
    """
    unique = list(dict.fromkeys(paths))
    clips: dict[Path, Clip | DataError] = {}
    on_progress(0, len(unique))
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(partial(_look_at, fps=fps), unique)
        for done, (path, clip) in enumerate(zip(unique, found, strict=True), start=1):
            if clip is not None:
                clips[path] = clip
            on_progress(done, len(unique))
    return clips


def _look_at(path: Path, *, fps: float) -> Clip | DataError | None:
    try:
        names = list_frames(path)
    except DataError as error:
        return error
    if not names:
        return None
    gap = find_gap(names)
    if gap is not None:
        return DataError(
            f"{path}: images are missing between {gap[0]} and {gap[1]}. Unpack the archive again."
        )
    return Clip(fps=fps, num_frames=len(names), length_s=len(names) / fps)
