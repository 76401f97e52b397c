"""A split ready for training or decoding: its samples, where their videos are, and their tokens."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fla.data.decode.video import read_duration_s
from fla.data.frame_folder import is_frame_folder, list_frames
from fla.data.manifest import Sample, check_manifest, deal_videos_at_random, read_manifest
from fla.errors import DataError
from fla.text.codec import TextCodec

# What a header may round off, in seconds.
SLACK_S = 0.5


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

    Raises:
        DataError: The manifest, a sentence or a video is not what it should be.
    """
    path = Path(manifest_dir) / f"{name}.tsv"
    manifest = read_manifest(path, video_root=video_root)
    check_manifest(manifest)
    samples = manifest.samples
    _check_ranges(path, samples, manifest.root)
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


def _check_ranges(manifest: Path, samples: Sequence[Sample], root: Path) -> None:
    """Open every recording once, before any GPU is taken; reading its frames would take hours."""
    fps = {sample.video: sample.fps for sample in samples}

    def duration_s(video: str) -> float:
        path = root / video
        if is_frame_folder(path):
            return len(list_frames(path)) / fps[video]
        return read_duration_s(path)

    with ThreadPoolExecutor(8) as pool:
        durations = dict(zip(fps, pool.map(duration_s, fps), strict=True))
    for sample in samples:
        if sample.end_s > durations[sample.video] + SLACK_S:
            raise DataError(
                f"{manifest}: sample {sample.id}: end_s ({sample.end_s:g}) is past the end of "
                f"{sample.video}, which lasts {durations[sample.video]:g} s. Import the data "
                "again, or remove the row."
            )
