"""Importer for PHOENIX14T (Camgöz et al., CVPR 2018), from the folders that its archive unpacks to.

PHOENIX-2014-T/annotations/manual/PHOENIX-2014-T.{train,dev,test}.corpus.csv
PHOENIX-2014-T/features/fullFrame-210x260px/{train,dev,test}/NAME/images0001.png ...
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fla.data.datasets import PHOENIX14T
from fla.data.importers.clips import (
    ClipFiles,
    ClipRow,
    all_names,
    import_clips,
    list_without_rows,
    wanted_paths,
)
from fla.data.importers.finish import finish_import
from fla.data.importers.frames import NO_FOLDER, find_folders, list_clips
from fla.data.importers.labels import label_rows
from fla.data.importers.options import Options
from fla.data.importers.report import ImportReport, Published
from fla.data.importers.tables import find_missing_files, read_table
from fla.errors import DataError

FPS = 25.0
"""Of the broadcast and of the images."""

SPLITS = ("train", "dev", "test")
PUBLISHED = {
    "train": Published(num_rows=7096, num_frames=827354, note="7095 in some feature files"),
    "dev": Published(num_rows=519, num_frames=55775),
    "test": Published(num_rows=642, num_frames=64627),
}
"""Rows of the official annotation and images of the official archive, v3."""

DEFAULTS = Options()

_ROOTS = (".", "PHOENIX-2014-T", "PHOENIX-2014-T-release-v3/PHOENIX-2014-T")
_FRAMES = "features/fullFrame-210x260px"


def import_phoenix14t(
    source: Path,
    output: Path,
    *,
    on_progress: Callable[[int, int], None],
    options: Options = DEFAULTS,
) -> ImportReport:
    """Write train.tsv, dev.tsv, test.tsv, report.json and report.txt.

    Args:
        source: The unpacked folder, or one of the two around it; only read.
        output: Folder for the five files; made where it is missing.
        on_progress: Called with folders read so far and their total number.
        options: What the user asked for; label files are those of GFSLT-VLP or SLRT.

    Raises:
        DataError: an annotation file or a folder of frames is missing, a row cannot be
            understood, or no row of a split became a sample. No file has been written then.
        OSError: a file cannot be read, or `output` cannot be written to.
    """
    root = _find_root(source.resolve())
    labels = options.labels
    annotations = {split: labels.get(split, _annotation(root, split)) for split in SPLITS}
    _check_layout(root, [path for split, path in annotations.items() if split not in labels])
    rows = {
        split: _with_signers(label_rows(path), _annotation(root, split))
        if split in labels
        else list(_official_rows(path))
        for split, path in annotations.items()
    }
    output.mkdir(parents=True, exist_ok=True)
    folders = {split: find_folders(root / _FRAMES / split) for split in SPLITS}
    wanted = [
        path
        for split in SPLITS
        for path in wanted_paths(rows[split], folders[split], options=options)
    ]
    clips = list_clips(wanted, fps=FPS, on_progress=on_progress)
    imported = {
        split: import_clips(
            rows[split],
            ClipFiles(paths=folders[split], clips=clips, missing=NO_FOLDER),
            split=split,
            options=options,
            annotation=annotations[split],
            root=root,
            published=PUBLISHED[split],
            without_rows=list_without_rows(folders[split], all_names(rows[split]), root=root),
        )
        for split in SPLITS
    }
    return finish_import(PHOENIX14T, imported, options=options, source=root, output=output)


def _find_root(source: Path) -> Path:
    for inner in _ROOTS:
        if (source / inner / "features").is_dir() or (source / inner / "annotations").is_dir():
            return (source / inner).resolve()
    raise DataError(
        f"{source} has no folder annotations or features. Name the folder PHOENIX-2014-T that "
        "the archive unpacks to."
    )


def _annotation(root: Path, split: str) -> Path:
    return root / "annotations" / "manual" / f"PHOENIX-2014-T.{split}.corpus.csv"


def _check_layout(root: Path, annotations: Sequence[Path]) -> None:
    faults = find_missing_files(
        annotations, advice="Put the annotation there: all three splits are needed."
    )
    faults += [
        f"{path} does not exist. Unpack the frames of the archive there."
        for path in (root / _FRAMES / split for split in SPLITS)
        if not path.is_dir()
    ]
    if faults:
        raise DataError("\n".join(faults))


def _with_signers(rows: Sequence[ClipRow], official: Path) -> list[ClipRow]:
    """The rows of a label file; who signs is known by the official annotation, where that is."""
    signers: dict[str, str] = {}
    if official.is_file():
        signers = {row.id: row.signer for row in _official_rows(official)}
    return [replace(row, signer=row.signer or signers.get(row.id, "")) for row in rows]


def _official_rows(path: Path) -> Iterator[ClipRow]:
    # The file quotes nothing: a quote is a letter.
    for line, row in read_table(path, columns=("name", "video", "speaker", "translation")):
        # `video` is NAME/1/*.png, but the archive has no folder 1.
        names = dict.fromkeys((row["name"], row["video"].split("/")[0]))
        yield ClipRow(
            line=line,
            id=row["name"],
            names=tuple(names),
            signer=row["speaker"],
            sentence=row["translation"],
        )
