"""Importer for CSL-Daily (Zhou et al., CVPR 2021), from the folders that its archives unpack to.

SOURCE/sentence_frames-512x512/frames_512x512/NAME/000000.jpg ...
SOURCE/sentence_label/split_1.txt, and video_map.txt or csl2020ct_v2.pkl
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fla.data.importers.clips import (
    ClipFiles,
    ClipRow,
    all_names,
    import_clips,
    list_without_rows,
    wanted_paths,
)
from fla.data.importers.finish import finish_import
from fla.data.importers.frames import MISSING, find_folders, list_clips
from fla.data.importers.labels import label_rows, read_pickle
from fla.data.importers.options import Options
from fla.data.importers.report import ImportReport, Published
from fla.data.importers.tables import read_table
from fla.errors import DataError

FPS = 30.0
"""Of the recordings and of the images."""

SPLITS = ("train", "dev", "test")
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
_NO_SENTENCE = ("no annotation", "the annotation has no such name")
_SIGNER = re.compile(r"_P0*(\d+)_")


@dataclass(frozen=True, kw_only=True)
class _Sentence:
    text: str
    num_frames: int


def import_csl_daily(
    source: Path,
    output: Path,
    *,
    on_progress: Callable[[int, int], None],
    options: Options = DEFAULTS,
) -> ImportReport:
    """Write train.tsv, dev.tsv, test.tsv, report.json and report.txt.

    The split file and the annotation each name a clip that the other lacks; both are reported.

    Args:
        source: Folder that holds the frames and `sentence_label`; only read.
        output: Folder for the five files; made where it is missing.
        on_progress: Called with folders read so far and their total number.
        options: What the user asked for; label files are those of Uni-Sign or SLRT.

    Raises:
        DataError: an annotation file or the frames are missing, a row cannot be understood,
            or no row of a split became a sample. No file has been written then.
        OSError: a file cannot be read, or `output` cannot be written to.
    """
    source = source.resolve()
    frames = _find_frames(source)
    annotations, rows, without_split = _read_rows(source, options.labels)
    output.mkdir(parents=True, exist_ok=True)
    folders = find_folders(frames)
    everything = [row for split in SPLITS for row in rows[split]]
    clips = list_clips(
        wanted_paths(everything, folders, options=options), fps=FPS, on_progress=on_progress
    )
    imported = {
        split: import_clips(
            rows[split],
            ClipFiles(paths=folders, clips=clips, missing=MISSING),
            options=options,
            annotation=annotations[split],
            root=source,
            published=PUBLISHED[split],
            # All splits lie in one folder, so what no split names is told once, with train.
            without_rows=list_without_rows(folders, all_names(everything), root=source)
            if split == "train"
            else (),
        )
        for split in SPLITS
    }
    return finish_import(
        "CSL-Daily",
        imported,
        options=options,
        source=source,
        output=output,
        rows_without_split=without_split,
    )


def _read_rows(
    source: Path, labels: Mapping[str, Path]
) -> tuple[dict[str, Path], dict[str, list[ClipRow]], list[str]]:
    """Annotation and rows of every split, and names of the annotation that are in no split."""
    annotations = dict(labels)
    rows = {split: label_rows(path) for split, path in labels.items()}
    official = [split for split in SPLITS if split not in labels]
    if not official:
        return annotations, rows, []
    path = _split_file(source)
    sentences = _read_sentences(source / "sentence_label")
    all_rows = _official_rows(path, sentences)
    annotations |= dict.fromkeys(official, path)
    rows |= {split: all_rows[split] for split in official}
    in_a_split = {row.id for split in all_rows.values() for row in split}
    return annotations, rows, sorted(sentences.keys() - in_a_split)


def _find_frames(source: Path) -> Path:
    for folder in _FRAMES:
        if (source / folder).is_dir():
            return source / folder
    raise DataError(
        f"{source / _FRAMES[0]} does not exist. Unpack CSL-Daily's frames there, and name the "
        "folder that holds sentence_frames-512x512 and sentence_label."
    )


def _split_file(source: Path) -> Path:
    path = source / "sentence_label" / "split_1.txt"
    if not path.is_file():
        raise DataError(f"{path} does not exist. Put CSL-Daily's split file there.")
    return path


def _read_sentences(folder: Path) -> dict[str, _Sentence]:
    table, pickled = folder / "video_map.txt", folder / "csl2020ct_v2.pkl"
    if table.is_file():
        return {
            row["name"]: _Sentence(
                text=row["char"].replace(" ", ""),
                num_frames=_count(row["length"], where=f"{table}:{line}"),
            )
            for line, row in read_table(table, columns=("name", "length", "char"))
        }
    if not pickled.is_file():
        raise DataError(
            f"{table} does not exist. Put CSL-Daily's video_map.txt or csl2020ct_v2.pkl there."
        )
    content = read_pickle(pickled)
    entries = content.get("info") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{pickled} holds no list 'info'. Use the file of the official download.")
    return dict(_read_entry(entry, f"{pickled}, entry {n}") for n, entry in enumerate(entries, 1))


def _read_entry(entry: object, where: str) -> tuple[str, _Sentence]:
    try:
        name, characters = entry["name"], entry["label_char"]  # type: ignore[index]
        text = "".join(characters)
        return str(name), _Sentence(text=text, num_frames=int(entry["length"]))  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{where}: has no name, label_char or length. Use the file of the official download."
        ) from None


def _count(text: str, *, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{where}: length ({text}) is not a whole number. Fix the row.") from None


def _official_rows(path: Path, sentences: Mapping[str, _Sentence]) -> dict[str, list[ClipRow]]:
    rows: dict[str, list[ClipRow]] = {split: [] for split in SPLITS}
    for line, row in read_table(path, columns=("name", "split")):
        if row["split"] not in rows:
            raise DataError(
                f"{path}:{line}: split ({row['split']}) is none of {', '.join(SPLITS)}. "
                "Fix the row."
            )
        sentence = sentences.get(row["name"])
        rows[row["split"]].append(
            ClipRow(
                line=line,
                id=row["name"],
                names=(row["name"],),
                signer=_signer(row["name"]),
                sentence=sentence.text if sentence else _NO_SENTENCE,
                num_frames=sentence.num_frames if sentence else None,
            )
        )
    return rows


def _signer(name: str) -> str:
    found = _SIGNER.search(name)
    return found[1] if found else ""
