"""Decoding a range gives the frames that decoding the whole recording gives."""

import io
import os
import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from fla.data.decode.encode import Target, encode_video
from fla.data.decode.video import (
    EncodedRange,
    copy_range,
    in_range,
    probe_video,
    read_format,
    read_frames,
)
from fla.errors import DataError
from tests.helpers.videos import (
    decode_all,
    hide_first_frames,
    hide_last_frames,
    hide_picture,
    read_number,
    write_video,
)

NUM_FRAMES = 100
# From rare to frequent and back, and nothing on a round number.
VARYING_MS = np.cumsum(20 + (np.arange(NUM_FRAMES) * 37) % 90).tolist()
OPEN_GOP = {"preset": "veryfast", "bf": "3", "x264-params": "open-gop=1:keyint=20:scenecut=0"}


def write_h264(folder: Path) -> Path:
    return write_video(folder / "h264.mp4", num_frames=NUM_FRAMES)


def write_late_start(folder: Path) -> Path:
    times_ms = [1234 + 67 * number for number in range(NUM_FRAMES)]
    return write_video(folder / "late.mkv", num_frames=NUM_FRAMES, times_ms=times_ms)


def write_late_start_mp4(folder: Path) -> Path:
    times_ms = [517 + 67 * number for number in range(NUM_FRAMES)]
    return write_video(folder / "late.mp4", num_frames=NUM_FRAMES, times_ms=times_ms)


def write_varying_rate(folder: Path) -> Path:
    return write_video(folder / "varying.mp4", num_frames=NUM_FRAMES, times_ms=VARYING_MS)


def write_edit_list(folder: Path) -> Path:
    return hide_first_frames(write_h264(folder), folder / "hidden.mp4", num_hidden=13)


def write_shortened(folder: Path) -> Path:
    return hide_last_frames(write_h264(folder), folder / "shortened.mp4", shown_s=4.6)


def write_open_gop(folder: Path) -> Path:
    return write_video(folder / "open.mp4", num_frames=NUM_FRAMES, options=OPEN_GOP)


def write_transport_stream(folder: Path) -> Path:
    return write_video(folder / "h264.ts", num_frames=NUM_FRAMES)


def write_vp9(folder: Path) -> Path:
    return write_video(folder / "vp9.webm", num_frames=NUM_FRAMES, codec="libvpx-vp9")


def write_mjpeg(folder: Path) -> Path:
    return write_video(folder / "mjpeg.avi", num_frames=NUM_FRAMES, codec="mjpeg")


WRITERS = [
    write_h264,
    write_late_start,
    write_late_start_mp4,
    write_varying_rate,
    write_edit_list,
    write_shortened,
    write_open_gop,
    write_transport_stream,
    write_vp9,
    write_mjpeg,
]


@pytest.fixture(params=WRITERS, ids=lambda writer: writer.__name__, scope="module")
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write: Callable[[Path], Path] = request.param
    return write(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h264(tmp_path_factory.mktemp("h264"))


def ranges(times: np.ndarray) -> list[tuple[float, float]]:
    """Ranges that begin and end between frames and exactly on frames, and the whole recording."""
    rng = np.random.default_rng(7)
    between = [tuple(sorted(rng.uniform(0, times[-1], 2))) for _ in range(10)]
    exact = [(times[i], times[i + 12]) for i in rng.integers(0, len(times) - 12, 10)]
    return [*between, *exact, (0.0, times[-1] + 1), (0.0, times[3]), (times[-2], times[-1] + 1)]


def test_frame_times_are_those_of_the_decoded_frames(video: Path):
    times, _ = decode_all(video, size=16)

    info = probe_video(video)

    np.testing.assert_allclose(info.frame_times, times, atol=1e-9)
    assert info.fps == pytest.approx((len(times) - 1) / times[-1])


def test_a_range_decodes_to_the_frames_of_a_full_decode(video: Path):
    times, images = decode_all(video, size=40)
    rng = np.random.default_rng(3)

    for start_s, end_s in ranges(times):
        inside = np.flatnonzero((times >= start_s) & (times < end_s))
        for stride in (1, 4):
            numbers = np.arange(rng.integers(min(stride, len(inside))), len(inside), stride)
            frames = read_frames(
                video,
                start_s=start_s,
                end_s=end_s,
                num_frames=len(inside),
                frame_numbers=numbers.astype(np.int32),
                height=40,
                width=40,
            )

            np.testing.assert_array_equal(frames, images[inside[numbers]])


def test_a_copied_range_decodes_to_the_frames_of_a_full_decode(video: Path):
    times, images = decode_all(video, size=40)

    for start_s, end_s in ranges(times):
        inside = np.flatnonzero((times >= start_s) & (times < end_s))
        copied = copy_range(video, start_s=start_s, end_s=end_s, num_frames=len(inside))
        with av.open(io.BytesIO(copied.data.tobytes())) as container:
            decoded = [
                frame.reformat(40, 40, "rgb24", interpolation="BILINEAR").to_ndarray()
                for frame in container.decode(video=0)
            ]

        frames = decoded[copied.first_frame : copied.first_frame + len(inside)]
        np.testing.assert_array_equal(np.stack(frames), images[inside])


def test_a_copied_range_is_a_small_part_of_the_recording(h264: Path):
    copied = copy_range(h264, start_s=4.2, end_s=4.8, num_frames=9)

    assert copied.data.nbytes < h264.stat().st_size / 2
    assert copied.first_frame < 10


def test_the_fixtures_are_what_they_are_meant_to_be(h264: Path, tmp_path: Path):
    hidden = write_edit_list(tmp_path)

    with av.open(h264) as container:
        pts = [packet.pts for packet in container.demux(video=0) if packet.size]
    with av.open(write_open_gop(tmp_path)) as container:
        follow_key = [packet for packet in container.demux(video=0) if packet.size]
    with av.open(hidden) as container:
        discarded = [packet.is_discard for packet in container.demux(video=0) if packet.size]

    assert pts != sorted(pts), "no B-frames"
    assert any(a.is_keyframe and b.pts < a.pts for a, b in pairwise(follow_key)), "closed GOPs"
    assert sum(discarded) == 13
    assert len(np.unique(np.diff(VARYING_MS))) > 5


def test_frames_carry_their_numbers_through_scaling(h264: Path):
    frames = read_frames(
        h264,
        start_s=2.0,
        end_s=4.0,
        num_frames=30,
        frame_numbers=np.array([0, 7, 29], np.int32),
        height=32,
        width=32,
    )

    assert [read_number(frame) for frame in frames] == [30, 37, 59]


def test_a_frame_at_the_start_is_inside_and_one_at_the_end_is_not():
    times = np.array([0.0, 0.1, 0.2, 0.3])

    assert in_range(times, 0.1, 0.3).tolist() == [False, True, True, False]
    assert in_range(times, 0.1 + 4e-7, 0.3 + 4e-7).tolist() == [False, True, True, False]


def test_format_is_read_from_the_header(h264: Path, tmp_path: Path):
    vp9 = write_vp9(tmp_path)

    assert read_format(h264).codec == "h264"
    assert (read_format(vp9).codec, read_format(vp9).pixel_format) == ("vp9", "yuv420p")


def read_clip(path: Path, *, num_frames: int = 15) -> np.ndarray:
    return read_frames(
        path,
        start_s=5.0,
        end_s=6.0,
        num_frames=num_frames,
        frame_numbers=np.arange(0, num_frames, 4, dtype=np.int32),
        height=16,
        width=16,
    )


def copy_clip(path: Path, *, num_frames: int = 15) -> EncodedRange:
    return copy_range(path, start_s=5.0, end_s=6.0, num_frames=num_frames)


@pytest.mark.parametrize("read", [read_clip, copy_clip])
def test_another_number_of_frames_than_the_manifest_says_is_an_error(
    read: Callable[..., object], h264: Path
):
    with pytest.raises(DataError, match=r"h264\.mp4, 5\.000 s to 6\.000 s: .* 15 frames, .* 16\."):
        read(h264, num_frames=16)


@pytest.mark.parametrize("read", [probe_video, read_format, read_clip, copy_clip])
def test_what_is_no_video_ends_with_a_sentence_that_names_it(
    read: Callable[[Path], object], tmp_path: Path
):
    missing, empty, text = (tmp_path / f"{name}.mp4" for name in ("missing", "empty", "text"))
    empty.write_bytes(b"")
    text.write_text("<html>404</html>" * 50)
    sound = tmp_path / "sound.mp4"
    with av.open(sound, "w") as output:
        stream = output.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())

    for path in (missing, empty, text, sound):
        with pytest.raises(DataError, match=rf"{path.name} does not decode: .*\. Replace the file"):
            read(path)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_file_in_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


def make_unreadable(path: Path) -> None:
    write_h264(path.parent).rename(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "make",
    [
        make_folder,
        make_pipe,
        make_loop,
        make_link_to_device,
        make_file_in_a_file,
        make_unreadable,
    ],
)
@pytest.mark.parametrize("read", [probe_video, read_format, read_clip, copy_clip])
def test_what_is_no_file_that_can_be_read_ends_with_a_sentence(
    read: Callable[[Path], object], make: Callable[[Path], None], tmp_path: Path
):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "odd.mp4"
    make(path)

    with pytest.raises(DataError, match=r"odd\.mp4 does not decode: .*\. Replace the file"):
        read(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_a_playlist_in_a_recordings_place_fetches_nothing(name: str, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/0.ts"
        path = tmp_path / name
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n")

        with pytest.raises(DataError, match=rf"{name} does not decode"):
            probe_video(path)

        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_title_that_is_no_utf8_does_not_matter(tmp_path: Path):
    path = write_h264(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"VideoHandler", b"Vid\xe9oHandler"))

    assert len(probe_video(path).frame_times) == NUM_FRAMES
    copy = tmp_path / "copy.mp4"
    encode_video(path, copy, Target(codec="h264", crf=23, short_side_px=32, key_frame_every=12))
    assert len(probe_video(copy).frame_times) == NUM_FRAMES


def test_damage_inside_a_recording_ends_with_a_sentence(h264: Path, tmp_path: Path):
    damaged = tmp_path / "damaged.mp4"
    data = bytearray(h264.read_bytes())
    middle = slice(len(data) // 4, len(data) * 9 // 10)
    data[middle] = bytes(len(data[middle]))
    damaged.write_bytes(data)

    with pytest.raises(DataError, match=r"damaged\.mp4.* does not decode"):
        read_clip(damaged)


def test_a_picture_that_the_decoder_had_to_fill_in_ends_with_a_sentence(h264: Path, tmp_path: Path):
    damaged = tmp_path / "damaged.mp4"
    with av.open(h264) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    key = packets[60]
    begin = h264.read_bytes().index(key) + len(key) // 2
    data = bytearray(h264.read_bytes())
    data[begin : begin + 20] = bytes(20)
    damaged.write_bytes(data)

    with av.open(damaged) as container:
        assert len(list(container.decode(video=0))) == NUM_FRAMES, "it does not decode at all"
    with pytest.raises(DataError, match=r"damaged\.mp4 does not decode: its picture .* is damaged"):
        read_frames(
            damaged,
            start_s=4.0,
            end_s=6.0,
            num_frames=30,
            frame_numbers=np.arange(30, dtype=np.int32),
            height=16,
            width=16,
        )


def test_a_picture_that_the_decoder_drops_ends_with_a_sentence(tmp_path: Path):
    # Frame 83 is number 8 of the range, one of those that are wanted.
    path = hide_picture(write_vp9(tmp_path), tmp_path / "gap.webm", number=83)

    with pytest.raises(DataError, match=r"gap\.webm, 5\.000 s to 6\.000 s: frame 8 of the range"):
        read_clip(path)


def test_a_recording_cut_short_ends_with_a_sentence(tmp_path: Path):
    path = write_late_start(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(DataError, match=r"late\.mkv, 5\.000 s to 6\.000 s: "):
        read_clip(path)


@pytest.mark.parametrize("fraction", [0.9, 0.6, 0.3])
def test_a_download_that_stopped_is_named_though_its_index_is_whole(
    h264: Path, tmp_path: Path, fraction: float
):
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    with av.open(h264) as source, av.open(whole, "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    cut.write_bytes(whole.read_bytes()[: round(whole.stat().st_size * fraction)])

    assert len(probe_video(whole).frame_times) == NUM_FRAMES
    with pytest.raises(DataError, match=r"cut\.mp4 does not decode: its header promises 6\.67 s"):
        probe_video(cut)


def test_an_edit_list_that_hides_most_of_a_recording_is_no_damage(h264: Path, tmp_path: Path):
    shown = hide_last_frames(h264, tmp_path / "shown.mp4", shown_s=1.0)

    assert len(probe_video(shown).frame_times) == 15
