"""The frames are those of the recording's one video, upright, whatever else the file holds."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

from fla.data.decode.encode import Target, encode_video
from fla.data.decode.images import read_image_frames
from fla.data.decode.video import probe_video, read_format, read_frames
from fla.data.pipeline import ClipPipeline, ClipRequest, choose_decoder
from fla.errors import DataError
from tests.helpers.videos import (
    decode_all,
    numbered_frame,
    read_number,
    turn_video,
    write_image,
    write_video,
)

SIZE = 40
NUM_FRAMES = 30
# a, b, c and d of a display matrix, and the quarters that numpy turns, counterclockwise.
CLOCKWISE, COUNTERCLOCKWISE, AROUND = (0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1)
TURNS = [(CLOCKWISE, 3), (AROUND, 2), (COUNTERCLOCKWISE, 1)]
SIDEWAYS, UPSIDE_DOWN, TRANSPOSED = (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)


def read(path: Path, *, first: int = 0, last: int = NUM_FRAMES) -> NDArray[np.uint8]:
    """Frames of a recording at 15 frames a second."""
    return read_frames(
        path,
        start_s=first / 15 - 0.01,
        end_s=last / 15 - 0.01,
        num_frames=last - first,
        frame_numbers=np.arange(last - first, dtype=np.int32),
        height=SIZE,
        width=SIZE,
    )


def copy_beside(
    source: Path, path: Path, add: Callable[[av.container.OutputContainer], list[av.Packet]]
) -> Path:
    """Copy a video behind a stream that `add` adds and fills with packets."""
    with av.open(source) as container, av.open(path, "w") as output:
        packets = add(output)
        video = output.add_stream_from_template(container.streams.video[0], opaque=True)
        output.start_encoding()
        output.mux(packets)
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = video
                output.mux(packet)
    return path


def add_sound(codec: str, sample_format: str) -> Callable[..., list[av.Packet]]:
    def add(output: av.container.OutputContainer) -> list[av.Packet]:
        stream = output.add_stream(codec, rate=48000, layout="mono")
        kind = np.float32 if sample_format == "fltp" else np.int16
        sound = np.zeros((1, 48000 * 2), kind)
        frame = av.AudioFrame.from_ndarray(sound, sample_format, "mono")
        frame.sample_rate = 48000
        return [*stream.encode(frame), *stream.encode()]

    return add


def add_subtitles(output: av.container.OutputContainer) -> list[av.Packet]:
    stream = output.add_stream("ass")
    packet = av.Packet(b"0,0,Default,,0,0,0,,Hello.")
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts, packet.dts, packet.duration = 0, 0, 1000
    return [packet]


def add_picture(picture: Path) -> Callable[..., list[av.Packet]]:
    def add(output: av.container.OutputContainer) -> list[av.Packet]:
        stream = output.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        stream.disposition = Disposition.attached_pic
        packet = av.Packet(picture.read_bytes())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
        return [packet]

    return add


def cover_first(source: Path, path: Path) -> Path:
    """Copy an mp4 so that its cover, which is not among the tracks, stands before them."""
    data = bytearray(source.read_bytes())
    movie = data.index(b"moov") - 4
    begin = data.index(b"udta", movie) - 4
    end = begin + int.from_bytes(data[begin : begin + 4], "big")
    cover = data[begin:end]
    del data[begin:end]
    data[movie + 8 : movie + 8] = cover
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("codec", "ending", "add"),
    [
        ("libx264", "mp4", add_sound("aac", "fltp")),
        ("libx264", "mkv", add_sound("aac", "fltp")),
        ("libx264", "ts", add_sound("aac", "fltp")),
        ("libvpx-vp9", "webm", add_sound("libopus", "s16")),
        ("mjpeg", "avi", add_sound("pcm_s16le", "s16")),
        ("libx264", "mkv", add_subtitles),
    ],
)
def test_sound_or_subtitles_before_the_video_change_nothing(
    codec: str, ending: str, add: Callable[..., list[av.Packet]], tmp_path: Path
):
    plain = write_video(tmp_path / f"plain.{ending}", codec=codec, num_frames=NUM_FRAMES)
    path = copy_beside(plain, tmp_path / f"video.{ending}", add)
    with av.open(path) as container:
        assert [stream.type for stream in container.streams][1:] == ["video"]
    times, images = decode_all(path, size=SIZE)

    np.testing.assert_allclose(probe_video(path).frame_times, times, atol=1e-9)
    np.testing.assert_array_equal(read(path), images)
    np.testing.assert_array_equal(read(path, first=7, last=19), images[7:19])


def test_a_cover_picture_before_the_video_is_not_the_video(tmp_path: Path):
    plain = write_video(tmp_path / "plain.mp4", num_frames=NUM_FRAMES)
    cover = write_image(tmp_path / "cover.jpg", 200, size=64)
    behind = copy_beside(plain, tmp_path / "behind.mp4", add_picture(cover))
    path = cover_first(behind, tmp_path / "before.mp4")
    with av.open(path) as container:
        assert [s.codec.canonical_name for s in container.streams.video] == ["mjpeg", "h264"]

    _, images = decode_all(path, size=SIZE, video=1)

    assert read_format(path).codec == "h264"
    assert len(probe_video(path).frame_times) == NUM_FRAMES
    np.testing.assert_array_equal(read(path), images)
    copy = tmp_path / "copy.mp4"
    encode_video(path, copy, Target(codec="h264", crf=23, short_side_px=64, key_frame_every=12))
    assert len(probe_video(copy).frame_times) == NUM_FRAMES


@pytest.mark.parametrize("main", [0, 1])
def test_of_two_videos_the_one_that_players_show_is_taken(main: int, tmp_path: Path):
    sources = [
        write_video(tmp_path / "h264.mkv", num_frames=NUM_FRAMES),
        write_video(tmp_path / "vp9.mkv", num_frames=NUM_FRAMES, codec="libvpx-vp9"),
    ]
    path = tmp_path / "both.mkv"
    with av.open(sources[0]) as a, av.open(sources[1]) as b, av.open(path, "w") as output:
        inputs = [(container, container.streams.video[0]) for container in (a, b)]
        streams = [output.add_stream_from_template(video, opaque=True) for _, video in inputs]
        streams[main].disposition = Disposition.default
        for (container, _), stream in zip(inputs, streams, strict=True):
            for packet in container.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)

    _, images = decode_all(path, size=SIZE, video=main)

    assert read_format(path).codec == ("h264", "vp9")[main]
    np.testing.assert_array_equal(read(path), images)


def test_sound_with_a_cover_is_no_video(tmp_path: Path):
    cover = write_image(tmp_path / "cover.jpg", 200, size=64)
    path = tmp_path / "sound.m4a"
    with av.open(path, "w", format="mp4") as output:
        packets = [*add_sound("aac", "fltp")(output), *add_picture(cover)(output)]
        output.start_encoding()
        output.mux(packets)

    with pytest.raises(DataError, match=r"sound\.m4a does not decode: it has no video stream"):
        read_format(path)


@pytest.mark.parametrize(("matrix", "quarters"), TURNS)
@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "mjpeg"])
def test_what_a_phone_filmed_on_its_side_comes_upright(
    codec: str, matrix: tuple[int, ...], quarters: int, tmp_path: Path
):
    plain = write_video(tmp_path / "plain.mp4", codec=codec, num_frames=NUM_FRAMES)
    path = turn_video(plain, tmp_path / "turned.mp4", matrix=matrix)
    _, images = decode_all(plain, size=SIZE)

    frames = read(path, first=6, last=20)

    np.testing.assert_array_equal(frames, np.rot90(images[6:20], quarters, axes=(1, 2)))
    # Players and PyAV agree with us.
    with av.open(path) as container:
        assert next(container.decode(video=0)).rotation % 360 == quarters * 90


@pytest.mark.parametrize(
    ("matrix", "mirror"),
    [
        (SIDEWAYS, lambda images: images[:, :, ::-1]),
        (UPSIDE_DOWN, lambda images: images[:, ::-1]),
        (TRANSPOSED, lambda images: images.swapaxes(1, 2)),
    ],
)
def test_what_is_to_be_shown_mirrored_comes_mirrored(
    matrix: tuple[int, ...], mirror: Callable[..., NDArray[np.uint8]], tmp_path: Path
):
    plain = write_video(tmp_path / "plain.mp4", num_frames=NUM_FRAMES)
    path = turn_video(plain, tmp_path / "turned.mp4", matrix=matrix)
    _, images = decode_all(plain, size=SIZE)

    np.testing.assert_array_equal(read(path), mirror(images))


def test_what_lies_on_its_side_fills_the_height_and_width_that_were_asked_for(tmp_path: Path):
    plain = write_video(tmp_path / "plain.mp4", num_frames=4, size=96, height=64)
    path = turn_video(plain, tmp_path / "turned.mp4", matrix=CLOCKWISE)

    frames = read_frames(
        path, start_s=0.0, end_s=9.0, num_frames=4, frame_numbers=np.array([3], np.int32),
        height=96, width=64,
    )  # fmt: skip

    expected = np.rot90(numbered_frame(3, size=96)[:64], 3).astype(int)
    assert np.abs(frames[0] - expected).mean() < 4


@pytest.mark.parametrize("codec", ["libvpx-vp9", "mjpeg"])
def test_dali_turns_nothing_and_so_is_not_asked(codec: str, tmp_path: Path):
    plain = write_video(tmp_path / "plain.mp4", codec=codec, num_frames=NUM_FRAMES)
    path = turn_video(plain, tmp_path / "turned.mp4", matrix=AROUND)
    assert choose_decoder(read_format(plain), "cpu") == "dali"
    assert choose_decoder(read_format(path), "cpu") == "software"
    clips = ClipPipeline(
        decode_device="cpu", dali_device_id=None, resize_px=SIZE, crop_px=SIZE, max_clips=1,
        num_threads=1,
    )  # fmt: skip

    frames, _ = clips.run(
        [
            ClipRequest(
                sample_id="turned", path=path, fps=15.0, start_s=0.0, end_s=9.0,
                num_frames=NUM_FRAMES, frame_numbers=np.array([0, 11, 29], np.int32),
                warp=np.eye(2, 3, dtype=np.float32),
            )
        ]
    )  # fmt: skip
    clips.close()

    levels = frames.permute(0, 2, 3, 1).numpy() * 57 + 116
    upside_down = np.rot90(levels, 2, axes=(1, 2))
    assert [read_number(frame) for frame in upside_down] == [0, 11, 29]


@pytest.mark.parametrize("read_it", [read_format, read])
def test_what_is_to_be_shown_tilted_is_refused(read_it: Callable[..., object], tmp_path: Path):
    plain = write_video(tmp_path / "plain.mp4", num_frames=NUM_FRAMES)
    path = turn_video(plain, tmp_path / "tilted.mp4", matrix=(1, 1, -1, 1))

    with pytest.raises(DataError, match=r"tilted\.mp4 does not decode: it is to be shown tilted"):
        read_it(path)


@pytest.mark.parametrize(("orientation", "quarters"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_photos_come_upright_as_exif_says(orientation: int, quarters: int, tmp_path: Path):
    image = Image.fromarray(numbered_frame(5, size=SIZE))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "0.jpg", exif=exif, quality=95)

    frames = read_image_frames(
        tmp_path, fps=1.0, start_s=0.0, end_s=1.0, num_frames=1,
        frame_numbers=np.array([0], np.int32), height=SIZE, width=SIZE,
    )  # fmt: skip

    assert read_number(np.rot90(frames[0], -quarters)) == 5
