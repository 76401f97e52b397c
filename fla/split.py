"""A split ready for training or decoding: its samples, where their videos are, and their tokens."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fla.data.decode.video import VideoFormat, read_format
from fla.data.frame_folder import is_frame_folder, list_frames
from fla.data.manifest import Sample, check_manifest, deal_videos_at_random, read_manifest
from fla.data.pipeline import Decoder, choose_decoder
from fla.errors import DataError
from fla.text.codec import TextCodec

log = logging.getLogger(__name__)

# What a header may round off, in seconds.
SLACK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class _Recording:
    format: VideoFormat | None
    """None: a folder of images."""
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Split:
    """The samples of train, dev or test."""

    name: str
    samples: tuple[Sample, ...]
    root: Path
    """Folder that the samples' videos are relative to."""
    token_ids: Sequence[Sequence[int]]
    """Target sentence of each sample, `tokens </s> language`."""
    manifest: Path
    manifest_sha256: str

    @property
    def ids(self) -> list[str]:
        """Sample ids in the manifest's order."""
        return [sample.id for sample in self.samples]


def read_split(
    name: str,
    *,
    manifest_dir: str,
    video_root: str,
    codec: TextCodec,
    max_tokens: int,
    shuffle_videos: bool,
    seed: int,
    decode_device: Literal["mixed", "cpu"],
) -> Split:
    """Read and check one split, and turn its sentences into tokens.

    Args:
        name: train, dev or test.
        manifest_dir: Folder with `NAME.tsv`.
        video_root: Overrides the folder that the manifest names, unless empty.
        codec: Of the model that will read or write the sentences.
        max_tokens: Longest target sentence.
        shuffle_videos: Deal the videos to other sentences: the signing-blind control.
        seed: Of that deal.
        decode_device: DALI's decoder; the log says how many clips it can and cannot decode.

    Raises:
        DataError: The manifest, a sentence or a video is not what it should be.
    """
    path = Path(manifest_dir) / f"{name}.tsv"
    manifest = read_manifest(path, video_root=video_root)
    check_manifest(manifest)
    samples = manifest.samples
    videos = _open_recordings(samples, manifest.root)
    _check_ranges(path, samples, videos)
    decoders = Counter(choose_decoder(videos[s.video].format, decode_device) for s in samples)
    log.info("%s", describe_decoders(name, decoders))
    if shuffle_videos:
        samples = deal_videos_at_random(samples, seed=seed)
    return Split(
        name=name,
        samples=samples,
        root=manifest.root,
        token_ids=codec.encode([sample.sentence for sample in samples], max_tokens=max_tokens),
        manifest=path,
        manifest_sha256=manifest.sha256,
    )


def describe_decoders(name: str, decoders: Mapping[Decoder, int]) -> str:
    """A line that says how many clips of a split go which way."""
    ways: dict[Decoder, str] = {
        "dali": "decoded by DALI",
        "software": "decoded in software",
        "images": "that lie as images, decoded in software",
    }
    counts = ", ".join(f"{decoders[way]} {words}" for way, words in ways.items() if decoders[way])
    return f"{name}: {sum(decoders.values())} clips: {counts}."


def _open_recordings(samples: Sequence[Sample], root: Path) -> dict[str, _Recording]:
    """Open every recording once, before any GPU is taken; reading its frames would take hours."""
    fps = {sample.video: sample.fps for sample in samples}

    def open_one(video: str) -> _Recording:
        path = root / video
        if is_frame_folder(path):
            return _Recording(format=None, duration_s=len(list_frames(path)) / fps[video])
        format_ = read_format(path)
        return _Recording(format=format_, duration_s=format_.duration_s)

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(fps, pool.map(open_one, fps), strict=True))


def _check_ranges(
    manifest: Path, samples: Sequence[Sample], videos: Mapping[str, _Recording]
) -> None:
    for sample in samples:
        if sample.end_s > videos[sample.video].duration_s + SLACK_S:
            raise DataError(
                f"{manifest}: sample {sample.id}: end_s ({sample.end_s:g}) is past the end of "
                f"{sample.video}, which lasts {videos[sample.video].duration_s:g} s. Import the "
                "data again, or remove the row."
            )
