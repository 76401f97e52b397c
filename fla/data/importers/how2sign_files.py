"""What a How2Sign download holds: its folders, its annotation files and its videos.

SOURCE/video_level/{train,val,test}/rgb_front/**/VIDEO_NAME.mp4
SOURCE/sentence_level/{split}/rgb_front/**/SENTENCE_NAME.mp4
SOURCE/sentence_level/{split}/text/en/raw_text/re_aligned/how2sign_realigned_{split}.csv
SOURCE/sentence_level/{split}/text/en/raw_text/how2sign_{split}.csv
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fla.data.importers.how2sign_rows import Row, read_rows
from fla.data.importers.recordings import find_recordings
from fla.data.importers.tables import find_missing_files
from fla.errors import DataError

SPLITS = {"train": "train", "dev": "val", "test": "test"}
"""Our name of a split: How2Sign's."""

_REALIGNED = "re_aligned/how2sign_realigned_{split}.csv"
_ORIGINAL = "how2sign_{split}.csv"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the ways to read the download."""

    level: str
    """Folder of the videos."""
    product: str
    """The download's own name of them."""
    annotations: tuple[str, ...]
    """Files in raw_text, the preferred first."""
    stamp_columns: tuple[tuple[str, str], ...]
    """Names that the columns of start and end may have, the preferred first."""
    warning: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether every sentence has a video of its own, so that no stamps are read."""
        return not self.stamp_columns


VARIANTS = {
    "realigned": Variant(
        level="video_level",
        product="Green Screen RGB videos",
        annotations=(_REALIGNED,),
        stamp_columns=(("START_REALIGNED", "END_REALIGNED"),),
    ),
    "original": Variant(
        level="video_level",
        product="Green Screen RGB videos",
        annotations=(_ORIGINAL,),
        # Nobody has written down the file's own names; copies have either.
        stamp_columns=(("START", "END"), ("START_REALIGNED", "END_REALIGNED")),
        warning="WARNING: these are the original stamps. They say when a sentence is spoken, and "
        "do not match what is signed. The re-aligned stamps do: --source realigned.",
    ),
    "clips": Variant(
        level="sentence_level",
        product="Green Screen RGB clips",
        annotations=(_ORIGINAL, _REALIGNED),
        stamp_columns=(),
        warning="WARNING: these are the pre-cut clips. They were cut by when a sentence is spoken, "
        "are known to be misaligned, and do not match what is signed. The whole recordings with "
        "the re-aligned stamps do: --source realigned.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class RawSplit:
    """What the disk holds of a split."""

    annotation: Path
    rows: tuple[Row, ...]
    """Rows with the same id are the same but for their line."""
    videos: Mapping[str, Path]
    """By VIDEO_NAME, or by SENTENCE_NAME where they are clips."""
    labels: Path | None = None
    """File that the sentences come from, where that is not the annotation."""
    labels_without_rows: tuple[str, ...] = ()
    """Names in that file that no row has."""


def check_layout(source: Path, variant: Variant) -> None:
    """See to it that all three splits are there.

    Raises:
        DataError: another folder altogether, or one sentence for each annotation file or folder
            of videos that is missing.
    """
    if not (source / "sentence_level").is_dir():
        raise DataError(
            f"{source} has no folder sentence_level. Name the folder that holds How2Sign's "
            "sentence_level and video_level."
        )
    faults = find_missing_files(
        [_annotation(source, split, variant) for split in SPLITS.values()],
        advice="Put How2Sign's annotation there: all three splits are needed.",
    )
    faults += [
        f"{path} does not exist. Unpack How2Sign's {variant.product} there."
        for path in (_video_folder(source, split, variant) for split in SPLITS.values())
        if not path.is_dir()
    ]
    if faults:
        raise DataError("\n".join(faults))


def read_split(source: Path, split: str, variant: Variant) -> RawSplit:
    """Read a split's annotation and list its videos, none of which is opened.

    Args:
        source: Folder that holds `video_level` and `sentence_level`.
        split: How2Sign's name of it.
        variant: What to read of it.

    Raises:
        DataError: a row that cannot be understood or that contradicts another of the same
            SENTENCE_NAME, with file and line; no row; two videos of one name.
        OSError: the annotation cannot be read, or a folder cannot be listed.
    """
    annotation = _annotation(source, split, variant)
    rows = read_rows(annotation, stamp_columns=variant.stamp_columns)
    return RawSplit(
        annotation=annotation,
        rows=tuple(replace(row, video_name=row.id) for row in rows) if variant.is_cut else rows,
        videos=find_recordings(_video_folder(source, split, variant)),
    )


def _annotation(source: Path, split: str, variant: Variant) -> Path:
    folder = source / "sentence_level" / split / "text" / "en" / "raw_text"
    paths = [folder / name.format(split=split) for name in variant.annotations]
    return next((path for path in paths if path.is_file()), paths[0])


def _video_folder(source: Path, split: str, variant: Variant) -> Path:
    return source / variant.level / split / "rgb_front"
