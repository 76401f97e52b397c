"""The headers of pictures tell where one of another size or sampling is among them."""

from pathlib import Path

import av
import pytest

from fla.data.decode.layout import is_uniform
from tests.helpers.videos import write_video

SYNC = f"{0x498342:024b}"


def pictures(path: Path) -> list[bytes]:
    with av.open(path) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def packed(bits: str) -> bytes:
    return int(bits.replace(" ", "").ljust(128, "0"), 2).to_bytes(16, "big")


def size_bits(width: int, height: int) -> str:
    return f"{width - 1:016b}{height - 1:016b}"


def key_frame(width: int, height: int) -> bytes:
    # Mark, profile 0, not a repeat; key, shown; BT.601, limited range.
    return packed(f"10 00 0 010 {SYNC} 0010 {size_bits(width, height)}")


def inter_frame(width: int, height: int) -> bytes:
    # No reset; replaces none, refers to three, has the size of none of them.
    return packed(f"10 00 0 110 00 00000000 {'0000' * 3} 000 {size_bits(width, height)}")


def inter_frame_as_before() -> bytes:
    return packed(f"10 00 0 110 00 00000000 {'0000' * 3} 01")


def hidden_intra_frame(width: int, height: int) -> bytes:
    return packed(f"10 00 0 100 1 00 {SYNC} 00000000 {size_bits(width, height)}")


def shown_again() -> bytes:
    return packed("10 00 1 000")


def superframe(*frames: bytes) -> bytes:
    mark = bytes([0b110_00_000 | len(frames) - 1])
    return b"".join(frames) + mark + bytes(map(len, frames)) + mark


@pytest.mark.parametrize(
    ("codec", "ending", "options"),
    [
        ("libvpx", "webm", {"auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "good"}),
        ("libvpx-vp9", "webm", {"auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "good"}),
        ("libvpx-vp9", "mp4", {"error-resilient": "default", "deadline": "realtime"}),
        ("mjpeg", "avi", None),
    ],
)
def test_a_recording_is_uniform_in_the_size_that_it_has(
    codec: str, ending: str, options: dict[str, str] | None, tmp_path: Path
):
    path = write_video(
        tmp_path / f"video.{ending}", codec=codec, num_frames=30, size=72, height=56,
        key_frame_every=12, options=options,
    )  # fmt: skip
    name = {"libvpx": "vp8", "libvpx-vp9": "vp9"}.get(codec, codec)

    assert is_uniform(name, pictures(path), width=72, height=56)
    assert not is_uniform(name, pictures(path), width=56, height=72)


@pytest.mark.parametrize(
    ("codec", "name", "other"),
    [("libvpx-vp9", "vp9", "yuv444p"), ("mjpeg", "mjpeg", "yuvj422p")],
)
def test_another_sampling_of_color_is_found(codec: str, name: str, other: str, tmp_path: Path):
    usual, unusual = (
        pictures(write_video(tmp_path / f"{i}.mkv", codec=codec, num_frames=3, pixel_format=kind))
        for i, kind in enumerate((None, other))
    )

    assert is_uniform(name, unusual, width=64, height=64)
    assert not is_uniform(name, usual + unusual, width=64, height=64)


@pytest.mark.parametrize(
    ("later", "uniform"),
    [
        (inter_frame(64, 48), True),
        (inter_frame_as_before(), True),
        (hidden_intra_frame(64, 48), True),
        (shown_again(), True),
        (superframe(hidden_intra_frame(64, 48), inter_frame_as_before()), True),
        (inter_frame(32, 24), False),
        (inter_frame(80, 48), False),
        (hidden_intra_frame(64, 50), False),
        (superframe(hidden_intra_frame(128, 48), inter_frame_as_before()), False),
        (superframe(inter_frame_as_before(), inter_frame(62, 48)), False),
        (b"\x00" * 16, False),
        (b"\x80", False),
    ],
)
def test_pictures_of_vp9_that_are_no_key_frames_may_change_the_size(later: bytes, uniform: bool):
    assert is_uniform("vp9", [key_frame(64, 48), later], width=64, height=48) == uniform


@pytest.mark.parametrize("codec", ["vp8", "vp9", "mjpeg"])
@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff\xd8\xff", bytes(40), b"\xff" * 40])
def test_what_is_no_picture_is_not_uniform(codec: str, data: bytes):
    assert not is_uniform(codec, [data], width=64, height=64)


def test_nothing_is_known_of_other_codecs():
    assert is_uniform("h264", [b""], width=64, height=64)
