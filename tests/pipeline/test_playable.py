"""Clips as a browser gets them: the frames of the range, at their rate, in H.264."""

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from fla.data.decode.playable import make_playable
from fla.data.manifest import Sample
from fla.errors import DataError
from tests.helpers.videos import read_number, turn_video, write_image, write_video

SAMPLE = Sample(
    id="a",
    video="signing.mp4",
    start_s=1.0,
    end_s=2.0,
    fps=15.0,
    num_frames=15,
    signer="",
    sentence="A cat.",
)


def play(root: Path, sample: Sample, *, short_side_px: int = 256, max_as_is_bytes: int = 0):
    """Codec, seconds, and the frames, RGB, (T,H,W,3)."""
    clip = make_playable(root, sample, short_side_px=short_side_px, max_as_is_bytes=max_as_is_bytes)
    with av.open(io.BytesIO(clip)) as container:
        stream = container.streams.video[0]
        frames = [
            frame.to_ndarray(format="rgb24", src_colorspace="ITU601")
            for frame in container.decode(stream)
        ]
        seconds = float(stream.duration * stream.time_base)
        return stream.codec_context.name, seconds, np.stack(frames)


def test_a_range_of_a_recording_becomes_a_clip_of_its_own(tmp_path):
    write_video(tmp_path / "signing.mp4", num_frames=45)

    codec, seconds, frames = play(tmp_path, SAMPLE)

    assert (codec, seconds) == ("h264", pytest.approx(1.0, abs=0.05))
    assert [read_number(frame) for frame in frames] == list(range(15, 30))


def test_large_pictures_are_scaled_to_even_sides(tmp_path):
    write_video(tmp_path / "signing.mp4", num_frames=45, size=300, height=202)

    _, _, frames = play(tmp_path, SAMPLE, short_side_px=99)

    # 300 x 202 by 99 / 202.
    assert frames.shape == (15, 98, 146, 3)


def test_a_phones_video_stands_upright(tmp_path):
    write_video(tmp_path / "lying.mp4", num_frames=45, size=80, height=60)
    turn_video(tmp_path / "lying.mp4", tmp_path / "signing.mp4", matrix=(0, 1, -1, 0))

    _, _, frames = play(tmp_path, SAMPLE)

    assert frames.shape == (15, 80, 60, 3)


def test_fast_recordings_lose_frames_and_keep_their_time(tmp_path):
    write_video(tmp_path / "signing.mp4", num_frames=180, fps=60)
    sample = replace(SAMPLE, fps=60.0, num_frames=60)

    _, seconds, frames = play(tmp_path, sample)

    assert [read_number(frame) for frame in frames] == list(range(60, 120, 2))
    assert seconds == pytest.approx(1.0, abs=0.05)


def test_images_in_a_folder_become_a_clip(tmp_path):
    for number in range(20):
        folder = tmp_path / "frames"
        folder.mkdir(exist_ok=True)
        write_image(folder / f"{number:03d}.png", number, size=64)
    sample = replace(SAMPLE, video="frames", start_s=0.0, end_s=20 / 25, fps=25.0, num_frames=20)

    codec, seconds, frames = play(tmp_path, sample)

    assert (codec, seconds) == ("h264", pytest.approx(0.8, abs=0.05))
    assert [read_number(frame) for frame in frames] == list(range(20))


def test_a_small_recording_that_is_one_clip_is_taken_as_it_is(tmp_path):
    path = write_video(tmp_path / "signing.mp4", num_frames=15)
    whole = replace(SAMPLE, start_s=0.0, end_s=1.0)
    size = path.stat().st_size

    def clip(sample: Sample, max_as_is_bytes: int) -> bytes:
        return make_playable(tmp_path, sample, short_side_px=256, max_as_is_bytes=max_as_is_bytes)

    assert clip(whole, size) == path.read_bytes()
    assert clip(whole, size - 1) != path.read_bytes()
    assert clip(replace(whole, end_s=0.6, num_frames=9), size) != path.read_bytes()


def test_what_browsers_do_not_play_is_encoded(tmp_path):
    write_video(tmp_path / "signing.mp4", num_frames=15, codec="libx265")

    codec, _, frames = play(
        tmp_path, replace(SAMPLE, start_s=0.0, end_s=1.0), max_as_is_bytes=10**9
    )

    assert codec == "h264"
    assert len(frames) == 15


def test_a_damaged_recording_is_refused(tmp_path):
    (tmp_path / "signing.mp4").write_text("no video")

    with pytest.raises(DataError, match="does not decode"):
        play(tmp_path, SAMPLE)
