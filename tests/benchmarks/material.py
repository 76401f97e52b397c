"""Recordings that cost a decoder what those of signers cost it: made once, then kept in a folder.

A figure signs in front of a textured wall, under grain. Nothing is downloaded, and the seed fixes
every frame.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fla.data.decode.encode import ENCODERS, Target, encode_video

SEED = 1
SECONDS = 80
FRAME_RATES = (24, 25, 30)
"""One recording each, 1280x720."""
PNG_FPS = 25
PNG_SIZE = (210, 260)
"""Width and height of PHOENIX14T's frames, in pixels."""
PNG_LENGTHS = (60, 90, 120, 150)
"""Frames of each folder; PHOENIX14T's sentences have 116 on average."""

_GRAIN_SIGMA = 2.0
_NUM_GRAINS = 8


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A range of a recording, or all images of a folder."""

    path: Path
    fps: float
    first_frame: int
    num_frames: int

    @property
    def start_s(self) -> float:
        """Half a frame before the first, so that no rounding moves a frame in or out."""
        return max(0.0, (self.first_frame - 0.5) / self.fps)

    @property
    def end_s(self) -> float:
        """Half a frame after the last."""
        return (self.first_frame + self.num_frames - 0.5) / self.fps


def make_recordings(folder: Path, *, seconds: int = SECONDS) -> list[Path]:
    """Long recordings as they come from the web: H.264, crf 21, a key frame every 250, B-frames."""
    return [
        _once(
            folder / f"signer_{fps}fps.mp4",
            lambda path, fps=fps: _record(path, fps=fps, seconds=seconds),
        )
        for fps in FRAME_RATES
    ]


def make_small_copies(folder: Path, recordings: list[Path]) -> list[Path]:
    """The same recordings as tools/transcode.py copies them."""
    target = Target(codec="h264", crf=ENCODERS["h264"].crf, short_side_px=256, key_frame_every=12)
    return [
        _once(
            folder / f"copy_of_{source.name}",
            lambda path, source=source: encode_video(source, path, target),
        )
        for source in recordings
    ]


def make_png_folders(folder: Path) -> list[Path]:
    """Folders of PNG images in PHOENIX14T's size."""
    return [
        _once(
            folder / f"png_{number}",
            lambda path, number=number, length=length: _draw_images(
                path, seed=number, num_frames=length
            ),
        )
        for number, length in enumerate(PNG_LENGTHS)
    ]


def draw_clips(recordings: list[Path], *, num_clips: int, seconds: int = SECONDS) -> list[Clip]:
    """Sentences of 3 to 10 seconds anywhere in the recordings."""
    rng = np.random.default_rng(SEED)
    clips = []
    for number in range(num_clips):
        turn = number % len(recordings)
        fps = FRAME_RATES[turn]
        num_frames = round(rng.uniform(3, 10) * fps)
        first = int(rng.integers(seconds * fps - num_frames))
        clips.append(Clip(path=recordings[turn], fps=fps, first_frame=first, num_frames=num_frames))
    return clips


def whole_folders(folders: list[Path]) -> list[Clip]:
    """Every folder as one clip."""
    return [
        Clip(path=path, fps=PNG_FPS, first_frame=0, num_frames=length)
        for path, length in zip(folders, PNG_LENGTHS, strict=True)
    ]


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    """Make what is missing, beside its place, so that what is cut short is made again."""
    if path.exists():
        return path
    print(f"making {path}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished_{path.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    make(unfinished)
    return unfinished.rename(path)


def _record(path: Path, *, fps: int, seconds: int) -> None:
    frames = _signer(1280, 720, seed=fps, fps=fps, seconds=seconds)
    # x264's own choices else: 250 frames between key frames, 3 B-frames in a row.
    _encode(path, frames, fps=fps, options={"crf": "21"})


def _encode(
    path: Path, frames: Iterator[av.VideoFrame], *, fps: int, options: dict[str, str]
) -> None:
    with av.open(path, "w", format="mp4") as output:
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = output.add_stream("libx264", rate=fps, options=options)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
            frame.pts, frame.time_base = number, Fraction(1, fps)
            # The encoder is to choose its own key frames, not to repeat the source's.
            frame.pict_type = 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def _draw_images(path: Path, *, seed: int, num_frames: int) -> None:
    path.mkdir()
    frames = _signer(*PNG_SIZE, seed=100 + seed, fps=PNG_FPS, seconds=num_frames / PNG_FPS)
    for number, frame in enumerate(frames):
        Image.fromarray(frame.to_ndarray(format="rgb24")).save(path / f"images{number:04d}.png")


def _signer(
    width: int, height: int, *, seed: int, fps: int, seconds: float
) -> Iterator[av.VideoFrame]:
    """A figure whose arms and head move on smooth paths, never twice the same."""
    rng = np.random.default_rng([SEED, seed])
    wall = _wall(width, height, rng)
    grains = rng.normal(0, _GRAIN_SIGMA, (_NUM_GRAINS, height, width)).round().astype(np.int16)
    rates, phases = rng.uniform(0.15, 1.1, (6, 3)), rng.uniform(0, 2 * np.pi, (6, 3))
    for number in range(round(seconds * fps)):
        # Six coordinates between -1 and 1: head, left hand, right hand.
        move = np.sin(2 * np.pi * rates * number / fps + phases).mean(axis=1)
        picture = [plane.copy() for plane in wall]
        for shape in _body(move):
            _paint(picture, *shape)
        luma = picture[0]
        # The same grain elsewhere is new grain to an encoder, and drawn in no time.
        luma += np.roll(grains[rng.integers(_NUM_GRAINS)], rng.integers(width), axis=1)
        planes = [np.clip(plane, 16, 235).astype(np.uint8).ravel() for plane in picture]
        packed = np.concatenate(planes).reshape(height * 3 // 2, width)
        yield av.VideoFrame.from_ndarray(packed, format="yuv420p")


def _wall(width: int, height: int, rng: np.random.Generator) -> list[NDArray[np.int16]]:
    """Y, U and V of a wall: soft shadows, and a weave that is the same in every frame."""
    y, x = np.mgrid[:height, :width] / height
    shadows = sum(
        12 * np.sin(2 * np.pi * (fx * x + fy * y) + phase)
        for fx, fy, phase in rng.uniform(0.3, 3, (5, 3))
    )
    luma = 120 + shadows + rng.normal(0, 4, (height, width))
    chroma = np.full((height // 2, width // 2), 128)
    return [luma.astype(np.int16), (chroma + 6).astype(np.int16), (chroma - 8).astype(np.int16)]


Shape = tuple[tuple[float, float], tuple[float, float], tuple[int, int, int]]
"""Center x, y and radius x, y, in heights of the frame from its middle; Y, U and V."""


def _body(move: NDArray[np.float64]) -> list[Shape]:
    head = (0.05 * move[0], -0.24 + 0.02 * move[1])
    skin, cloth, dark = (160, 110, 150), (50, 132, 124), (35, 128, 128)
    shapes: list[Shape] = [((0, 0.35), (0.27, 0.4), cloth), (head, (0.11, 0.15), skin)]
    shapes += [((head[0] + side, head[1] - 0.02), (0.02, 0.012), dark) for side in (-0.04, 0.04)]
    for side, (across, up) in ((-1, move[2:4]), (1, move[4:6])):
        shoulder, hand = (side * 0.25, 0.05), (side * 0.16 + 0.3 * across, 0.12 + 0.3 * up)
        for part in np.linspace(0, 1, 9):
            x, y = (shoulder[i] * (1 - part) + hand[i] * part for i in (0, 1))
            shapes.append(((x, y), (0.05, 0.05), cloth if part < 0.9 else skin))
        shapes += [
            ((hand[0] + 0.022 * finger, hand[1] - 0.05), (0.009, 0.045), skin)
            for finger in range(-2, 3)
        ]
    return shapes


def _paint(
    picture: list[NDArray[np.int16]],
    center: tuple[float, float],
    radius: tuple[float, float],
    color: tuple[int, int, int],
) -> None:
    full = picture[0].shape[0]
    for plane, level in zip(picture, color, strict=True):
        height, width = plane.shape
        # Heights of the frame to pixels of the plane, and a box that holds the shape.
        x, y = width / 2 + center[0] * height, height / 2 + center[1] * height
        rx, ry = radius[0] * height, radius[1] * height
        rows = np.arange(max(0, int(y - ry)), min(height, int(y + ry) + 2))
        columns = np.arange(max(0, int(x - rx)), min(width, int(x + rx) + 2))
        if not len(rows) or not len(columns):
            continue
        inside = ((rows[:, None] - y) / ry) ** 2 + ((columns - x) / rx) ** 2 <= 1
        box = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # Light from the left, so that the figure is no flat patch.
        shade = (columns - x) / rx * 12 if height == full else 0
        box[inside] = np.broadcast_to(level - shade, box.shape)[inside]
