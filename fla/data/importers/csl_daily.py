"""Importer for CSL-Daily (Zhou et al., CVPR 2021), from the folders that its archives unpack to.

SOURCE/sentence_frames-512x512/frames_512x512/NAME/000000.jpg ..., or else
SOURCE/sentence-crop/NAME.mp4
SOURCE/sentence_label/split_1.txt, and video_map.txt or csl2020ct_v2.pkl
"""

import logging
from collections.abc import Callable
from pathlib import Path

from fla.data.datasets import CSL_DAILY
from fla.data.importers.clips import (
    ClipFiles,
    all_names,
    import_clips,
    list_without_rows,
    wanted_paths,
)
from fla.data.importers.csl_daily_rows import SPLITS, read_rows
from fla.data.importers.finish import finish_import
from fla.data.importers.frames import NO_FOLDER, find_folders, list_clips
from fla.data.importers.options import Options
from fla.data.importers.recordings import (
    NO_FILE,
    NOTES,
    describe_clips,
    find_recordings,
    read_recordings,
)
from fla.data.importers.report import ImportReport, Published
from fla.errors import DataError

log = logging.getLogger(__name__)

FPS = 30.0
"""Of the images; a video says it itself."""

PUBLISHED = {
    "train": Published(num_rows=18401, num_frames=2185329),
    "dev": Published(num_rows=1077, num_frames=131931),
    "test": Published(num_rows=1176, num_frames=150248),
}
"""Rows of the official split; images of SLRT's label files."""

DEFAULTS = Options()

# Under which the archives have been unpacked, as public code has them.
_FRAMES = (
    "sentence_frames-512x512/frames_512x512",
    "sentence/frames_512x512",
    "sentences/frames_512x512",
    "sentence_frames-512x512",
    "frames_512x512",
)
_VIDEOS = "sentence-crop"


def import_csl_daily(
    source: Path,
    output: Path,
    *,
    on_progress: Callable[[int, int], None],
    options: Options = DEFAULTS,
) -> ImportReport:
    """Write train.tsv, dev.tsv, test.tsv, report.json, report.txt and, of videos, recordings.jsonl.

    The split file and the annotation each name a clip that the other lacks; both are reported.

    Args:
        source: Folder that holds the frames, or else the videos, and `sentence_label`; only read.
        output: Folder for the files; made where it is missing.
        on_progress: Called with clips read so far and their total number.
        options: What the user asked for; label files are those of Uni-Sign or SLRT.

    Raises:
        DataError: an annotation file or the clips are missing, a row cannot be understood,
            or no row of a split became a sample. No file but recordings.jsonl has been written
            then.
        OSError: a file cannot be read, or `output` cannot be written to.
    """
    source = source.resolve()
    folder, is_video = _find_clips(source)
    packaging = f"Clips are {'mp4 videos' if is_video else 'folders of images'} in {folder}."
    log.info("%s", packaging)
    annotations, rows, without_split = read_rows(source, options.labels)
    output.mkdir(parents=True, exist_ok=True)
    everything = [row for split in SPLITS for row in rows[split]]
    paths = find_recordings(folder) if is_video else find_folders(folder)
    wanted = wanted_paths(everything, paths, options=options)
    if is_video:
        recordings = read_recordings(
            wanted, root=source, notes=output / NOTES, on_progress=on_progress
        )
        clips, missing = describe_clips(recordings), NO_FILE
    else:
        clips, missing = list_clips(wanted, fps=FPS, on_progress=on_progress), NO_FOLDER
    imported = {
        split: import_clips(
            rows[split],
            ClipFiles(paths=paths, clips=clips, missing=missing),
            split=split,
            options=options,
            annotation=annotations[split],
            root=source,
            published=PUBLISHED[split],
            # All splits lie in one folder, so what no split names is told once, with train.
            without_rows=list_without_rows(paths, all_names(everything), root=source)
            if split == "train"
            else (),
        )
        for split in SPLITS
    }
    return finish_import(
        CSL_DAILY,
        imported,
        options=options,
        source=source,
        output=output,
        rows_without_split=without_split,
        remarks=[packaging],
    )


def _find_clips(source: Path) -> tuple[Path, bool]:
    """The folder of the clips, and whether they are videos; images come first."""
    for inner in _FRAMES:
        if (source / inner).is_dir():
            return source / inner, False
    if (source / _VIDEOS).is_dir():
        return source / _VIDEOS, True
    raise DataError(
        f"{source / _FRAMES[0]} does not exist. Unpack CSL-Daily's frames there, or its videos to "
        f"{source / _VIDEOS}, and name the folder that holds sentence_label and one of the two."
    )
