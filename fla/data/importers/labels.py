"""Label files of GFSLT-VLP, Uni-Sign and SLRT: pickles, read without running what is in them.

GFSLT-VLP and Uni-Sign: a dict of dicts by name. SLRT and neccam: a list of dicts. Both with `name`
and `text`, and mostly gzip around it.
"""

import gzip
import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fla.data.importers.clips import ClipRow
from fla.errors import DataError

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class Label:
    """One sentence of a label file."""

    name: str
    """Without the split before it and the ending of a video after it."""
    sentence: str
    signer: str
    """Who signs, or an empty string."""


def read_labels(path: Path) -> list[Label]:
    """Read a label file of one of the layouts above.

    Raises:
        DataError: no such file, no pickle, or not of that layout.
        OSError: the file cannot be read.
    """
    content = read_pickle(path)
    entries = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise DataError(
            f"{path} holds no list of sentences. Use a label file of GFSLT-VLP, Uni-Sign or SLRT."
        )
    return [_label(entry, where=f"{path}, entry {n}") for n, entry in enumerate(entries, start=1)]


def label_rows(path: Path) -> list[ClipRow]:
    """The entries of a label file as rows; the number of an entry stands for its line.

    Raises:
        DataError: as `read_labels`.
        OSError: as `read_labels`.
    """
    return [
        ClipRow(
            line=number,
            id=label.name,
            names=(label.name,),
            signer=label.signer,
            sentence=label.sentence,
        )
        for number, label in enumerate(read_labels(path), start=1)
    ]


def read_sentences(path: Path) -> dict[str, str]:
    """The sentences of a label file by name.

    Raises:
        DataError: as `read_labels`, or two sentences for one name.
        OSError: as `read_labels`.
    """
    sentences: dict[str, str] = {}
    for number, label in enumerate(read_labels(path), start=1):
        if sentences.setdefault(label.name, label.sentence) != label.sentence:
            raise DataError(
                f"{path}, entry {number}: an earlier entry has another sentence for {label.name}. "
                "Remove one."
            )
    return sentences


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain values; a class or function that it names becomes an empty object.

    Raises:
        DataError: no such file, or no pickle.
        OSError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Name a label file.") from None
    try:
        data = gzip.decompress(data) if data.startswith(_GZIP) else data
        return _PlainUnpickler(io.BytesIO(data)).load()
    # What a pickle that was cut or changed gives is not one kind of error.
    except Exception as error:
        raise DataError(
            f"{path} is no pickle of plain values ({type(error).__name__}). Download it again."
        ) from None


class _Ignored:
    """In the place of features and other objects: takes anything, does nothing."""

    def __new__(cls, *_: object) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


class _PlainUnpickler(pickle.Unpickler):
    """Finds nothing that a file names but OrderedDict, so that nothing else is called."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Ignored


def _label(entry: object, *, where: str) -> Label:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: is no dictionary. Use a label file with names and texts.")
    for key in ("name", "text"):
        if not isinstance(entry.get(key), str):
            raise DataError(f"{where}: {key} ({entry.get(key)!r:.40}) is no text. Fix the file.")
    signer = entry.get("signer", "")
    return Label(
        # GFSLT-VLP and SLRT put the split before the name, Uni-Sign the ending of a video after.
        name=entry["name"].rpartition("/")[2].removesuffix(".mp4"),
        sentence=entry["text"],
        signer=str(signer) if isinstance(signer, str | int) else "",
    )
