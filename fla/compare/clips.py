"""The clips of the sentences that a report shows, as many as fit into it."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fla.compare.records import RunRecord
from fla.data.decode.playable import make_playable
from fla.data.frame_folder import is_frame_folder
from fla.data.manifest import Manifest, Sample, read_manifest
from fla.errors import DataError

MAX_REPORT_MB = 12
"""Most that the clips of a report take, in 10^6 bytes, so that it can be sent by mail."""
SHORT_SIDE_PX = 256
MAX_AS_IS_BYTES = 400_000
MAX_CLIP_S = 60
"""Longer clips are left out."""


@dataclass(frozen=True, kw_only=True)
class Clips:
    """What a report has to play."""

    urls: Mapping[str, str]
    """Address that holds the whole clip, by sample id."""
    notes: tuple[str, ...]
    """What is missing and why, a sentence each."""


def find_manifest(
    records: Sequence[RunRecord], *, split: str, ids: Iterable[str]
) -> Manifest | None:
    """The manifest of the samples, where this machine has it; None: it has not."""
    wanted = set(ids)
    for folder in dict.fromkeys(folder for record in records for folder in record.manifest_dirs):
        path = folder / f"{split}.tsv"
        if not path.is_file():
            continue
        root = _video_root(records)
        manifest = read_manifest(path, video_root=root)
        # Another corpus may lie in a folder of the same name.
        if wanted <= {sample.id for sample in manifest.samples}:
            return manifest
    return None


def gather_clips(manifest: Manifest | None, ids: Sequence[str]) -> Clips:
    """Encode the clips of some samples.

    Args:
        manifest: Has the samples; None: this machine has none.
        ids: The most important first: what comes last is left out where there is no room.
    """
    if manifest is None:
        return Clips(
            urls={},
            notes=(
                "There are no clips here: the manifest of these samples is not on the machine that "
                "made this report.",
            ),
        )
    samples = {sample.id: sample for sample in manifest.samples}
    urls: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    room = MAX_REPORT_MB * 1_000_000
    for sample_id in ids:
        url, reason = _encode(manifest.root, samples[sample_id])
        if len(url) > room:
            url, reason = "", f"all clips of a report take at most {MAX_REPORT_MB} MB"
        if not url:
            missing.setdefault(reason, []).append(sample_id)
            continue
        room -= len(url)
        urls[sample_id] = url
    return Clips(urls=urls, notes=tuple(_tell(r, some, len(ids)) for r, some in missing.items()))


def _encode(root: Path, sample: Sample) -> tuple[str, str]:
    """The address that holds a clip, or an empty one and why."""
    path = root / sample.video
    if not path.exists() and not is_frame_folder(path):
        return "", "their recordings are not on this machine"
    if sample.end_s - sample.start_s > MAX_CLIP_S:
        return "", f"they are longer than {MAX_CLIP_S} s"
    try:
        clip = make_playable(
            root, sample, short_side_px=SHORT_SIDE_PX, max_as_is_bytes=MAX_AS_IS_BYTES
        )
    except DataError:
        return "", "they do not decode"
    return f"data:video/mp4;base64,{b64encode(clip).decode()}", ""


def _video_root(records: Sequence[RunRecord]) -> str:
    """The folder of the recordings where a run's settings name one that is here."""
    named = (record.config.get("data.video_root", "") for record in records)
    return next((root for root in named if root and Path(root).is_dir()), "")


def _tell(reason: str, ids: Sequence[str], num_clips: int) -> str:
    if len(ids) == num_clips:
        return f"There are no clips here: {reason}."
    return f"{len(ids)} of {num_clips} clips are left out, because {reason}: {', '.join(ids)}."
