"""Samples of corpora that come as one folder of images a sentence."""

from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fla.data.frame_folder import find_gap, list_frames
from fla.data.importers.report import NO_VIDEO, Dropped, ImportedSplit, Published
from fla.data.manifest import Sample
from fla.errors import DataError

# Listing waits for the disk or the network, not for a core.
_NUM_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class FrameRow:
    """A row of an annotation."""

    line: int
    """Of the annotation file, or the number of the entry where it has no lines."""
    id: str
    folders: tuple[str, ...]
    """Names that the folder of images may have, the likeliest first."""
    signer: str
    sentence: str | None
    """None where a split names what the annotation lacks."""
    num_frames: int | None = None
    """Images that there should be, where the annotation says so."""


def list_folders(
    paths: Sequence[Path], *, on_progress: Callable[[int, int], None]
) -> dict[Path, tuple[str, ...]]:
    """Names of the images in each of the folders that exist.

    Raises:
        DataError: images are missing in the middle of a folder; one sentence a folder.
    """
    unique = list(dict.fromkeys(paths))
    found: dict[Path, tuple[str, ...]] = {}
    faults: list[str] = []
    on_progress(0, len(unique))
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for done, (path, names) in enumerate(
            zip(unique, pool.map(_list_if_there, unique), strict=True), start=1
        ):
            if names is not None:
                found[path] = names
                gap = find_gap(names)
                if gap is not None:
                    faults.append(
                        f"{path}: images are missing between {gap[0]} and {gap[1]}. "
                        "Unpack the archive again."
                    )
            on_progress(done, len(unique))
    if faults:
        raise DataError("\n".join(faults))
    return found


def import_frame_folders(
    rows: Sequence[FrameRow],
    folders: Mapping[Path, tuple[str, ...]],
    *,
    annotation: Path,
    parent: Path,
    root: Path,
    fps: float,
    published: Published,
    known: Set[str] | None = frozenset(),
) -> ImportedSplit:
    """Make samples of the rows that have images.

    Args:
        rows: One split.
        folders: Names of the images by folder, as `list_folders` found them.
        annotation: Where the rows come from.
        parent: Folder of the folders.
        root: Folder that the manifest's videos are relative to.
        fps: Frames a second.
        published: What a complete download holds.
        known: Names of folders that other rows than these speak of. None: do not look for
            folders without rows.
    """
    samples: list[Sample] = []
    dropped: list[Dropped] = []
    first: dict[str, FrameRow] = {}
    for row in rows:
        result = _import_row(row, first.setdefault(row.id, row), folders, parent, root, fps)
        if isinstance(result, Sample):
            samples.append(result)
        else:
            rule, reason = result
            dropped.append(Dropped(id=row.id, line=row.line, rule=rule, reason=reason))
    named = {name for row in rows for name in row.folders} | (known or set())
    lengths = {sample.id: sample.num_frames for sample in samples}
    return ImportedSplit(
        annotation=annotation,
        samples=samples,
        dropped=dropped,
        videos_without_rows=[
            path.relative_to(root).as_posix()
            for path in sorted(parent.iterdir() if known is not None else ())
            if path.name not in named and path.is_dir()
        ],
        other_lengths=[
            f"{row.id}: {lengths[row.id]} images, but the annotation says {row.num_frames}"
            for row in rows
            if row.id in lengths and row.num_frames not in (None, lengths[row.id])
        ],
        published=published,
    )


def _import_row(
    row: FrameRow,
    first: FrameRow,
    folders: Mapping[Path, tuple[str, ...]],
    parent: Path,
    root: Path,
    fps: float,
) -> Sample | tuple[str, str]:
    """The sample, or the rule that drops the row and why."""
    if first is not row:
        return "repeated", f"line {first.line} has the same name"
    if row.sentence is None:
        return "no annotation", "the annotation has no such name"
    if not row.sentence.strip():
        return "no sentence", "its sentence is empty"
    paths = [parent / name for name in row.folders if folders.get(parent / name)]
    if not paths:
        return NO_VIDEO, f"there is no folder {row.folders[0]} with images"
    num_frames = len(folders[paths[0]])
    return Sample(
        id=row.id,
        video=paths[0].relative_to(root).as_posix(),
        start_s=0.0,
        end_s=num_frames / fps,
        fps=fps,
        num_frames=num_frames,
        signer=row.signer,
        sentence=row.sentence,
    )


def _list_if_there(path: Path) -> tuple[str, ...] | None:
    return list_frames(path) if path.is_dir() else None
