"""The check finds every clip that does not decode, names it, and does no work twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fla.data.check import find_bad_clips, notes_path
from fla.data.manifest import Manifest, Sample, read_manifest, write_manifest
from tests.helpers.videos import turn_video, write_image, write_video

ROOT = Path(__file__).parents[2]
SECONDS = 4


def write_corpus(folder: Path) -> Path:
    """Four clips of a recording at 15 frames a second, then one of 4 images; all good."""
    write_video(folder / "recording.mp4", num_frames=15 * SECONDS, key_frame_every=15)
    (folder / "images").mkdir()
    for number in range(4):
        write_image(folder / "images" / f"{number}.png", number, size=32)
    samples = [
        sample(f"clip-{second}", "recording.mp4", start_s=second, end_s=second + 1, num_frames=15)
        for second in range(SECONDS)
    ]
    samples.append(sample("images", "images", start_s=0, end_s=4 / 15, num_frames=4))
    write_manifest(folder / "train.tsv", samples, root=folder)
    return folder / "train.tsv"


def sample(id_: str, video: str, *, start_s: float, end_s: float, num_frames: int) -> Sample:
    return Sample(
        id=id_, video=video, start_s=float(start_s), end_s=float(end_s), fps=15.0,
        num_frames=num_frames, signer="", sentence="Hello.",
    )  # fmt: skip


def check(manifest: Manifest) -> tuple[list[str], list[tuple[int, int]]]:
    """The faults, and every progress that was told."""
    told: list[tuple[int, int]] = []
    faults = find_bad_clips(manifest, on_progress=lambda done, total: told.append((done, total)))
    return faults, told


def damage(path: Path, *, first: float, last: float) -> bytes:
    """Overwrite a part of a file; the bytes that it had."""
    before = path.read_bytes()
    begin, end = int(len(before) * first), int(len(before) * last)
    path.write_bytes(before[:begin] + bytes(end - begin) + before[end:])
    return before


def spoil_unseen(path: Path) -> None:
    """Overwrite a file so that neither size nor time tells of it."""
    about = path.stat()
    path.write_bytes(bytes(about.st_size))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_clips_that_do_not_decode_are_named_and_the_others_are_not(tmp_path: Path):
    manifest = read_manifest(write_corpus(tmp_path))
    (tmp_path / "images" / "2.png").write_bytes(b"")
    damage(tmp_path / "recording.mp4", first=0.5, last=0.6)

    faults, told = check(manifest)

    names = {fault.partition(":")[0] for fault in faults}
    assert "images" in names
    assert names & {"clip-1", "clip-2", "clip-3"}
    assert "clip-0" not in names
    assert told[0] == (0, 5)
    assert told[-1] == (5, 5)


def test_a_second_check_decodes_only_what_failed(tmp_path: Path):
    manifest = read_manifest(write_corpus(tmp_path))
    image = tmp_path / "images" / "2.png"
    good = image.read_bytes()
    image.write_bytes(b"")
    first, _ = check(manifest)
    # Nobody may open it again.
    spoil_unseen(tmp_path / "recording.mp4")
    image.write_bytes(good)

    second, told = check(manifest)

    assert [fault.partition(":")[0] for fault in first] == ["images"]
    assert second == []
    assert told[0] == (4, 5)


def test_an_image_that_cannot_be_looked_at_is_named_like_others(tmp_path: Path):
    manifest = read_manifest(write_corpus(tmp_path))
    (tmp_path / "images" / "2.png").unlink()
    (tmp_path / "images" / "2.png").symlink_to(tmp_path / "nowhere.png")

    faults, told = check(manifest)

    assert [fault.partition(":")[0] for fault in faults] == ["images"]
    assert told[-1] == (5, 5)


@pytest.mark.parametrize("name", ["recording.mp4", "images/2.png"])
def test_a_recording_that_has_changed_is_decoded_again(tmp_path: Path, name: str):
    manifest = read_manifest(write_corpus(tmp_path))
    first, _ = check(manifest)

    damage(tmp_path / name, first=0.3, last=0.9)
    second, told = check(manifest)

    assert first == []
    assert second
    assert told[0] == ((1, 5) if name == "recording.mp4" else (4, 5))


def test_a_check_that_was_killed_in_a_line_goes_on(tmp_path: Path):
    manifest = read_manifest(write_corpus(tmp_path))
    check(manifest)
    notes = notes_path(manifest.path)
    notes.write_text(notes.read_text()[:-4])

    faults, told = check(manifest)
    _, told_again = check(manifest)

    assert (faults, told[0]) == ([], (4, 5))
    assert told_again == [(5, 5)]


def test_another_manifest_is_checked_from_the_beginning(tmp_path: Path):
    path = write_corpus(tmp_path)
    check(read_manifest(path))
    path.write_text(path.read_text().replace("Hello.", "Good bye."))

    _, told = check(read_manifest(path))

    assert told[0] == (0, 5)


def test_videos_elsewhere_are_checked_from_the_beginning(tmp_path: Path):
    (tmp_path / "here").mkdir()
    path = write_corpus(tmp_path / "here")
    elsewhere = shutil.copytree(tmp_path / "here", tmp_path / "elsewhere")
    check(read_manifest(path))

    _, told = check(read_manifest(path, video_root=str(elsewhere)))

    assert told[0] == (0, 5)


@pytest.mark.parametrize("is_bad", [False, True])
def test_the_tool_ends_with_1_where_a_clip_is_bad(is_bad: bool, tmp_path: Path):
    path = write_corpus(tmp_path)
    if is_bad:
        (tmp_path / "images" / "2.png").write_bytes(b"")

    done = subprocess.run(
        [sys.executable, "tools/check_data.py", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == int(is_bad), done.stderr
    assert f"{path}: 5 clips, {int(is_bad)} do not decode." in done.stdout
    assert ("2.png is no image that decodes" in done.stdout) == is_bad


def write_damaged_corpus(folder: Path) -> tuple[Path, list[str]]:
    """Recordings that were cut, overwritten, replaced or turned; the ids of those that are bad."""
    folder.mkdir()
    kinds = {"h264.mp4": "libx264", "vp9.webm": "libvpx-vp9", "mjpeg.avi": "mjpeg"}
    samples, bad = [], []
    for name, codec in kinds.items():
        good = write_video(folder / name, codec=codec, num_frames=30, key_frame_every=10)
        data = good.read_bytes()
        half, tenth = len(data) // 2, len(data) // 10
        copies = {
            "cut": data[:half],
            "zeros": data[:half] + bytes(3 * tenth) + data[half + 3 * tenth :],
            "empty": b"",
            "text": b"<html>404</html>" * 99,
        }
        for damage, copy in copies.items():
            (folder / f"{damage}-{name}").write_bytes(copy)
            bad.append(f"{damage}-{name}")
        for video in (name, *(f"{damage}-{name}" for damage in copies)):
            samples.append(sample(video, video, start_s=0, end_s=2, num_frames=30))
    turned = turn_video(folder / "h264.mp4", folder / "turned.mp4", matrix=(0, 1, -1, 0))
    tilted = turn_video(folder / "h264.mp4", folder / "tilted.mp4", matrix=(1, 1, -1, 1))
    for path in (turned, tilted):
        samples.append(sample(path.name, path.name, start_s=0, end_s=2, num_frames=30))
    write_manifest(folder / "train.tsv", samples, root=folder)
    return folder / "train.tsv", [*bad, "tilted.mp4"]


def test_the_tool_names_the_bad_clips_of_every_manifest_and_only_those(tmp_path: Path):
    good = write_corpus(tmp_path)
    damaged, bad = write_damaged_corpus(tmp_path / "damaged")

    done = subprocess.run(
        [sys.executable, "tools/check_data.py", str(damaged), str(good)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    sentences = [line for line in done.stdout.splitlines() if " clips, " not in line]
    named = [line.partition(": ")[0] for line in sentences if line.partition(": ")[0] in bad]
    assert named == bad
    assert f"{damaged}: 17 clips, 13 do not decode." in done.stdout
    assert f"{good}: 5 clips, 0 do not decode." in done.stdout


def test_ctrl_c_ends_the_tool_at_once_with_one_sentence_and_keeps_what_was_done(tmp_path: Path):
    path = write_corpus(tmp_path)
    good = list(read_manifest(path).samples)
    many = [replace(good[n % SECONDS], id=f"clip-{n}") for n in range(20_000)]
    write_manifest(path, many, root=tmp_path)
    tool = subprocess.Popen(
        [sys.executable, "tools/check_data.py", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        # Tests that a shell has put in the background inherit that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    notes = notes_path(path)
    deadline_s = time.monotonic() + 60
    while not notes.exists() or len(notes.read_text().splitlines()) < 20:
        assert time.monotonic() < deadline_s, "nothing was checked"
        time.sleep(0.1)

    # As a terminal does: to the tool and to all that it has started.
    os.killpg(tool.pid, signal.SIGINT)
    _, errors = tool.communicate(timeout=30)

    assert (tool.returncode, errors) == (130, "error: stopped by Ctrl-C.\n")
    assert len(notes.read_text().splitlines()) >= 20
