"""A split ready for training or decoding: its samples, where their videos are, and their tokens."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fla.data.decode.images import read_image_size
from fla.data.decode.video import VideoFormat, read_format
from fla.data.frame_folder import is_frame_folder, list_frames
from fla.data.manifest import (
    MAX_SENTENCES,
    Manifest,
    Sample,
    check_manifest,
    deal_videos_at_random,
    read_manifest,
)
from fla.data.pipeline import Decoder, choose_decoder
from fla.data.typical import TypicalClips, summarize_clips
from fla.errors import DataError
from fla.runtime import Runtime, ask_main
from fla.text.codec import TextCodec

log = logging.getLogger(__name__)

# What a header may round off, in seconds.
SLACK_S = 0.5

# In so many, an image is looked at for its shape.
MAX_IMAGE_FOLDERS = 64


@dataclass(frozen=True, kw_only=True)
class _Recording:
    format: VideoFormat | None
    """None: a folder of images."""
    duration_s: float
    aspect: float | None
    """Width over height as it is shown; None: nobody has looked."""

    @property
    def kind(self) -> str:
        """Codec and pixel format."""
        if self.format is None:
            return "images"
        return f"{self.format.codec} {self.format.pixel_format}"


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """What the headers of a split's recordings say."""

    kinds: dict[tuple[str, Decoder], int]
    """Clips by what their recordings are and who decodes them."""
    full_frame_px: int
    typical: TypicalClips | None


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
    full_frame_px: int
    """Pixels of the largest frame that DALI decodes at full size in host memory; 0: none."""
    typical: TypicalClips | None = None
    """What its clips have in common; None: nobody has looked."""

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
    skips_damaged: bool,
    runtime: Runtime,
) -> Split:
    """Read and check one split, and turn its sentences into tokens; every rank calls it.

    Rank 0 alone looks at the videos: on many nodes they lie on one network disk.

    Args:
        name: train, dev or test.
        manifest_dir: Folder with `NAME.tsv`.
        video_root: Overrides the folder that the manifest names, unless empty.
        codec: Of the model that will read or write the sentences.
        max_tokens: Longest target sentence.
        shuffle_videos: Deal the videos to other sentences: the signing-blind control.
        seed: Of that deal.
        skips_damaged: Whether recordings that do not open, or are shorter than their clips, are
            left to the loader, which leaves those clips out and counts them.
        runtime: Of this rank; the log says how many clips its device decodes and how many not.

    Raises:
        DataError: The manifest, a sentence or a video is not what it should be.
    """
    path = Path(manifest_dir) / f"{name}.tsv"
    manifest = read_manifest(path, video_root=video_root)
    survey = ask_main(runtime, partial(_survey, manifest, runtime.decode_device, skips_damaged))
    for line in describe_decoders(name, survey.kinds):
        log.info("%s", line)
    samples = manifest.samples
    if shuffle_videos:
        samples = deal_videos_at_random(samples, seed=seed)
    return Split(
        name=name,
        samples=samples,
        root=manifest.root,
        token_ids=_encode(codec, path, samples, max_tokens=max_tokens),
        manifest=path,
        manifest_sha256=manifest.sha256,
        full_frame_px=survey.full_frame_px,
        typical=survey.typical,
    )


def _encode(
    codec: TextCodec, path: Path, samples: Sequence[Sample], *, max_tokens: int
) -> list[list[int]]:
    """Tokens of each sample; an error names the manifest and the sample."""
    sentences = [sample.sentence for sample in samples]
    try:
        return codec.encode(sentences, max_tokens=max_tokens)
    except DataError as error:
        for sample in samples:
            try:
                codec.encode([sample.sentence], max_tokens=max_tokens)
            except DataError as one:
                raise DataError(f"{path}, sample {sample.id}: {one}") from error
        raise


def describe_decoders(name: str, kinds: Mapping[tuple[str, Decoder], int]) -> list[str]:
    """Lines that say how many clips of a split go which way, the most frequent kind first.

    Args:
        name: Of the split.
        kinds: Clips by what their recordings are, such as "h264 yuv420p", and who decodes them.
    """
    ways: dict[Decoder, str] = {
        "dali": "decoded by DALI",
        "software": "decoded in software",
        "images": "decoded in software",
    }
    rows = sorted(kinds.items(), key=lambda row: (-row[1], row[0]))
    return [f"{name}: {count} clips of {kind}: {ways[way]}." for (kind, way), count in rows]


def _survey(
    manifest: Manifest, decode_device: Literal["mixed", "cpu"], skips_damaged: bool
) -> _Survey:
    check_manifest(manifest)
    opened = _open_recordings(manifest.samples, manifest.root)
    faults = {name: video for name, video in opened.items() if isinstance(video, DataError)}
    if faults and not skips_damaged:
        raise DataError("\n".join(_describe_faults(manifest, faults)))
    videos = {name: video for name, video in opened.items() if isinstance(video, _Recording)}
    samples = [sample for sample in manifest.samples if sample.video in videos]
    if not skips_damaged:
        _check_ranges(manifest.path, samples, videos)
    way = {name: choose_decoder(video.format, decode_device) for name, video in videos.items()}
    on_host = [
        video.format.width * video.format.height
        for name, video in videos.items()
        if video.format is not None and way[name] == "dali" and decode_device == "cpu"
    ]
    aspects = [video.aspect for video in videos.values() if video.aspect is not None]
    return _Survey(
        kinds=dict(Counter((videos[s.video].kind, way[s.video]) for s in samples)),
        full_frame_px=max(on_host, default=0),
        typical=summarize_clips(manifest.samples, aspects=aspects) if aspects else None,
    )


def _describe_faults(manifest: Manifest, faults: Mapping[str, DataError]) -> Iterator[str]:
    """A sentence for each of the first recordings, with a sample that it is of."""
    sample_ids = {sample.video: sample.id for sample in reversed(manifest.samples)}
    for video, fault in list(faults.items())[:MAX_SENTENCES]:
        yield f"{manifest.path}: sample {sample_ids[video]}: {fault}"
    if len(faults) > MAX_SENTENCES:
        yield f"{len(faults) - MAX_SENTENCES} more recordings do not open."


def _open_recordings(samples: Sequence[Sample], root: Path) -> dict[str, _Recording | DataError]:
    """Open every recording once, before any GPU is taken; reading its frames would take hours."""
    fps = {sample.video: sample.fps for sample in samples}
    # Evenly spread; to open an image of each folder would take as long as to list the folders.
    looked_at = set(list(fps)[:: -(-len(fps) // MAX_IMAGE_FOLDERS)])

    def open_one(video: str) -> _Recording | DataError:
        try:
            return look_at(video)
        except DataError as error:
            return error

    def look_at(video: str) -> _Recording:
        path = root / video
        if is_frame_folder(path):
            return _Recording(
                format=None,
                duration_s=len(list_frames(path)) / fps[video],
                aspect=_image_aspect(path) if video in looked_at else None,
            )
        format_ = read_format(path)
        return _Recording(format=format_, duration_s=format_.duration_s, aspect=format_.aspect)

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(fps, pool.map(open_one, fps), strict=True))


def _image_aspect(path: Path) -> float | None:
    try:
        width, height = read_image_size(path)
    except DataError:
        # Whether what does not decode ends a run is decided where its clip is decoded.
        return None
    return width / height


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
