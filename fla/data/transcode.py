"""Encode the recordings of manifests anew, so that training decodes them faster.

Copies get their recording's relative path, so the manifests hold for them, too. A copy gets its
name when it is complete and has been compared with its source; what is done is noted in the
folder of the copies, so a job that was stopped goes on.
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fla.data.decode.encode import ENCODERS, Target, can_hold, encode_video
from fla.data.frame_folder import is_frame_folder
from fla.data.manifest import Manifest
from fla.data.processes import map_on_all_cores
from fla.errors import ConfigError, DataError

_MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording and where its copy goes."""

    source: Path
    copy: Path
    num_bytes: int
    """Of the source."""
    mtime_ns: int
    """When the source was last changed, in nanoseconds since 1970."""


def check_target(target: Target) -> None:
    """Refuse what no recording can be encoded to.

    Raises:
        ConfigError: A number out of its range.
    """
    encoder = ENCODERS[target.codec]
    if target.short_side_px < 32 or target.short_side_px % 2:
        raise ConfigError(
            f"--short-side-px ({target.short_side_px}) must be even and at least 32: "
            "color has half the resolution."
        )
    if target.key_frame_every < 1:
        raise ConfigError(f"--key-frame-every ({target.key_frame_every}) must be at least 1.")
    if encoder.crf is None and target.crf is not None:
        raise ConfigError(f"--crf ({target.crf}) means nothing to {target.codec}. Leave it out.")
    # Zero would be lossless in H.264, a profile that GPUs do not decode.
    if target.crf is not None and not 1 <= target.crf <= encoder.worst_crf:
        raise ConfigError(
            f"--crf ({target.crf}) must be from 1 to {encoder.worst_crf} for {target.codec}."
        )


def list_recordings(manifests: Sequence[Manifest], output: Path) -> list[Recording]:
    """Every recording that manifests name, once, the largest first.

    Args:
        manifests: Each accepted by `check_manifest`.
        output: Folder of the copies.

    Raises:
        DataError: Images in a folder, a path that leads out of the root, two recordings with one
            path, or a copy that would replace its source.
    """
    sources: dict[PurePosixPath, Path] = {}
    for manifest in manifests:
        for line, sample in zip(manifest.lines, manifest.samples, strict=True):
            where = f"{manifest.path}:{line}: {sample.video}"
            path, source = PurePosixPath(sample.video), manifest.root / sample.video
            if path.is_absolute() or ".." in path.parts:
                raise DataError(
                    f"{where} is not below {manifest.root}, so its copy would not be below "
                    f"{output}. Import the data again from a folder above all recordings."
                )
            known = sources.setdefault(path, source)
            if known != source and not known.samefile(source):
                raise DataError(
                    f"{where} is {source}, but for another manifest it is {known}. "
                    "Give each manifest an OUT_DIR of its own."
                )
    folders = {path for path, source in sources.items() if is_frame_folder(source)}
    for manifest in manifests:
        named = [s for s in manifest.samples if PurePosixPath(s.video) in folders]
        if named:
            raise DataError(
                f"{manifest.path}: {len(named)} samples, the first is {named[0].id}, are images "
                "in a folder, and only recordings are transcoded. Leave the manifest out."
            )
    recordings = [_recording(source, output / path) for path, source in sources.items()]
    return sorted(recordings, key=lambda recording: -recording.num_bytes)


def check_containers(recordings: Sequence[Recording], codec: str) -> None:
    """See to it that the copies' suffixes fit their codec.

    Raises:
        DataError: A suffix whose container cannot hold the codec; names those that all can hold.
    """
    suffixes = sorted({recording.source.suffix.lower() for recording in recordings})
    wrong = [suffix for suffix in suffixes if not can_hold(suffix, codec)]
    if not wrong:
        return
    example = next(r.source for r in recordings if r.source.suffix.lower() == wrong[0])
    fitting = [c for c in ENCODERS if all(can_hold(suffix, c) for suffix in suffixes)]
    advice = f"Use --codec {' or '.join(fitting)}." if fitting else "No other --codec fits all."
    raise DataError(
        f"{example}: a copy must keep its name for the manifest to hold, and "
        f"'{wrong[0]}' files cannot hold {codec}. {advice}"
    )


def notes_path(output: Path) -> Path:
    """Where it is noted what copies there are: the target, then a recording a line, as JSON."""
    return output / "transcoded.jsonl"


def find_waiting(recordings: Sequence[Recording], output: Path, target: Target) -> list[Recording]:
    """Those recordings that have no copy yet, or have changed since it was made.

    Raises:
        DataError: The folder was begun with another target, or has files of other origin.
    """
    notes = notes_path(output)
    if not notes.exists():
        taken = [recording.copy for recording in recordings if recording.copy.exists()]
        if taken:
            raise DataError(
                f"{taken[0]} exists and is no copy that this tool made. Name an empty OUT_DIR."
            )
        return list(recordings)
    begun, noted = _read_notes(notes)
    for key, value in asdict(target).items():
        if begun[key] != value:
            option = f"--{key.replace('_', '-')}"
            raise DataError(
                f"{output} was begun with {option} {begun[key]}, and this is {option} {value}. "
                "Keep to it, or name another OUT_DIR."
            )
    return [r for r in recordings if not _is_done(r, noted.get(_name(r, output)))]


def check_space(output: Path, num_bytes: int) -> None:
    """See to it that copies will fit.

    Raises:
        DataError: Less space is free than they need.
    """
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise DataError(
            f"{output}: the copies need about {num_bytes / 1e9:.3g} GB, {free / 1e9:.3g} GB are "
            "free. Make room, or name an OUT_DIR elsewhere."
        )


def transcode(
    recordings: Sequence[Recording],
    output: Path,
    target: Target,
    *,
    on_progress: Callable[[int, int], None],
) -> list[str]:
    """Encode recordings on all cores; the larger should come first.

    Args:
        recordings: What `find_waiting` gave.
        output: Folder of the copies.
        target: What to encode to.
        on_progress: Called with megabytes of sources encoded so far, and their total.

    Returns:
        A sentence for each recording that has no copy now.

    Raises:
        DataError: Another process is at work in the folder.
        OSError: The folder cannot be written, or the disk is full.
    """
    sizes = np.cumsum([0, *(recording.num_bytes for recording in recordings)]) // _MB
    on_progress(0, int(sizes[-1]))
    faults = []
    encode = partial(_encode, output=output, target=target)
    with (
        _open_notes(output, target),
        closing(map_on_all_cores(encode, recordings)) as results,
    ):
        for size, fault in zip(sizes[1:], results, strict=True):
            if fault is not None:
                faults.append(fault)
            on_progress(int(size), int(sizes[-1]))
    return faults


def _recording(source: Path, copy: Path) -> Recording:
    if copy.resolve() == source.resolve():
        raise DataError(f"{source} would be replaced by its own copy. Name another OUT_DIR.")
    found = source.stat()
    return Recording(source=source, copy=copy, num_bytes=found.st_size, mtime_ns=found.st_mtime_ns)


def _name(recording: Recording, output: Path) -> str:
    return recording.copy.relative_to(output).as_posix()


def _read_notes(notes: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The target that a folder was begun with, and what was noted of each copy, by its name."""
    first, *lines = notes.read_text(encoding="utf-8").splitlines() or [""]
    begun = _parse(first)
    if begun.keys() != Target.__dataclass_fields__.keys():
        raise DataError(f"{notes}:1: does not say how the copies were made. Remove their folder.")
    # A job that was killed may have written half of a line.
    noted = (line for line in map(_parse, lines) if line)
    return begun, {line["copy"]: line for line in noted}


def _parse(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_done(recording: Recording, note: dict[str, Any] | None) -> bool:
    return note is not None and recording.copy.is_file() and note == _note(recording, note["copy"])


def _note(recording: Recording, name: str) -> dict[str, Any]:
    return {
        "copy": name,
        "copy_bytes": recording.copy.stat().st_size,
        "source_bytes": recording.num_bytes,
        "source_mtime_ns": recording.mtime_ns,
    }


@contextmanager
def _open_notes(output: Path, target: Target) -> Iterator[None]:
    """Begin the notes where there are none, and keep other jobs out of the folder meanwhile."""
    notes = notes_path(output)
    if not notes.exists():
        output.mkdir(parents=True, exist_ok=True)
        unfinished = notes.with_name(f"{notes.name}.unfinished")
        unfinished.write_text(f"{json.dumps(asdict(target))}\n", encoding="utf-8")
        unfinished.replace(notes)
    with notes.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{output}: another job is writing there. Wait for its end.") from None
        # Ends a line that a job could not.
        file.write("\n")
        file.flush()
        yield


def _encode(recording: Recording, *, output: Path, target: Target) -> str | None:
    """Make and note one copy; the sentence that says why there is none, or None."""
    recording.copy.parent.mkdir(parents=True, exist_ok=True)
    # Of what the source was before it changed.
    recording.copy.unlink(missing_ok=True)
    unfinished = recording.copy.with_name(f"{recording.copy.name}.unfinished")
    try:
        encode_video(recording.source, unfinished, target)
        unfinished.replace(recording.copy)
    except DataError as error:
        return str(error)
    finally:
        unfinished.unlink(missing_ok=True)
    # Here and not where results arrive: there, one that takes long holds up those behind it.
    with notes_path(output).open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(_note(recording, _name(recording, output)))}\n")
    return None
