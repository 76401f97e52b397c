"""Recordings, manifests and tokenizers to check with: generated, and kept in a folder.

Nothing is downloaded. Recordings of signing are those of the benchmarks; small ones carry the
number of each frame, which tells who decoded another frame than was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fla.data.decode.video import probe_video
from fla.data.manifest import Sample, write_manifest
from fla.text.codec import train_codec
from tests.benchmarks.material import make_recordings, make_small_copies
from tests.gpu.setting import Setting
from tests.helpers.videos import write_video

SEED = 1
FRAME_STRIDE = 4
"""One frame in so many is taken, as in the paper."""
LANGUAGE = "en_XX"

_BT709, _FULL_RANGE = 1, 2
_NUM_DEV = 4
_NUM_SENTENCES = 8
_WORDS = (
    "after before mother teacher garden window reads gives walks never always blue small river "
    "bread horse evening letter music table slowly where because friend answers begins"
).split()


@dataclass(frozen=True, kw_only=True)
class NumberedVideo:
    """A small recording of numbered frames, and a range of it."""

    name: str
    width: int
    height: int
    fps: int
    num_frames: int
    first_frame: int
    """Of the range, which ends ten frames before the recording."""
    full_range: bool = False
    bt709: bool = False
    full_color: bool = False
    """A color for every pixel, which is decoded in software wherever it is."""

    @property
    def pixel_format(self) -> str | None:
        """FFmpeg's name; None: the usual one."""
        if self.full_color:
            return "yuv444p"
        return "yuvj420p" if self.full_range else None

    @property
    def range_frames(self) -> int:
        """Frames of the range."""
        return self.num_frames - 10 - self.first_frame


# Sides that are no multiple of 16, the unit that H.264 stores, are cut off by decoders.
NUMBERED = (
    NumberedVideo(name="64x64", width=64, height=64, fps=15, num_frames=40, first_frame=0),
    NumberedVideo(name="260x210", width=260, height=210, fps=25, num_frames=100, first_frame=37),
    NumberedVideo(name="426x238", width=426, height=238, fps=30, num_frames=120, first_frame=61),
    NumberedVideo(name="854x480", width=854, height=480, fps=60, num_frames=80, first_frame=29),
    NumberedVideo(name="1280x720", width=1280, height=720, fps=24, num_frames=70, first_frame=31),
    NumberedVideo(
        name="full_range", width=128, height=96, fps=25, num_frames=60, first_frame=10,
        full_range=True,
    ),
    NumberedVideo(
        name="bt709", width=128, height=96, fps=25, num_frames=60, first_frame=10, bt709=True
    ),
    NumberedVideo(
        name="full_color", width=128, height=96, fps=25, num_frames=60, first_frame=10,
        full_color=True,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Recordings of signing."""

    root: Path
    large: tuple[str, ...]
    """Names of those of 720p; in a rehearsal they are small."""
    small: tuple[str, ...]
    """Copies of them with a short side of 256 pixels, as tools/transcode.py makes them."""


def make_numbered(setting: Setting) -> tuple[Path, list[Sample]]:
    """Write `NUMBERED`, each once; gives their folder and a clip of each."""
    root = setting.folder / "numbered"
    root.mkdir(parents=True, exist_ok=True)
    for video in NUMBERED:
        path = root / f"{video.name}.mp4"
        if path.exists():
            continue
        unfinished = root / f"unfinished_{path.name}"
        write_video(
            unfinished,
            num_frames=video.num_frames,
            size=video.width,
            height=video.height,
            fps=video.fps,
            pixel_format=video.pixel_format,
            color_range=_FULL_RANGE if video.full_range else None,
            colorspace=_BT709 if video.bt709 else None,
        )
        unfinished.rename(path)
    return root, [
        _clip(
            video.name, f"{video.name}.mp4", fps=video.fps, first=video.first_frame,
            num_frames=video.range_frames, sentence=video.name,
        )
        for video in NUMBERED
    ]  # fmt: skip


def make_signing(setting: Setting) -> Recordings:
    """Recordings of signing and their small copies, where they are still to be made."""
    root = setting.folder / "recordings"
    if setting.sizes.recording_s:
        large = make_recordings(root, seconds=setting.sizes.recording_s)
    else:
        root.mkdir(parents=True, exist_ok=True)
        large = [
            write_video(root / f"numbered_{fps}fps.mp4", num_frames=60, size=96, fps=fps)
            for fps in (24, 30)
        ]
    return Recordings(
        root=root,
        large=tuple(path.name for path in large),
        small=tuple(path.name for path in make_small_copies(root, large)),
    )


def draw_clips(
    setting: Setting, recordings: Recordings, names: Sequence[str], *, num_clips: int
) -> list[Sample]:
    """Clips anywhere in the recordings, each of as many frames as training takes of one."""
    rng = np.random.default_rng(SEED)
    num_frames = setting.sizes.max_frames * FRAME_STRIDE
    sentences = write_sentences(num_words=setting.sizes.num_words)
    infos = {name: probe_video(recordings.root / name) for name in names}
    clips = []
    for number in range(num_clips):
        name = names[number % len(names)]
        first = int(rng.integers(len(infos[name].frame_times) - num_frames))
        sentence = sentences[number % len(sentences)]
        clips.append(
            _clip(
                f"clip_{number}", name, fps=infos[name].fps, first=first, num_frames=num_frames,
                sentence=sentence,
            )
        )  # fmt: skip
    return clips


def make_manifests(
    setting: Setting, recordings: Recordings, names: Sequence[str], *, num_train: int
) -> Path:
    """A corpus whose one epoch is the whole training, so that none ends while it is timed."""
    folder = setting.folder / "manifests" / f"{Path(names[0]).stem}_{num_train}"
    clips = draw_clips(setting, recordings, names, num_clips=num_train + 2 * _NUM_DEV)
    ends = (num_train, num_train + _NUM_DEV, len(clips))
    for split, begin, end in zip(("train", "dev", "test"), (0, *ends), ends, strict=False):
        write_manifest(folder / f"{split}.tsv", clips[begin:end], root=recordings.root)
    return folder


def make_tokenizer(setting: Setting) -> Path:
    """A small tokenizer for stage 1."""
    folder = setting.folder / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    sentences = write_sentences(num_words=setting.sizes.num_words)
    train_codec(sentences, max_pieces=200, language=LANGUAGE).save(folder)
    return folder


def write_sentences(*, num_words: int) -> list[str]:
    """A few sentences, over and over the same, so that a loss falls within some steps."""
    rng = np.random.default_rng(SEED)
    return [" ".join(rng.choice(_WORDS, num_words)) for _ in range(_NUM_SENTENCES)]


def _clip(id: str, video: str, *, fps: float, first: int, num_frames: int, sentence: str) -> Sample:
    # Half a frame around, so that no rounding moves a frame in or out.
    return Sample(
        id=id,
        video=video,
        start_s=max(0.0, (first - 0.5) / fps),
        end_s=(first + num_frames - 0.5) / fps,
        fps=fps,
        num_frames=num_frames,
        signer="",
        sentence=sentence,
    )
