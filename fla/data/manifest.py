"""The manifest: one sample a row, written by an importer, read by everything else.

A TSV file. The first line is `# fla-manifest 1 root=PATH`; PATH is the folder that the video paths
are relative to, itself absolute or relative to the manifest's own folder. The second line names
the columns, which are the fields of `Sample`. Values with a tab, a quote or a line break are
quoted as in CSV. UTF-8, `\\n` ends a row.
"""

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from fla.data.frame_folder import is_frame_folder
from fla.errors import DataError

MAX_SENTENCES = 10
"""Faults that one error lists; a wrong folder would otherwise print every row."""

_MAGIC = "# fla-manifest 1 root="


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sentence and the range of a recording in which it is signed: a virtual clip."""

    id: str
    video: str
    """Path of the recording, or of the folder of its images, relative to the manifest's root, with
    forward slashes; a folder may lie in a zip archive: `frames.zip/train/clip_1`."""
    start_s: float
    """First moment, in seconds after the recording's first presented frame."""
    end_s: float
    """End, exclusive, in seconds after the recording's first presented frame."""
    fps: float
    """Average frame rate of the recording."""
    num_frames: int
    """Frames presented at times t with start_s <= t < end_s; at least 1."""
    signer: str
    """Who signs, or an empty string."""
    sentence: str
    """The reference, exactly as the annotation has it."""


_COLUMNS = tuple(field.name for field in fields(Sample))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A split as its file has it."""

    path: Path
    """The file, as the caller named it: how errors speak of it."""
    root: Path
    """Folder that the samples' video paths are relative to, absolute."""
    samples: tuple[Sample, ...]
    lines: tuple[int, ...]
    """Line of the file on which each sample begins, counted from 1."""
    sha256: str
    """Of the file's bytes, as hexadecimal."""


def read_manifest(path: Path, *, video_root: str = "") -> Manifest:
    """Read a manifest; `check_manifest` says whether a run can use it.

    Args:
        path: The TSV file.
        video_root: Folder to use instead of the root that the file names; empty: the file's.

    Raises:
        DataError: no such file, not a manifest, or a row that is not a sample; with file and line.
    """
    try:
        data = path.read_bytes()
        # Editors put a mark in front.
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Import the corpus first.") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8. Save the file as UTF-8.") from None

    first_line, _, table = text.partition("\n")
    first_line = first_line.rstrip("\r")
    if not first_line.startswith(_MAGIC):
        raise DataError(
            f"{path}:1: a manifest begins with '{_MAGIC}PATH', not with '{first_line[:40]}'. "
            "Write it with an importer."
        )
    root = Path(video_root) if video_root else path.parent / first_line.removeprefix(_MAGIC)
    numbered = tuple(_read_samples(path, table))
    return Manifest(
        path=path,
        root=root.resolve(),
        samples=tuple(sample for _, sample in numbered),
        lines=tuple(line for line, _ in numbered),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def write_manifest(path: Path, samples: Sequence[Sample], *, root: Path) -> None:
    """Write a manifest whole or not at all; its folder is made where it is missing.

    Args:
        path: The TSV file.
        samples: In the order of the rows.
        root: Folder that the video paths are relative to. The file names it relative to its own
            folder, so that both can move together, unless only `/` is above the two.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_COLUMNS, *([getattr(sample, name) for name in _COLUMNS] for sample in samples)]
    text = f"{_MAGIC}{_relative_root(root.resolve(), path.parent.resolve())}\n"
    text += "".join("\t".join(map(_quoted, row)) + "\n" for row in rows)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(text.encode())
    unfinished.replace(path)


def check_manifest(manifest: Manifest) -> None:
    """See to it that every sample can be used, before a run starts; no video is opened.

    Raises:
        DataError: no sample, no root folder, a repeated id, an empty sentence, a range or a number
            that makes no sense, or a video that is not there. One sentence a fault, at most
            `MAX_SENTENCES` of them.
    """
    if not manifest.samples:
        raise DataError(f"{manifest.path}: has no sample. Import the corpus again.")
    if not manifest.root.is_dir():
        raise DataError(
            f"{manifest.path}:1: the folder of the videos, {manifest.root}, does not exist. "
            "Put the videos there, or name their folder in data.video_root (tools: --video-root)."
        )
    faults = [
        f"{manifest.path}:{line}: {fault}"
        for line, sample, repeats, has_video in _facts(manifest)
        for fault in _faults(sample, repeats, has_video, manifest.root)
    ]
    if len(faults) > MAX_SENTENCES:
        faults[MAX_SENTENCES:] = [f"{len(faults) - MAX_SENTENCES} more faults follow."]
    if faults:
        raise DataError("\n".join(faults))


def deal_videos_at_random(samples: Sequence[Sample], *, seed: int) -> tuple[Sample, ...]:
    """The signing-blind control: every sentence gets the clip of another sample.

    What a model reaches on these it has from the sentences alone.

    Args:
        samples: One split.
        seed: Draws the deal.

    Returns:
        The same ids and sentences in the same order; recording, range and signer moved on.

    Raises:
        DataError: fewer than 2 samples.
    """
    if len(samples) < 2:
        raise DataError(
            f"A split of {len(samples)} samples has no other video to deal. "
            "Use at least 2, or data.shuffle_videos=false."
        )
    # Hand each clip to the next in a random round: nobody can keep the own one.
    round_ = np.random.default_rng(seed).permutation(len(samples))
    dealt = list(samples)
    for receiver, giver in zip(round_, np.roll(round_, 1), strict=True):
        clip = samples[giver]
        dealt[receiver] = replace(clip, id=dealt[receiver].id, sentence=dealt[receiver].sentence)
    return tuple(dealt)


def fingerprint(samples: Sequence[Sample]) -> dict[str, int | str]:
    """Tell one set of references from another, whatever the order of its rows.

    Returns:
        `num_samples`; `ids_sha256`, of the sorted ids, a line each; `references_sha256`, of the
        sentences in the order of the sorted ids, a line each. UTF-8, `\\n` ends a line.
    """
    by_id = sorted(samples, key=lambda sample: sample.id)
    return {
        "num_samples": len(by_id),
        "ids_sha256": _sha256_of_lines([sample.id for sample in by_id]),
        "references_sha256": _sha256_of_lines([sample.sentence for sample in by_id]),
    }


def _quoted(value: object) -> str:
    # csv.writer leaves a lone carriage return bare before Python 3.13, and then cannot read it.
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if re.search(r'[\t\n\r"]', text) else text


def _sha256_of_lines(lines: Sequence[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _read_samples(path: Path, table: str) -> Iterator[tuple[int, Sample]]:
    rows = csv.reader(io.StringIO(table, newline=""), delimiter="\t", strict=True)
    line = 2
    try:
        columns = next(rows, [])
        if sorted(columns) != sorted(_COLUMNS):
            raise DataError(
                f"{path}:{line}: the columns are {' '.join(columns) or 'none'}, and must be "
                f"{' '.join(_COLUMNS)}. Write the file with an importer."
            )
        line = rows.line_num + 2
        for row in rows:
            yield line, _read_sample(row, columns, where=f"{path}:{line}")
            # The line break inside a quoted sentence counts, so ask where the next row begins.
            line = rows.line_num + 2
    except csv.Error as error:
        raise DataError(f"{path}:{line}: {error}. Close or double the quote.") from None


def _read_sample(row: Sequence[str], columns: Sequence[str], *, where: str) -> Sample:
    if len(row) != len(columns):
        raise DataError(
            f"{where}: has {len(row)} values for {len(columns)} columns. "
            "Add or remove a tab, or quote the sentence."
        )
    value = dict(zip(columns, row, strict=True))
    return Sample(
        id=value["id"],
        video=value["video"],
        start_s=_number(value, "start_s", where=where),
        end_s=_number(value, "end_s", where=where),
        fps=_number(value, "fps", where=where),
        num_frames=_count(value, "num_frames", where=where),
        signer=value["signer"],
        sentence=value["sentence"],
    )


def _number(value: dict[str, str], column: str, *, where: str) -> float:
    try:
        return float(value[column])
    except ValueError:
        raise DataError(
            f"{where}: {column} ({value[column]}) is not a number. Fix the row."
        ) from None


def _count(value: dict[str, str], column: str, *, where: str) -> int:
    try:
        return int(value[column])
    except ValueError:
        raise DataError(
            f"{where}: {column} ({value[column]}) is not a whole number. Fix the row."
        ) from None


def _facts(manifest: Manifest) -> Iterator[tuple[int, Sample, int | None, bool]]:
    # One look a recording: it holds many samples, and the folder may be on a network.
    exists = {
        video: (manifest.root / video).is_file() or is_frame_folder(manifest.root / video)
        for video in {sample.video for sample in manifest.samples}
    }
    seen: dict[str, int] = {}
    for line, sample in zip(manifest.lines, manifest.samples, strict=True):
        yield line, sample, seen.get(sample.id), exists[sample.video]
        seen.setdefault(sample.id, line)


def _faults(sample: Sample, repeats: int | None, has_video: bool, root: Path) -> Iterator[str]:
    if not sample.id:
        yield "the id is empty. Give the sample a name."
    if repeats is not None:
        yield f"the id {sample.id} is that of line {repeats}. Rename or remove one."
    if not sample.sentence.strip():
        yield f"the sentence of {sample.id} is empty. Add it, or remove the row."
    if not all(map(math.isfinite, (sample.start_s, sample.end_s, sample.fps))):
        yield (
            f"start_s ({sample.start_s}), end_s ({sample.end_s}) and fps ({sample.fps}) "
            "must be finite. Fix or remove the row."
        )
    if sample.start_s < 0:
        yield f"start_s ({sample.start_s}) is before the recording. Fix or remove the row."
    if sample.end_s <= sample.start_s:
        yield (
            f"end_s ({sample.end_s}) is not after start_s ({sample.start_s}). "
            "Fix or remove the row."
        )
    if sample.fps <= 0:
        yield f"fps ({sample.fps}) is not above 0. Fix or remove the row."
    if sample.num_frames < 1:
        yield f"num_frames ({sample.num_frames}) is below 1. Fix or remove the row."
    if not has_video:
        yield (
            f"the video of {sample.id}, {root / sample.video}, does not exist. "
            "Put it there, or name the videos' folder in data.video_root (tools: --video-root)."
        )


def _relative_root(root: Path, folder: Path) -> str:
    for climbed, above in enumerate((folder, *folder.parents)):
        if root.is_relative_to(above) and above != Path(above.anchor):
            return Path(*[".."] * climbed, root.relative_to(above)).as_posix()
    return root.as_posix()
