"""Importer for How2Sign (Duarte et al., CVPR 2021), from the folders that its download unpacks to.

Reads the whole recordings and the re-aligned annotation; the original stamps and the pre-cut clips
do not match what is signed, and are read where the user insists. Nothing is cut or copied: a sample
is a range of a recording, or one of the clips.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fla.data.datasets import GENERATED, GENERATED_NOTE, HOW2SIGN
from fla.data.importers.clips import ClipFiles, ClipRow, import_clips, list_without_rows
from fla.data.importers.finish import finish_import
from fla.data.importers.how2sign_files import (
    SPLITS,
    VARIANTS,
    RawSplit,
    check_layout,
    read_split,
)
from fla.data.importers.how2sign_ranges import Recordings, import_ranges
from fla.data.importers.labels import read_sentences
from fla.data.importers.options import Options
from fla.data.importers.recordings import NO_FILE, NOTES, describe_clips, read_recordings
from fla.data.importers.report import ImportedSplit, ImportReport, Published

log = logging.getLogger(__name__)

DEFAULTS = Options(min_frames=2)
"""A clip of one frame shows no movement."""

PUBLISHED = {
    "train": Published(num_rows=31165, note="31128 in the paper"),
    "dev": Published(num_rows=1741),
    "test": Published(num_rows=2357, note="2322 in the paper"),
}
"""Rows of the re-aligned files (how2sign-data, issue 4) and of the paper's table."""

_CLIPS = {
    "train": Published(num_rows=31165, note="31048 of them as clips"),
    "dev": Published(num_rows=1741, note="1739 of them as clips"),
    "test": Published(num_rows=2357, note="2343 of them as clips"),
}
"""The same rows, and the pre-cut clips that there are (how2sign-data, issue 4)."""


def import_how2sign(
    source: Path,
    output: Path,
    *,
    on_progress: Callable[[int, int], None],
    variant: str = "realigned",
    options: Options = DEFAULTS,
) -> ImportReport:
    """Write train.tsv, dev.tsv, test.tsv, report.json, report.txt and recordings.jsonl.

    Args:
        source: Folder that holds `video_level` and `sentence_level`; only read.
        output: Folder for the files; made where it is missing.
        on_progress: Called with videos read so far and their total number.
        variant: What to read, a key of `VARIANTS`.
        options: What the user asked for; label files are those of Uni-Sign.

    Raises:
        DataError: an annotation file or a folder of videos is missing, a row cannot be
            understood, or no row of a split became a sample. No file but recordings.jsonl has
            been written then.
        OSError: a file cannot be read, or `output` cannot be written to.
    """
    source = source.resolve()
    chosen = VARIANTS[variant]
    if chosen.warning:
        log.warning("%s", chosen.warning)
    check_layout(source, chosen)
    splits = {
        ours: _take_labels(read_split(source, theirs, chosen), options.labels.get(ours))
        for ours, theirs in SPLITS.items()
    }
    # Before the recordings are read, which may take an hour.
    output.mkdir(parents=True, exist_ok=True)
    wanted = [
        split.videos[row.video_name]
        for split in splits.values()
        for row in split.rows
        if row.video_name in split.videos and row.id not in options.excluded
    ]
    recordings = read_recordings(wanted, root=source, notes=output / NOTES, on_progress=on_progress)
    import_split = _import_clips if chosen.is_cut else import_ranges
    imported = {
        name: import_split(
            split,
            recordings,
            name=name,
            options=options,
            root=source,
            published=_CLIPS[name] if chosen.is_cut else PUBLISHED[name],
        )
        for name, split in splits.items()
    }
    return finish_import(
        GENERATED if (source / GENERATED_NOTE).is_file() else HOW2SIGN,
        imported,
        options=options,
        source=source,
        output=output,
        remarks=[chosen.warning] if chosen.warning else [],
    )


def _take_labels(split: RawSplit, path: Path | None) -> RawSplit:
    """The split with the sentences of a label file, where there is one."""
    if path is None:
        return split
    sentences = read_sentences(path)
    missing = ("no label", f"{path.name} has no such name")
    return replace(
        split,
        rows=tuple(replace(row, sentence=sentences.get(row.id, missing)) for row in split.rows),
        labels=path,
        labels_without_rows=tuple(sorted(sentences.keys() - {row.id for row in split.rows})),
    )


def _import_clips(
    split: RawSplit,
    recordings: Recordings,
    *,
    name: str,
    options: Options,
    root: Path,
    published: Published,
) -> ImportedSplit:
    rows = [
        ClipRow(
            line=row.line,
            id=row.id,
            names=(row.video_name,),
            signer=row.signer,
            sentence=row.sentence,
        )
        for row in split.rows
    ]
    imported = import_clips(
        rows,
        ClipFiles(paths=split.videos, clips=describe_clips(recordings), missing=NO_FILE),
        split=name,
        options=options,
        annotation=split.annotation,
        root=root,
        published=published,
        without_rows=list_without_rows(split.videos, {row.id for row in rows}, root=root),
    )
    return replace(imported, labels=split.labels, labels_without_rows=split.labels_without_rows)
