"""One raw recording: who signs which sentences, drawn and written as an H.264 file."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from .body import BACKGROUNDS, SIGNERS, Camera, Stage
from .language import Sentence
from .timeline import Timeline, build_timeline, poses_at

FRAME_RATES = (Fraction(12), Fraction(25, 2), Fraction(15))
ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


@dataclass(frozen=True)
class Row:
    """One row of the annotation file; the fields are its columns, in their order."""

    video_id: str
    video_name: str
    sentence_id: str
    sentence_name: str
    start: str
    end: str
    sentence: str


@dataclass(frozen=True)
class Recording:
    """Everything that decides how one raw recording looks."""

    video_id: str
    signer: int
    camera: Camera
    background: int
    frame_rate: Fraction
    timeline: Timeline
    rows: tuple[Row, ...]
    noise_seed: int

    @property
    def video_name(self) -> str:
        return f"{self.video_id}-{self.signer}-rgb_front"

    @property
    def num_frames(self) -> int:
        return int(self.timeline.end_s * self.frame_rate)


def draw_id(rng: np.random.Generator) -> str:
    """An id like YouTube's, every fourth with the leading hyphen that trips command lines."""
    letters = "".join(ID_LETTERS[i] for i in rng.integers(len(ID_LETTERS), size=11))
    return f"-{letters[1:]}" if rng.random() < 0.25 else letters


def plan_recording(sentences: tuple[Sentence, ...], *, seed: tuple[int, ...]) -> Recording:
    """Draw signer, camera, speed and time line of one recording.

    Args:
        sentences: What is signed, in this order.
        seed: Decides everything else.
    """
    rng = np.random.default_rng(seed)
    video_id, signer = draw_id(rng), int(rng.integers(len(SIGNERS)))
    camera = Camera(
        zoom=rng.uniform(0.86, 0.94),
        shift_x=rng.uniform(-0.025, 0.025),
        shift_y=rng.uniform(-0.02, 0.02),
        brightness=rng.uniform(0.85, 1.1),
        noise=rng.uniform(0.0, 4.0),
    )
    timeline = build_timeline(
        tuple(s.signs for s in sentences), speed=rng.uniform(0.88, 1.15), rng=rng
    )
    recording = Recording(
        video_id=video_id,
        signer=signer,
        camera=camera,
        background=int(rng.integers(len(BACKGROUNDS))),
        frame_rate=FRAME_RATES[int(rng.integers(len(FRAME_RATES)))],
        timeline=timeline,
        rows=(),
        noise_seed=int(rng.integers(2**31)),
    )
    return Recording(**{**vars(recording), "rows": annotate(recording, sentences, rng)})


def annotate(
    recording: Recording, sentences: tuple[Sentence, ...], rng: np.random.Generator
) -> tuple[Row, ...]:
    """Stamp each sentence as people do: a bit early, a bit late, so that neighbours overlap."""
    rows = []
    for span in recording.timeline.sentences:
        start = max(0.0, span.start_s - rng.uniform(-0.05, 0.25))
        end = min(recording.timeline.end_s, span.end_s + rng.uniform(-0.03, 0.25))
        sentence_id = f"{recording.video_id}_{span.number}"
        rows.append(
            Row(
                recording.video_id,
                recording.video_name,
                sentence_id,
                f"{sentence_id}-{recording.signer}-rgb_front",
                f"{start:.2f}",
                f"{end:.2f}",
                sentences[span.number].english,
            )
        )
    return tuple(rows)


def draw_frames(recording: Recording, *, size_px: int) -> NDArray[np.uint8]:
    """All frames of a recording, `(F, size_px, size_px, 3)` RGB."""
    stage = Stage(
        signer=SIGNERS[recording.signer],
        camera=recording.camera,
        background=recording.background,
        size_px=size_px,
    )
    times = np.arange(recording.num_frames) / float(recording.frame_rate)
    frames = np.stack([stage.draw(pose) for pose in poses_at(recording.timeline, times)])
    rng = np.random.default_rng(recording.noise_seed)
    # One field of noise, moved every frame: drawing fresh noise costs more than the signer.
    field = rng.normal(0.0, recording.camera.noise, (2 * size_px, 2 * size_px, 1)).astype(np.int16)
    for frame in frames:
        y, x = rng.integers(size_px, size=2)
        frame[:] = (frame + field[y : y + size_px, x : x + size_px]).clip(0, 255)
    return frames


def write_recording(recording: Recording, folder: Path, *, size_px: int) -> int:
    """Draw a recording and write `folder/VIDEO_NAME.mp4`; returns its number of frames."""
    frames = draw_frames(recording, size_px=size_px)
    path = folder / f"{recording.video_name}.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=recording.frame_rate)
        stream.width = stream.height = size_px
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        keyframe_interval = round(1.5 * recording.frame_rate)
        stream.options = {
            "preset": "veryfast", "crf": "20", "bf": "2", "g": str(keyframe_interval),
            # With AVX-512, x264's macroblock tree gives other bits from run to run, even on one
            # thread: 12 different files of one recording in 40 runs at 96 px, one without it.
            "x264-params": "mbtree=0",
        }  # fmt: skip
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return len(frames)
