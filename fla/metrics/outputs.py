"""Files of translations, as we and others write them, and how two of them belong together.

Read are plain text (a sentence a line), our decodes/*.tsv and manifests, other tables with a column
`id` or `name`, JSON lines, and the `sample: ID, prediction: TEXT` lines of other toolkits.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fla.errors import DataError

Side = Literal["hypothesis", "reference"]

_IDS = ("id", "sample_id", "name", "SENTENCE_NAME", "seq_name", "video")
_TEXTS: Mapping[Side, Sequence[str]] = {
    "hypothesis": ("hypothesis", "prediction", "translation", "hyp", "text", "sentence"),
    "reference": ("reference", "sentence", "translation", "text", "ref", "SENTENCE", "target"),
}
_PEER_LINE = re.compile(r"\s*sample\s*:\s*(?P<id>.*?)\s*,\s*prediction\s*:\s?(?P<text>.*)")


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Texts of one side, in the file's order."""

    path: Path
    ids: tuple[str, ...] | None
    """Of the samples; None: the file has none, and the order of its lines tells."""
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Hypotheses and references of the same samples, in the order of the references."""

    ids: tuple[str, ...] | None
    hypotheses: tuple[str, ...]
    references: tuple[str, ...]


def read_outputs(path: Path, side: Side) -> Outputs:
    """Read a file of hypotheses or of references.

    Args:
        path: Its ending tells tables (.tsv) and JSON lines (.jsonl); other files are text.
        side: Which of a table's columns is meant.

    Raises:
        DataError: The file cannot be read, or is not what it seems; names the line.
    """
    lines = _read_lines(path)
    if path.suffix == ".tsv":
        rows = [*_read_table(path, lines, side)]
    elif path.suffix == ".jsonl":
        rows = [*_read_json_lines(path, lines, side)]
    elif lines and _PEER_LINE.fullmatch(lines[0]):
        rows = [*_read_peer_lines(path, lines)]
    else:
        rows = [("", line) for line in lines]
    if not rows:
        raise DataError(f"{path}: the file has no sentence. Give one that has.")
    ids = tuple(key for key, _ in rows) if any(key for key, _ in rows) else None
    outputs = Outputs(path=path, ids=ids, texts=tuple(text for _, text in rows))
    _check(outputs, side)
    return outputs


def pair(hypotheses: Outputs, references: Outputs) -> Pairs:
    """Put hypotheses beside their references: by ids where both have them, else by line.

    Raises:
        DataError: Samples are missing or unknown, or the files differ in length.
    """
    if hypotheses.ids is None or references.ids is None:
        if len(hypotheses.texts) != len(references.texts):
            raise DataError(
                f"{hypotheses.path} has {len(hypotheses.texts)} sentences, {references.path} has "
                f"{len(references.texts)}. Give files of the same sentences."
            )
        return Pairs(ids=references.ids, hypotheses=hypotheses.texts, references=references.texts)
    found = dict(zip(hypotheses.ids, hypotheses.texts, strict=True))
    missing = [key for key in references.ids if key not in found]
    strangers = sorted(found.keys() - set(references.ids))
    if missing or strangers:
        told = (
            f"lacks {len(missing)} of the samples of {references.path}, such as {missing[0]}"
            if missing
            else f"has {len(strangers)} sample(s) that {references.path} lacks, such as "
            f"{strangers[0]}"
        )
        raise DataError(f"{hypotheses.path} {told}. Give files of the same split.")
    return Pairs(
        ids=references.ids,
        hypotheses=tuple(found[key] for key in references.ids),
        references=references.texts,
    )


def fingerprint_references(pairs: Pairs) -> str:
    """SHA-256 of the references in the order of their sorted ids, a line each, as a split has it.

    In the order of their lines, where they have no ids.
    """
    references = pairs.references
    if pairs.ids is not None:
        references = tuple(text for _, text in sorted(zip(pairs.ids, references, strict=True)))
    return hashlib.sha256("".join(f"{text}\n" for text in references).encode()).hexdigest()


def _read_lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror}).") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: the file is in UTF-16. Save it as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: the byte 0x{content[error.start]:02x} is not UTF-8. Save the "
            "file as UTF-8."
        ) from error
    # Not splitlines: sentences may hold other line separators of Unicode.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _read_table(path: Path, lines: Sequence[str], side: Side) -> Iterator[tuple[str, str]]:
    # A decodes file begins with its signature.
    first = 1 if lines and lines[0].startswith("# ") else 0
    reader = csv.reader(io.StringIO("\n".join(lines[first:]), newline=""), delimiter="\t")
    try:
        columns = next(reader, [])
        key = _find_column(path, columns, _IDS, "an id")
        text = _find_column(path, columns, _TEXTS[side], f"a {side}")
        for row in reader:
            if len(row) != len(columns):
                raise DataError(
                    f"{path}, line {reader.line_num + first}: {len(row)} columns, the head has "
                    f"{len(columns)}. Mend the line."
                )
            yield row[key], row[text]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num + first}: no table ({error}). Mend the line."
        ) from error


def _find_column(path: Path, columns: Sequence[str], names: Iterable[str], what: str) -> int:
    for name in names:
        if name in columns:
            return columns.index(name)
    raise DataError(
        f"{path}: no column for {what}; it has {', '.join(columns) or 'none'}. Name one "
        f"{' or '.join(names)}."
    )


def _read_json_lines(path: Path, lines: Sequence[str], side: Side) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: no JSON ({error}). Mend the line.") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: no JSON object. Write one a line.")
        columns = [*row]
        text = row[columns[_find_column(path, columns, _TEXTS[side], f"a {side}")]]
        if not isinstance(text, str):
            raise DataError(f"{path}, line {number}: the {side} is {text!r}, no text.")
        key = next((str(row[name]) for name in _IDS if name in row), "")
        yield key, text


def _read_peer_lines(path: Path, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        found = _PEER_LINE.fullmatch(line)
        if found is None:
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} is not of the form `sample: ID, prediction: "
                "TEXT` of the lines before. Mend the line."
            )
        yield found["id"], found["text"]


def _check(outputs: Outputs, side: Side) -> None:
    """Ids are there once each, and references are not empty."""
    seen: set[str] = set()
    for key in outputs.ids or ():
        if not key:
            raise DataError(f"{outputs.path}: a sample has no id, others have. Give all an id.")
        if key in seen:
            raise DataError(f"{outputs.path}: the sample {key} is there twice. Keep one of them.")
        seen.add(key)
    if side == "reference" and (
        empty := [number for number, text in enumerate(outputs.texts, 1) if not text.strip()]
    ):
        what = outputs.ids[empty[0] - 1] if outputs.ids else f"sentence {empty[0]}"
        raise DataError(f"{outputs.path}: the reference of {what} is empty. Give its sentence.")
