"""A whole recording in small gray pictures, and how it is shown."""

from pathlib import Path

import numpy as np
import pytest

from fla.data.decode.images import read_image_size
from fla.data.decode.preview import read_previews
from fla.data.decode.video import read_format
from fla.errors import DataError
from tests.helpers.videos import decode_all, hide_first_frames, turn_video, write_image, write_video

CLOCKWISE, AROUND = (0, 1, -1, 0), (-1, 0, 0, -1)


def previews(path: Path, *, fps: float) -> tuple[list[float], np.ndarray]:
    times, pictures = zip(*read_previews(path, fps=fps, side_px=32), strict=True)
    return list(times), np.stack(pictures)


@pytest.mark.parametrize(("codec", "ending"), [("libx264", "mp4"), ("libvpx-vp9", "webm")])
def test_every_frame_is_seen_where_there_are_no_more_than_asked_for(tmp_path, codec, ending):
    path = write_video(tmp_path / f"a.{ending}", num_frames=40, codec=codec)
    times, pictures = previews(path, fps=15)
    real_times, images = decode_all(path, size=32)

    # The last ones, too, which a decoder of B-frames holds back.
    np.testing.assert_allclose(times, real_times, atol=2e-3)
    gray = images @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pictures - gray).mean() < 16


@pytest.mark.parametrize(("fps", "every"), [(5.0, 3), (7.5, 2), (1.0, 15)])
def test_previews_come_as_often_as_asked_for(tmp_path, fps, every):
    path = write_video(tmp_path / "a.mp4", num_frames=40)

    times, _ = previews(path, fps=fps)

    np.testing.assert_allclose(times, np.arange(0, 40, every) / 15, atol=2e-3)


def test_previews_of_a_phone_come_at_no_closer_distance(tmp_path):
    times_ms = np.cumsum(np.random.default_rng(1).integers(8, 60, 90)).tolist()
    path = write_video(tmp_path / "a.mkv", num_frames=90, times_ms=times_ms)

    times, _ = previews(path, fps=10)

    assert len(times) == pytest.approx((times_ms[-1] - times_ms[0]) / 100, abs=2)
    assert times[0] == 0


def test_what_an_edit_list_hides_is_not_seen(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", num_frames=30)
    path = hide_first_frames(whole, tmp_path / "cut.mp4", num_hidden=5)

    times, _ = previews(path, fps=15)

    np.testing.assert_allclose(times, np.arange(25) / 15, atol=2e-3)


def test_what_does_not_decode_is_named(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")

    with pytest.raises(DataError, match=r"a\.mp4 does not decode"):
        list(read_previews(path, fps=10, side_px=32))


def test_a_recording_is_as_wide_as_it_is_shown(tmp_path):
    wide = write_video(tmp_path / "wide.mp4", num_frames=2, size=128, height=72)
    portrait = turn_video(wide, tmp_path / "portrait.mp4", matrix=CLOCKWISE)
    around = turn_video(wide, tmp_path / "around.mp4", matrix=AROUND)

    assert [round(read_format(path).aspect, 3) for path in (wide, portrait, around)] == [
        1.778, 0.562, 1.778,
    ]  # fmt: skip


def test_an_image_has_its_size(tmp_path):
    write_image(tmp_path / "img_2.png", 2, size=40)
    write_image(tmp_path / "img_1.png", 1, size=32)

    assert read_image_size(tmp_path) == (32, 32)
    with pytest.raises(DataError, match="holds no image"):
        read_image_size(tmp_path.parent)
