"""Copies present the same frames at the same times, and a job of copies loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from fla.data.check import find_bad_clips
from fla.data.decode.encode import ENCODERS, Target, can_hold, encode_video
from fla.data.decode.video import in_range, probe_video, read_frames
from fla.data.manifest import Sample, check_manifest, read_manifest, write_manifest
from fla.data.transcode import check_space, notes_path
from fla.errors import DataError
from tests.helpers.commands import ROOT, environment, python, run, run_well
from tests.helpers.videos import (
    decode_all,
    hide_first_frames,
    hide_last_frames,
    numbered_frame,
    read_number,
    write_image,
    write_video,
)

SOURCE_PX, COPY_PX = 128, 64
NUM_FRAMES = 40
FULL_RANGE, BT709 = 2, 1
# 25 frames a second, then half as many, then a gap.
UNEVEN_MS = [40 * n for n in range(20)] + [760 + 80 * n for n in range(1, 11)]
UNEVEN_MS += [4000 + 7 * n for n in range(10)]


def target(codec: str = "h264", **changes: int) -> Target:
    return Target(
        **{
            "codec": codec, "crf": ENCODERS[codec].crf, "short_side_px": COPY_PX,
            "key_frame_every": 12, **changes,
        }
    )  # fmt: skip


def copy_of(source: Path, codec: str = "h264", **changes: int) -> Path:
    copy = source.with_name(f"copy-{source.name}")
    encode_video(source, copy, target(codec, **changes))
    return copy


def write_frames(
    path: Path,
    *,
    width: int = SOURCE_PX,
    height: int = SOURCE_PX,
    rotation: int = 0,
    color_range: int = 1,
    matrix: int = 2,
    codec: str = "libx264",
    container: str | None = None,
) -> Path:
    """Numbered frames, 25 a second; range and matrix by FFmpeg's numbers."""
    with av.open(path, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.color_range = color_range
        stream.codec_context.colorspace = matrix
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(NUM_FRAMES):
            square = av.VideoFrame.from_ndarray(numbered_frame(number, size=SOURCE_PX))
            frame = square.reformat(
                width, height, "yuv420p",
                dst_colorspace=1 if matrix == BT709 else 5, dst_color_range=color_range,
            )  # fmt: skip
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def write_b_frames(folder: Path) -> Path:
    return write_video(folder / "a.mp4", num_frames=NUM_FRAMES, size=SOURCE_PX)


def write_uneven(folder: Path, name: str = "a.mp4") -> Path:
    return write_video(folder / name, num_frames=NUM_FRAMES, size=SOURCE_PX, times_ms=UNEVEN_MS)


def write_uneven_matroska(folder: Path) -> Path:
    return write_uneven(folder, "a.mkv")


def write_late(folder: Path) -> Path:
    times_ms = [1733 + 40 * n for n in range(NUM_FRAMES)]
    return write_video(folder / "a.mkv", num_frames=NUM_FRAMES, size=SOURCE_PX, times_ms=times_ms)


def write_ntsc(folder: Path) -> Path:
    """MPEG-TS at 30000/1001 frames a second, which begins at 1.4 s."""
    path = folder / "a.ts"
    with av.open(write_b_frames(folder)) as source, av.open(path, "w") as output:
        copied = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                # 3003 ticks of 1/90000 s instead of a fifteenth of a second.
                packet.pts, packet.dts = (
                    round(float(t * packet.time_base) * 15) * 3003 for t in (packet.pts, packet.dts)
                )
                packet.time_base, packet.stream = Fraction(1, 90000), copied
                output.mux(packet)
    return path


def write_hidden_begin(folder: Path) -> Path:
    return hide_first_frames(write_b_frames(folder), folder / "b.mp4", num_hidden=7)


def write_hidden_end(folder: Path) -> Path:
    return hide_last_frames(write_b_frames(folder), folder / "b.mp4", shown_s=2.0)


def write_vp9(folder: Path) -> Path:
    return write_video(folder / "a.mkv", num_frames=NUM_FRAMES, size=SOURCE_PX, codec="libvpx-vp9")


def write_mjpeg(folder: Path) -> Path:
    return write_video(folder / "a.avi", num_frames=NUM_FRAMES, size=SOURCE_PX, codec="mjpeg")


def read_all(path: Path, *, size: int = COPY_PX) -> NDArray[np.int16]:
    """Every frame by the project's own decoder."""
    times = probe_video(path).frame_times
    return read_frames(
        path, start_s=0, end_s=times[-1] + 1, num_frames=len(times),
        frame_numbers=np.arange(len(times), dtype=np.int32), height=size, width=size,
    ).astype(np.int16)  # fmt: skip


SOURCES = (
    write_b_frames, write_uneven, write_uneven_matroska, write_late, write_ntsc,
    write_hidden_begin, write_hidden_end, write_vp9, write_mjpeg,
)  # fmt: skip


@pytest.mark.parametrize("write", SOURCES)
def test_a_copy_presents_the_same_frames_at_the_same_times(
    write: Callable[[Path], Path], tmp_path: Path
):
    source = write(tmp_path)

    copy = copy_of(source)

    source_times, source_images = decode_all(source, size=COPY_PX)
    copy_times, copy_images = decode_all(copy, size=COPY_PX)
    np.testing.assert_allclose(copy_times, source_times, rtol=0, atol=1e-6)
    assert [*map(read_number, copy_images)] == [*map(read_number, source_images)]
    assert np.abs(read_all(copy) - read_all(source)).mean() < 4
    assert probe_video(copy).height == COPY_PX
    with av.open(copy) as container:
        starts_s = next(container.decode(video=0)).time
    # Where the container does not begin elsewhere by itself.
    assert starts_s == 0 or copy.suffix in (".avi", ".ts")


@pytest.mark.parametrize("codec", ENCODERS)
def test_every_codec_keeps_times_color_and_orientation(codec: str, tmp_path: Path):
    source = write_frames(
        tmp_path / "a.mp4", rotation=90, color_range=FULL_RANGE, matrix=BT709, height=96
    )

    copy = copy_of(source, codec)

    with av.open(copy) as container:
        frame = next(container.decode(video=0))
    np.testing.assert_allclose(
        probe_video(copy).frame_times, probe_video(source).frame_times, rtol=0, atol=1e-6
    )
    assert probe_video(copy).codec == codec
    assert (frame.rotation, frame.color_range, frame.width, frame.height) == (90, 2, 86, 64)
    assert np.abs(read_all(copy) - read_all(source)).mean() < 4


@pytest.mark.parametrize("color_range", [1, FULL_RANGE])
@pytest.mark.parametrize("matrix", [2, BT709])
def test_scaling_moves_no_color(color_range: int, matrix: int, tmp_path: Path):
    source = write_frames(tmp_path / "a.mp4", color_range=color_range, matrix=matrix)

    copy = copy_of(source, crf=1)

    # Of means, the codec's noise is gone: what is left would be another matrix or range.
    # At a size that neither has: swscale rounds otherwise where it need not scale.
    shift = (read_all(copy, size=48) - read_all(source, size=48)).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(shift, 0, atol=0.3)
    with av.open(copy) as container:
        frame = next(container.decode(video=0))
    # Limited is also what goes without saying.
    assert (frame.color_range == FULL_RANGE) == (color_range == FULL_RANGE)
    assert frame.colorspace == matrix


def test_a_limited_source_as_jpeg_becomes_full(tmp_path: Path):
    source = write_frames(tmp_path / "a.mp4")

    copy = copy_of(source, "mjpeg")

    # Not converted, dark and bright would be off by 12 to 16 levels.
    assert np.abs(read_all(copy, size=48) - read_all(source, size=48)).mean() < 4


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_copy_has_short_closed_gops_and_no_reordering(codec: str, tmp_path: Path):
    # Its key frames and B-frames are at other places.
    source = write_video(
        tmp_path / "a.mp4", num_frames=NUM_FRAMES, size=SOURCE_PX, key_frame_every=7
    )

    copy = copy_of(source, codec, key_frame_every=5)

    with av.open(copy) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert keys == list(range(0, NUM_FRAMES, 1 if codec == "mjpeg" else 5))
    assert all(packet.pts == packet.dts for packet in packets)
    assert b"elst" not in copy.read_bytes()
    with av.open(copy) as container:
        whole = [frame.to_ndarray() for frame in container.decode(video=0)]
    with av.open(copy) as container:
        context = container.streams.video[0].codec_context
        rest = [packet for packet in container.demux(video=0) if packet.size][keys[1] :]
        alone = [frame for packet in [*rest, None] for frame in context.decode(packet)]
    np.testing.assert_array_equal([f.to_ndarray() for f in alone], whole[keys[1] :])


@pytest.mark.parametrize(
    ("source", "short_side_px", "copy"),
    [
        ((128, 96), 64, (86, 64)),
        ((96, 128), 64, (64, 86)),
        ((128, 96), 96, (128, 96)),
        ((128, 96), 200, (128, 96)),
        ((50, 38), 64, (50, 38)),
    ],
)
def test_proportions_are_kept_and_nothing_grows(
    source: tuple[int, int], short_side_px: int, copy: tuple[int, int], tmp_path: Path
):
    width, height = source
    path = write_frames(tmp_path / "a.mp4", width=width, height=height)

    info = probe_video(copy_of(path, short_side_px=short_side_px))

    assert (info.width, info.height) == copy


def test_odd_sides_lose_a_pixel(tmp_path: Path):
    source = write_frames(tmp_path / "a.mkv", width=51, height=37, codec="libvpx-vp9")

    info = probe_video(copy_of(source))

    assert (info.width, info.height) == (50, 36)


def test_times_that_a_container_cannot_hold_are_refused(tmp_path: Path):
    # Fifteenths of a second, and Matroska rounds to milliseconds.
    source = write_b_frames(tmp_path).rename(tmp_path / "a.mkv")

    with pytest.raises(
        DataError, match=r"a\.mkv cannot be copied .* frame at 2\.066667 s .* at 2\.067000 s"
    ):
        copy_of(source)


def test_an_orientation_that_a_container_cannot_hold_is_refused(tmp_path: Path):
    # It is an mp4, but the copy's container is chosen by the suffix.
    source = write_frames(tmp_path / "a.flv", rotation=90, container="mp4")

    with pytest.raises(DataError, match=r"a\.flv cannot be copied .* in another orientation"):
        copy_of(source)


def test_a_frame_that_the_decoder_made_up_is_not_copied(tmp_path: Path):
    source = write_b_frames(tmp_path)
    with av.open(source) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    damaged = max(packets[5:20], key=lambda packet: packet.size)
    data = bytearray(source.read_bytes())
    end = damaged.pos + damaged.size
    data[end - 30 : end] = np.random.default_rng(0).bytes(30)
    source.write_bytes(data)

    # The decoder itself finds nothing wrong.
    decode_all(source, size=COPY_PX)
    with pytest.raises(
        DataError, match=r"of its 40 frames, the one at \d\.\d+ s is missing or dam"
    ):
        copy_of(source)


def test_what_a_container_can_hold_is_tried():
    assert can_hold(".mp4", "h264")
    assert can_hold(".webm", "vp9")
    assert not can_hold(".webm", "h264")
    assert not can_hold(".mov", "vp9")
    assert not can_hold(".nothing", "h264")


def test_a_full_disk_is_noticed_before_the_work_begins(tmp_path: Path):
    with pytest.raises(DataError, match=r"need about 1e\+09 GB, .* GB are free"):
        check_space(tmp_path / "not" / "there", 10**18)


# The tool.


def write_corpus(folder: Path, *, more: int = 0) -> Path:
    """Two clips each of recordings in subfolders, even and uneven, H.264 and VP9."""
    for name in ("even", "uneven", "vp9", "more"):
        (folder / "videos" / name).mkdir(parents=True)
    write_b_frames(folder / "videos" / "even")
    write_uneven(folder / "videos" / "uneven")
    write_vp9(folder / "videos" / "vp9")
    names = ["even/a.mp4", "uneven/a.mp4", "vp9/a.mkv"]
    for number in range(more):
        names.append(f"more/{number}.mp4")
        shutil.copy(folder / "videos" / names[number % 2], folder / "videos" / names[-1])
    samples = []
    for name in names:
        info = probe_video(folder / "videos" / name)
        for start_s, end_s in ((0.0, 1.0), (1.0, 5.0)):
            samples.append(
                Sample(
                    id=f"{name}-{start_s}", video=name, start_s=start_s, end_s=end_s,
                    fps=info.fps, signer="", sentence="Hello.",
                    num_frames=int(in_range(info.frame_times, start_s, end_s).sum()),
                )
            )  # fmt: skip
    write_manifest(folder / "train.tsv", samples, root=folder / "videos")
    write_manifest(folder / "dev.tsv", samples[:2], root=folder / "videos")
    return folder / "train.tsv"


def tool(manifests: Path | list[Path], output: Path, *words: str) -> list[str]:
    named = [manifests] if isinstance(manifests, Path) else manifests
    size = ("--short-side-px", str(COPY_PX))
    return python("tools/transcode.py", *named, output, *size, *words)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def noted(output: Path) -> list[str]:
    """Copies in the order in which they were made; none before the notes are there."""
    if not notes_path(output).exists():
        return []
    lines = notes_path(output).read_text().splitlines()[1:]
    return [json.loads(line)["copy"] for line in lines if line.endswith("}")]


def start_tool(manifest: Path, output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        tool(manifest, output),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that a shell has put in the background inherit that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_a_copy(output: Path) -> None:
    deadline_s = time.monotonic() + 60
    while not noted(output):
        assert time.monotonic() < deadline_s, "nothing was copied"
        time.sleep(0.01)


def test_the_same_manifests_work_with_the_copies(tmp_path: Path):
    path = write_corpus(tmp_path)
    output = tmp_path / "copies"

    dry = run_well(tool(path, output, "--dry-run"))
    existed = output.exists()
    (tmp_path / "videos").rename(tmp_path / "moved")
    moved = run(tool(path, output, "--dry-run"))
    moved_dry = run_well(tool(path, output, "--dry-run", "--video-root", str(tmp_path / "moved")))
    (tmp_path / "moved").rename(tmp_path / "videos")
    done = run_well(tool([tmp_path / "dev.tsv", path], output))
    again = run_well(tool(path, output))

    manifest, copies = read_manifest(path), read_manifest(path, video_root=str(output))
    check_manifest(copies)
    assert find_bad_clips(copies, on_progress=lambda done, total: None) == []
    for before, after in zip(manifest.samples, copies.samples, strict=True):
        assert before == after
    assert not existed
    assert moved.returncode == 1
    assert moved.stderr.endswith("in data.video_root (tools: --video-root).\n")
    for words in (dry.stdout, moved_dry.stdout, done.stdout):
        assert "3 recordings, 0 have their copies." in words
        assert "times as fast; about " in words
    assert "3 copies made, 0 recordings have none." in done.stdout
    assert "3 recordings, 3 have their copies." in again.stdout
    assert files_below(output) == {
        "even/a.mp4", "uneven/a.mp4", "vp9/a.mkv", "transcoded.jsonl"
    }  # fmt: skip


def test_a_killed_job_goes_on_and_redoes_only_what_has_changed(tmp_path: Path):
    path = write_corpus(tmp_path, more=60)
    output = tmp_path / "copies"
    job = start_tool(path, output)
    wait_for_a_copy(output)

    job.kill()
    job.communicate()
    left = len(files_below(output))
    # Half a line and half a copy, as a kill at another moment leaves them.
    with notes_path(output).open("a") as notes:
        notes.write('{"copy": "vp9/')
    (output / "more" / "59.mp4.unfinished").write_bytes(b"half")
    kept = {name: (output / name).stat().st_mtime_ns for name in noted(output)}
    changed = noted(output)[0]
    os.utime(tmp_path / "videos" / changed, ns=(1, 1))
    run_well(tool(path, output))
    last = run_well(tool(path, output))

    assert left < 60
    assert "63 recordings, 63 have their copies." in last.stdout
    now = {name: (output / name).stat().st_mtime_ns for name in kept}
    assert [name for name in kept if kept[name] != now[name]] == [changed]
    assert files_below(output) == {"transcoded.jsonl"} | files_below(tmp_path / "videos")
    assert find_bad_clips(
        read_manifest(path, video_root=str(output)), on_progress=lambda done, total: None
    ) == []  # fmt: skip


def test_ctrl_c_ends_the_job_with_one_sentence(tmp_path: Path):
    path = write_corpus(tmp_path, more=60)
    job = start_tool(path, tmp_path / "copies")
    wait_for_a_copy(tmp_path / "copies")

    os.killpg(job.pid, signal.SIGINT)
    _, errors = job.communicate(timeout=30)

    assert (job.returncode, errors) == (130, "error: stopped by Ctrl-C.\n")


def test_a_damaged_recording_is_named_and_the_others_are_copied(tmp_path: Path):
    path = write_corpus(tmp_path)
    damaged = tmp_path / "videos" / "even" / "a.mp4"
    data = damaged.read_bytes()
    middle = len(data) // 2
    damaged.write_bytes(data[:middle] + bytes(2000) + data[middle + 2000 :])

    done = run(tool(path, tmp_path / "copies"))

    assert done.returncode == 1
    assert f"{damaged} does not decode: " in done.stdout
    assert "2 copies made, 1 recordings have none." in done.stdout
    assert "Traceback" not in done.stderr
    assert files_below(tmp_path / "copies") == {"uneven/a.mp4", "vp9/a.mkv", "transcoded.jsonl"}


def test_other_settings_are_refused_with_both_values(tmp_path: Path):
    path = write_corpus(tmp_path)
    run_well(tool(path, tmp_path / "copies"))

    done = run(tool(path, tmp_path / "copies", "--key-frame-every", "6"))

    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / 'copies'} was begun with --key-frame-every 12, and this is "
        "--key-frame-every 6. Keep to it, or name another OUT_DIR.\n"
    )


def refusal(manifests: Path | list[Path], output: Path, *words: str) -> str:
    done = run(tool(manifests, output, *words))
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_what_cannot_be_transcoded_is_refused_before_the_work_begins(tmp_path: Path):
    path = write_corpus(tmp_path)
    output = tmp_path / "copies"
    first = read_manifest(path).samples[0]

    def manifest_of(name: str, root: Path, **changes: str) -> Path:
        row = Sample(**{**vars(first), **changes})
        write_manifest(tmp_path / name, [row], root=root)
        return tmp_path / name

    (tmp_path / "videos" / "images").mkdir()
    write_image(tmp_path / "videos" / "images" / "1.png", 1, size=32)
    images = manifest_of("images.tsv", tmp_path / "videos", video="images")
    outside = manifest_of("outside.tsv", tmp_path / "videos" / "vp9", video="../even/a.mp4")
    shutil.copy(write_vp9(tmp_path), tmp_path / "videos" / "a.webm")
    webm = manifest_of("webm.tsv", tmp_path / "videos", video="a.webm")
    other = manifest_of("other.tsv", tmp_path / "videos" / "even", video="a.mp4")
    third = manifest_of("third.tsv", tmp_path / "videos" / "uneven", video="a.mp4")

    assert "only recordings are transcoded" in refusal(images, output)
    assert "outside.tsv:3: ../even/a.mp4 is not below" in refusal(outside, output)
    assert "'.webm' files cannot hold h264. Use --codec vp9 or av1." in refusal(webm, output)
    assert "but for another manifest it is" in refusal([other, third], output)
    assert "would be replaced by its own copy" in refusal(path, tmp_path / "videos")
    assert "--crf (20) means nothing to mjpeg" in refusal(
        path, output, "--codec", "mjpeg", "--crf", "20"
    )
    assert not output.exists()
    shutil.copytree(tmp_path / "videos", output)
    assert "is no copy that this tool made" in refusal(path, output)
