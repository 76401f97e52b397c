"""Rows of CSL-Daily's annotation: the split file, and sentences of video_map.txt or a pickle."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fla.data.importers.clips import ClipRow
from fla.data.importers.labels import label_rows, read_pickle
from fla.data.importers.tables import read_table
from fla.errors import DataError

SPLITS = ("train", "dev", "test")

_NO_SENTENCE = ("no annotation", "the annotation has no such name")
_SIGNER = re.compile(r"_P0*(\d+)_")


@dataclass(frozen=True, kw_only=True)
class _Sentence:
    where: str
    name: str
    text: str
    num_frames: int


def read_rows(
    source: Path, labels: Mapping[str, Path]
) -> tuple[dict[str, Path], dict[str, list[ClipRow]], list[str]]:
    """Read the official annotation, or label files in the place of splits of it.

    Args:
        source: Folder that holds `sentence_label`.
        labels: Label files by split.

    Returns:
        File and rows of every split, and names of the annotation that are in no split.

    Raises:
        DataError: a file is missing, a row cannot be understood, or a name is there twice with
            different sentences.
        OSError: a file cannot be read.
    """
    annotations = dict(labels)
    rows = {
        split: [replace(row, signer=row.signer or _signer(row.id)) for row in label_rows(path)]
        for split, path in labels.items()
    }
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


def _split_file(source: Path) -> Path:
    path = source / "sentence_label" / "split_1.txt"
    if not path.is_file():
        raise DataError(f"{path} does not exist. Put CSL-Daily's split file there.")
    return path


def _read_sentences(folder: Path) -> dict[str, _Sentence]:
    table, pickled = folder / "video_map.txt", folder / "csl2020ct_v2.pkl"
    if table.is_file():
        return _by_name(_read_map(table))
    if not pickled.is_file():
        raise DataError(
            f"{table} does not exist. Put CSL-Daily's video_map.txt or csl2020ct_v2.pkl there."
        )
    content = read_pickle(pickled)
    entries = content.get("info") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{pickled} holds no list 'info'. Use the file of the official download.")
    return _by_name(
        _read_entry(entry, f"{pickled}, entry {number}") for number, entry in enumerate(entries, 1)
    )


def _by_name(sentences: Iterable[_Sentence]) -> dict[str, _Sentence]:
    found: dict[str, _Sentence] = {}
    for sentence in sentences:
        earlier = found.setdefault(sentence.name, sentence)
        if (earlier.text, earlier.num_frames) != (sentence.text, sentence.num_frames):
            raise DataError(
                f"{sentence.where}: {sentence.name} is also at {earlier.where}, with another "
                "sentence or length. Remove one."
            )
    return found


def _read_map(path: Path) -> Iterator[_Sentence]:
    for line, row in read_table(path, columns=("name", "length", "char")):
        yield _Sentence(
            where=f"{path}:{line}",
            name=row["name"],
            text=row["char"].replace(" ", ""),
            num_frames=_count(row["length"], where=f"{path}:{line}"),
        )


def _read_entry(entry: object, where: str) -> _Sentence:
    try:
        return _Sentence(
            where=where,
            name=str(entry["name"]),  # type: ignore[index]
            text="".join(entry["label_char"]),  # type: ignore[index]
            num_frames=int(entry["length"]),  # type: ignore[index]
        )
    except (KeyError, TypeError, ValueError, OverflowError):
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
