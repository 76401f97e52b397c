"""Samples of corpora where every sentence has a folder of images or a video of its own."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fla.data.importers.options import Options
from fla.data.importers.report import NO_VIDEO, UNREADABLE, ImportedSplit, Published
from fla.data.importers.rules import Fault, apply_rules
from fla.data.manifest import Sample
from fla.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """A row of an annotation."""

    line: int
    """Of the annotation file, or the number of the entry where it has no lines."""
    id: str
    names: tuple[str, ...]
    """Names that the clip may have on disk, the likeliest first."""
    signer: str
    sentence: str | Fault
    """Or why there is none, as where a split names what the annotation lacks."""
    num_frames: int | None = None
    """Frames that there should be, where the annotation says so."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What the disk holds of a clip."""

    fps: float
    num_frames: int
    length_s: float
    """When the last frame leaves the screen, in seconds after the first one appears."""


@dataclass(frozen=True, kw_only=True)
class ClipFiles:
    """Where the clips of a split lie, and what is in them."""

    paths: Mapping[str, Path]
    """Every folder or video of the split's place, by the name that rows give it."""
    clips: Mapping[Path, Clip | DataError]
    """What is in those that were read; a folder without images is not here."""
    missing: str
    """Why a row has no clip, with `{name}` for the clip's name."""


def wanted_paths(
    rows: Sequence[ClipRow], paths: Mapping[str, Path], *, options: Options
) -> list[Path]:
    """Folders or videos to be read: those that rows name, but for excluded rows."""
    names = (name for row in rows if row.id not in options.excluded for name in row.names)
    return [paths[name] for name in names if name in paths]


def import_clips(
    rows: Sequence[ClipRow],
    files: ClipFiles,
    *,
    split: str,
    options: Options,
    annotation: Path,
    root: Path,
    published: Published,
    without_rows: Sequence[str],
) -> ImportedSplit:
    """Make samples of the rows that have a clip.

    Args:
        rows: One split.
        files: Its clips.
        split: Our name of it.
        options: What the user asked for.
        annotation: Where the rows come from.
        root: Folder that the manifest's videos are relative to.
        published: What a complete download holds.
        without_rows: Clips that no row names, relative to `root`.
    """
    outcome = apply_rules(
        rows, partial(_make_sample, files=files, root=root), split=split, options=options
    )
    lengths = {sample.id: sample.num_frames for sample in outcome.samples}
    return ImportedSplit(
        annotation=annotation,
        samples=outcome.samples,
        dropped=outcome.dropped,
        repaired=outcome.repaired,
        videos_without_rows=without_rows,
        other_lengths=[
            f"{row.id}: {lengths[row.id]} frames, but the annotation says {row.num_frames}"
            for row in rows
            if row.id in lengths and row.num_frames not in (None, lengths[row.id])
        ],
        published=published,
    )


def list_without_rows(paths: Mapping[str, Path], named: Set[str], *, root: Path) -> list[str]:
    """Videos or folders on disk that no row names, relative to `root`.

    Args:
        paths: All that are there, by name.
        named: Names that rows have.
        root: Folder above them.
    """
    return [
        path.relative_to(root).as_posix()
        for name, path in sorted(paths.items())
        if name not in named
    ]


def all_names(rows: Iterable[ClipRow]) -> set[str]:
    """Names that the clips of rows may have on disk."""
    return {name for row in rows for name in row.names}


def _make_sample(row: ClipRow, *, files: ClipFiles, root: Path) -> Sample | Fault:
    if not isinstance(row.sentence, str):
        return row.sentence
    found = [files.paths[name] for name in row.names if name in files.paths]
    path = next((path for path in found if path in files.clips), None)
    if path is None:
        return NO_VIDEO, files.missing.format(name=row.names[0])
    clip = files.clips[path]
    if isinstance(clip, DataError):
        return UNREADABLE, str(clip)
    return Sample(
        id=row.id,
        video=path.relative_to(root).as_posix(),
        start_s=0.0,
        end_s=clip.length_s,
        fps=clip.fps,
        num_frames=clip.num_frames,
        signer=row.signer,
        sentence=row.sentence,
    )
