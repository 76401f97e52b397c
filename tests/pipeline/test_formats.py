"""Every kind of recording gives the frames of a full decode, whoever decodes it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fla.data.decode.video import copy_range, in_range, probe_video, read_format, read_frames
from fla.data.pipeline import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClipPipeline,
    ClipRequest,
    choose_decoder,
)
from fla.errors import DataError
from tests.helpers.videos import (
    decode_all,
    numbered_frame,
    read_number,
    write_video,
)

SIZE = 64
NUM_FRAMES = 30
FULL, LIMITED = 2, 1
NO_B_FRAMES = {"preset": "veryfast", "bf": "0"}
PLAIN = ("yuv420p", "yuvj420p")
VARYING_MS = np.cumsum(20 + (np.arange(NUM_FRAMES) * 37) % 90).tolist()

# Encoder, container, and whether DALI decodes it on a CPU.
KINDS = [
    ("libx264", "mp4", False),
    ("libx264", "mov", False),
    ("libx264", "mkv", False),
    ("libx265", "mp4", False),
    ("libx265", "mkv", False),
    ("libsvtav1", "mp4", False),
    ("libsvtav1", "webm", False),
    ("libvpx", "webm", True),
    ("libvpx", "avi", True),
    ("libvpx-vp9", "webm", True),
    ("libvpx-vp9", "mkv", True),
    ("libvpx-vp9", "mp4", True),
    ("mjpeg", "avi", True),
    ("mjpeg", "mkv", True),
    ("mjpeg", "mov", True),
]
BEST = {
    "libx264": {"preset": "veryfast", "crf": "4"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:crf=4:pools=1"},
    "libsvtav1": {"preset": "12", "crf": "4", "svtav1-params": "lp=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "4", "b:v": "0"},
    "mjpeg": {"qscale": "1"},
}


@pytest.fixture(scope="module")
def clips() -> Iterator[ClipPipeline]:
    pipeline = ClipPipeline(
        decode_device="cpu", dali_device_id=None, resize_px=SIZE, crop_px=SIZE, max_clips=1,
        num_threads=1,
    )  # fmt: skip
    with closing(pipeline):
        yield pipeline


def software_frames(path: Path, *, start_s: float = 0.0, end_s: float = 99.0, stride: int = 1):
    """Frames of a range by the software branch's decoder."""
    num_frames = int(in_range(probe_video(path).frame_times, start_s, end_s).sum())
    return read_frames(
        path,
        start_s=start_s,
        end_s=end_s,
        num_frames=num_frames,
        frame_numbers=np.arange(0, num_frames, stride, dtype=np.int32),
        height=SIZE,
        width=SIZE,
    )


def graph_frames(
    clips: ClipPipeline, path: Path, *, start_s: float = 0.0, end_s: float = 99.0, stride: int = 1
) -> NDArray[np.float32]:
    """Frames of a range by the graph, through the branch that it chooses itself."""
    num_frames = int(in_range(probe_video(path).frame_times, start_s, end_s).sum())
    request = ClipRequest(
        sample_id="sample", path=path, fps=15.0, start_s=start_s, end_s=end_s,
        num_frames=num_frames, frame_numbers=np.arange(0, num_frames, stride, dtype=np.int32),
        warp=np.eye(2, 3, dtype=np.float32),
    )  # fmt: skip
    frames, _ = clips.run([request])
    levels = frames.permute(0, 2, 3, 1) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    return levels.numpy()


def distance(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Mean absolute difference, in levels."""
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def by_dali(path: Path) -> bool:
    return choose_decoder(read_format(path), "cpu") == "dali"


def numbers(frames: NDArray[np.generic]) -> list[int]:
    return [read_number(frame) for frame in frames]


@pytest.mark.parametrize(("codec", "ending", "dali"), KINDS)
def test_a_range_of_any_kind_is_that_of_a_full_decode(
    codec: str, ending: str, dali: bool, clips: ClipPipeline, tmp_path: Path
):
    path = write_video(
        tmp_path / f"video.{ending}", codec=codec, num_frames=NUM_FRAMES, key_frame_every=11
    )
    times, images = decode_all(path, size=SIZE)
    assert (numbers(images), by_dali(path)) == (list(range(NUM_FRAMES)), dali)
    np.testing.assert_allclose(probe_video(path).frame_times, times, atol=1e-9)

    for first, last in ((0, NUM_FRAMES), (5, 17), (12, 13), (20, NUM_FRAMES)):
        start_s = times[first]
        end_s = times[last] if last < NUM_FRAMES else 99.0
        for stride in (1, 3):
            inside = images[first:last:stride]
            software = software_frames(path, start_s=start_s, end_s=end_s, stride=stride)
            graph = graph_frames(clips, path, start_s=start_s, end_s=end_s, stride=stride)

            np.testing.assert_array_equal(software, inside)
            assert numbers(graph) == list(range(first, last, stride))
            # 1.2 levels for DALI, which fills in the halved colors differently.
            assert (0.3 < distance(graph, inside) < 1.5) if dali else distance(graph, inside) < 1e-3


@pytest.mark.parametrize(("codec", "ending"), [kind[:2] for kind in KINDS])
def test_a_copied_range_of_any_kind_is_a_file_that_others_decode(
    codec: str, ending: str, tmp_path: Path
):
    path = write_video(
        tmp_path / f"video.{ending}", codec=codec, num_frames=NUM_FRAMES, key_frame_every=11
    )
    times, images = decode_all(path, size=SIZE)

    copied = copy_range(path, start_s=times[14], end_s=times[20], num_frames=6)

    (tmp_path / "copied.mkv").write_bytes(copied.data.tobytes())
    _, decoded = decode_all(tmp_path / "copied.mkv", size=SIZE)
    np.testing.assert_array_equal(decoded[copied.first_frame :][:6], images[14:20])
    assert copied.is_uniform


def test_frames_at_varying_distances_go_through_dali_to_the_right_places(
    clips: ClipPipeline, tmp_path: Path
):
    path = write_video(
        tmp_path / "varying.webm", codec="libvpx-vp9", num_frames=NUM_FRAMES, times_ms=VARYING_MS
    )
    times, _ = decode_all(path, size=SIZE)
    assert by_dali(path)

    for start_s, end_s in ((0.0, 0.3), (0.4, 0.9), (times[7], times[21]), (1.2, 99.0)):
        inside = np.flatnonzero((times >= start_s) & (times < end_s))
        assert numbers(graph_frames(clips, path, start_s=start_s, end_s=end_s)) == inside.tolist()


def test_an_avi_says_of_h264_without_b_frames_when_they_are_shown(tmp_path: Path):
    path = write_video(tmp_path / "plain.avi", num_frames=NUM_FRAMES, options=NO_B_FRAMES)
    times, images = decode_all(path, size=SIZE)

    frames = software_frames(path, start_s=times[8], end_s=times[20])

    np.testing.assert_array_equal(frames, images[8:20])


@pytest.mark.parametrize("read", [probe_video, read_format])
def test_an_avi_of_h264_with_b_frames_is_refused(read, tmp_path: Path):
    path = write_video(tmp_path / "video.avi", num_frames=NUM_FRAMES)

    with pytest.raises(DataError, match=r"video\.avi does not decode: an avi does not say when"):
        read(path)


# Luma of a gray file is its picture's; what it costs to halve the colors, and to code.
@pytest.mark.parametrize(
    ("codec", "ending", "pixel_format", "color_range", "decoded_format"),
    [
        ("libx264", "mp4", "yuv420p", None, "yuv420p"),
        ("libx264", "mp4", "yuv420p", FULL, "yuvj420p"),
        ("libx264", "mp4", "yuvj420p", None, "yuvj420p"),
        ("libx264", "mp4", "yuv420p10le", None, "yuv420p10le"),
        ("libx264", "mp4", "yuv420p10le", FULL, "yuv420p10le"),
        ("libx264", "mp4", "yuv422p", None, "yuv422p"),
        ("libx264", "mp4", "yuv422p10le", None, "yuv422p10le"),
        ("libx264", "mp4", "yuv444p", None, "yuv444p"),
        ("libx264", "mp4", "gray", FULL, "yuvj420p"),
        ("libx265", "mp4", "yuv420p10le", None, "yuv420p10le"),
        ("libx265", "mp4", "gray", None, "gray"),
        ("libsvtav1", "mp4", "yuv420p10le", None, "yuv420p10le"),
        ("libvpx-vp9", "webm", "yuv420p", LIMITED, "yuv420p"),
        ("libvpx-vp9", "webm", "yuv420p", FULL, "yuv420p"),
        ("libvpx-vp9", "webm", "yuv422p", None, "yuv422p"),
        ("libvpx-vp9", "webm", "yuv444p", FULL, "yuv444p"),
        ("libvpx-vp9", "webm", "gbrp", None, "gbrp"),
        ("mjpeg", "avi", "yuvj420p", None, "yuvj420p"),
        ("mjpeg", "avi", "yuvj422p", None, "yuvj422p"),
        ("mjpeg", "avi", "yuvj444p", None, "yuvj444p"),
    ],
)
def test_colors_of_any_format_are_those_that_were_written(
    codec: str,
    ending: str,
    pixel_format: str,
    color_range: int | None,
    decoded_format: str,
    clips: ClipPipeline,
    tmp_path: Path,
):
    path = write_video(
        tmp_path / f"video.{ending}", codec=codec, num_frames=6, options=BEST[codec],
        pixel_format=pixel_format, color_range=color_range,
    )  # fmt: skip
    with av.open(path) as container:
        frame = next(container.decode(video=0))
    assert frame.format.name == decoded_format
    written = np.stack([numbered_frame(number, size=SIZE) for number in range(6)]).astype(float)
    if pixel_format == "gray":
        written = np.repeat(written @ [[0.299], [0.587], [0.114]], 3, axis=-1)
    _, images = decode_all(path, size=SIZE)

    software = software_frames(path)
    graph = graph_frames(clips, path)

    assert copy_range(path, start_s=0.0, end_s=99.0, num_frames=6).is_uniform
    np.testing.assert_array_equal(software, images)
    # Up to 2.8 levels, mostly for color at half the resolution; the wrong range costs 10.
    assert distance(software, written) < 3
    assert distance(graph, written) < 3
    # 1.2 levels; 1.0 for the full range.
    assert distance(graph, software) < 1.5
    assert by_dali(path) == (codec in ("libvpx-vp9", "mjpeg") and decoded_format in PLAIN)


@pytest.mark.parametrize(
    ("codec", "ending", "size", "height", "pixel_format"),
    [
        ("libx264", "mp4", 260, 210, None),
        ("libx264", "mp4", 261, 211, "yuv444p"),
        ("libvpx-vp9", "webm", 261, 211, None),
        ("libvpx-vp9", "webm", 261, 211, "yuv444p"),
        ("libvpx", "webm", 101, 75, None),
        ("mjpeg", "avi", 261, 211, None),
    ],
)
def test_odd_sizes_fill_the_square(
    codec: str,
    ending: str,
    size: int,
    height: int,
    pixel_format: str | None,
    clips: ClipPipeline,
    tmp_path: Path,
):
    path = write_video(
        tmp_path / f"video.{ending}", codec=codec, num_frames=4, size=size, height=height,
        pixel_format=pixel_format,
    )  # fmt: skip
    _, images = decode_all(path, size=SIZE)

    graph = graph_frames(clips, path)

    np.testing.assert_array_equal(software_frames(path), images)
    assert numbers(graph) == [0, 1, 2, 3]
    assert copy_range(path, start_s=0.0, end_s=99.0, num_frames=4).is_uniform
    # 3.0 at sharp edges of halved colors, which DALI fills in before it scales.
    assert distance(graph, images) < 4


@pytest.mark.parametrize(
    ("codec", "ending"), [("libx264", "mp4"), ("libvpx-vp9", "webm"), ("mjpeg", "avi")]
)
def test_a_recording_may_have_a_single_frame(
    codec: str, ending: str, clips: ClipPipeline, tmp_path: Path
):
    path = write_video(tmp_path / f"video.{ending}", codec=codec, num_frames=1)

    assert numbers(software_frames(path)) == [0]
    assert numbers(graph_frames(clips, path)) == [0]


def join(sources: list[Path], path: Path) -> Path:
    """One recording after the other in one file, with the first one's header."""
    with av.open(path, "w") as output:
        stream, start_ms = None, 0
        for source in sources:
            with av.open(source) as container:
                stream = stream or output.add_stream_from_template(container.streams.video[0])
                for packet in container.demux(video=0):
                    if packet.size:
                        packet.pts += start_ms
                        packet.dts += start_ms
                        packet.stream = stream
                        output.mux(packet)
            start_ms += 1000
    return path


# Not by a third: FFmpeg takes a much lower JPEG for one of two fields.
@pytest.mark.parametrize("sizes", [(64, 80), (80, 64)])
@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9", "mjpeg"])
def test_a_clip_whose_pictures_change_their_size_is_decoded_in_software(
    codec: str, sizes: tuple[int, int], clips: ClipPipeline, tmp_path: Path
):
    parts = [
        write_video(tmp_path / f"{size}.mkv", codec=codec, num_frames=15, size=size)
        for size in sizes
    ]
    path = join(parts, tmp_path / "joined.mkv")
    # Wholly of the first size, of both, wholly of the size that is not the header's.
    for start_s, end_s, expected in (
        (0.0, 0.5, [*range(8)]),
        (0.5, 1.5, [*range(8, 15), *range(8)]),
        (1.5, 9.0, [*range(8, 15)]),
    ):
        software = software_frames(path, start_s=start_s, end_s=end_s)
        graph = graph_frames(clips, path, start_s=start_s, end_s=end_s)

        assert numbers(software) == expected
        if start_s == 0.0:
            assert 0 < distance(graph, software) < 3, "0: both were decoded in software"
        else:
            np.testing.assert_allclose(graph, software, atol=1e-3)


def test_joined_broadcasts_whose_clocks_both_begin_anew_are_refused(tmp_path: Path):
    parts = [write_video(tmp_path / f"{name}.ts", num_frames=NUM_FRAMES) for name in "ab"]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))

    with pytest.raises(DataError, match=r"joined\.ts does not decode: its time stamps jump back"):
        probe_video(path)


def test_two_frames_that_are_shown_at_the_same_time_are_refused(tmp_path: Path):
    plain = write_video(tmp_path / "plain.mkv", codec="libvpx-vp9", num_frames=NUM_FRAMES)
    path = tmp_path / "twice.mkv"
    with av.open(plain) as container, av.open(path, "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(video=0)):
            if packet.size:
                packet.pts = packet.dts = 67 * min(number, 20)
                packet.stream = stream
                output.mux(packet)
                if number == 21:
                    break

    assert numbers(software_frames(path, end_s=1.0)) == list(range(15))
    with pytest.raises(DataError, match="two of its frames are shown at the same time"):
        software_frames(path)


def test_interlaced_recordings_are_decoded_in_software(tmp_path: Path):
    fields = {"preset": "veryfast", "x264-params": "tff=1"}
    path = write_video(tmp_path / "fields.mp4", num_frames=NUM_FRAMES, options=fields)
    times, images = decode_all(path, size=SIZE)

    frames = software_frames(path, start_s=times[9], end_s=times[21])

    np.testing.assert_array_equal(frames, images[9:21])
    assert choose_decoder(read_format(path), "mixed") == "software"
