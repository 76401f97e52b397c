"""Find the clips of a manifest that do not decode, before a training run meets them.

Every frame of every clip is decoded in software, on all cores. What has been decoded is noted
beside the manifest, so a check that was stopped goes on; clips that failed, and those whose
recording has changed, are tried again.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from fla.data.decode.images import read_image_frames
from fla.data.decode.video import read_frames
from fla.data.frame_folder import is_frame_folder
from fla.data.manifest import Manifest, Sample
from fla.data.processes import map_on_all_cores
from fla.data.stamps import stamp_recordings
from fla.errors import DataError

# Frames are converted as for training, but nobody looks at them.
_SIDE_PX = 32
_CLIPS_AT_ONCE = 8


def find_bad_clips(manifest: Manifest, *, on_progress: Callable[[int, int], None]) -> list[str]:
    """Decode every clip of a manifest that has not been decoded before.

    Args:
        manifest: One that `check_manifest` has accepted.
        on_progress: Called with clips decoded so far, earlier checks included, and their total.

    Returns:
        A sentence for each clip that does not decode, in the manifest's order.

    Raises:
        OSError: The notes beside the manifest cannot be written.
    """
    notes = notes_path(manifest.path)
    # The videos may have been moved, or encoded anew elsewhere, for the same manifest.
    what = f"{manifest.sha256} {manifest.root}"
    good = _read_notes(notes, what)
    stamps = stamp_recordings((sample.video for sample in manifest.samples), manifest.root)
    waiting = [sample for sample in manifest.samples if good.get(sample.id) != stamps[sample.video]]
    done, total = len(manifest.samples) - len(waiting), len(manifest.samples)
    on_progress(done, total)
    bad: list[str] = []
    _write_notes(notes, what, good)
    decode = partial(_decode, root=manifest.root)
    with (
        notes.open("a", encoding="utf-8") as file,
        closing(map_on_all_cores(decode, waiting, at_once=_CLIPS_AT_ONCE)) as faults,
    ):
        for sample, fault in zip(waiting, faults, strict=True):
            done += 1
            if fault is None:
                file.write(f"{json.dumps([sample.id, stamps[sample.video]])}\n")
                file.flush()
            else:
                bad.append(fault)
            on_progress(done, total)
    return bad


def notes_path(manifest: Path) -> Path:
    """Where clips that decode are noted: manifest and root first, then id and stamp a line."""
    return manifest.with_name(f"{manifest.name}.checked")


def _read_notes(path: Path, what: str) -> dict[str, str]:
    """Ids that decoded, if manifest and root are still the same, and the recordings' stamps."""
    if not path.is_file():
        return {}
    first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if first != what:
        return {}
    good: dict[str, str] = {}
    for line in lines:
        try:
            id_, stamp = json.loads(line)
        except ValueError:
            # A check that was killed may have written half of its last line.
            continue
        good[id_] = stamp
    return good


def _write_notes(path: Path, what: str, good: Mapping[str, str]) -> None:
    # Whole lines again, also where the last one was cut.
    lines = [what, *map(json.dumps, sorted(good.items()))]
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    unfinished.replace(path)


def _decode(sample: Sample, *, root: Path) -> str | None:
    """Decode a clip; the sentence that says why it does not, or None."""
    path = root / sample.video
    is_folder = is_frame_folder(path)
    read = partial(read_image_frames, fps=sample.fps) if is_folder else read_frames
    try:
        read(
            path,
            start_s=sample.start_s,
            end_s=sample.end_s,
            num_frames=sample.num_frames,
            frame_numbers=np.arange(sample.num_frames, dtype=np.int32),
            height=_SIDE_PX,
            width=_SIDE_PX,
        )
    except DataError as error:
        return f"{sample.id}: {error}"
    return None
