"""Damaged files end in frames or in one sentence: no other error, no crash, no waiting."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, environment
from tests.helpers.videos import write_image, write_video

# Recordings are small, so that a turned bit meets something: about 2 to 10 kB.
VIDEOS = {
    "h264.mp4": "libx264",
    "h264.ts": "libx264",
    "vp9.webm": "libvpx-vp9",
    "mjpeg.avi": "mjpeg",
}
METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "lzma": zipfile.ZIP_LZMA,
}
FEW, MANY = 260, 5_000


def write_source(name: str, folder: Path) -> Path:
    path = folder / name
    if name in VIDEOS:
        return write_video(path, codec=VIDEOS[name], num_frames=20, size=32, key_frame_every=8)
    if path.suffix != ".zip":
        return write_image(path, 2, size=32)
    with zipfile.ZipFile(path, "w", METHODS[path.stem]) as file:
        for number in range(6):
            image = write_image(folder / f"{number}.png", number, size=32)
            file.write(image, f"clip/{number}.png")
    return path


def fuzz(name: str, folder: Path, *, count: int, timeout_s: float) -> dict[str, int]:
    """Read so many damaged copies in a process of its own; how often each end was met."""
    (folder / "source").mkdir()
    (folder / "damaged").mkdir()
    source = write_source(name, folder / "source")
    if source.suffix in (".png", ".jpg"):
        for number in range(6):
            write_image(folder / "damaged" / f"{number}{source.suffix}", number, size=32)
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.fuzz", source, folder / "damaged", str(count)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    last = (folder / "damaged" / "last.txt").read_text()
    assert done.returncode == 0, f"variant {last}: {done.returncode}\n{done.stderr[-3000:]}"
    ends = (line.rsplit(" ", 1) for line in done.stdout.splitlines())
    return {end: int(times) for end, times in ends}


SOURCES = [*VIDEOS, "image.png", "image.jpg", "stored.zip", "deflated.zip", "lzma.zip"]


@pytest.mark.parametrize("name", SOURCES)
def test_a_damaged_file_ends_in_frames_or_in_a_sentence(name: str, tmp_path: Path):
    ends = fuzz(name, tmp_path, count=FEW, timeout_s=120)

    what = "read_frames" if name in VIDEOS else "read_image_frames"
    assert ends[f"{what}: refused"] > FEW / 10, "the damage is too small to matter"
    # The smallest change of a PNG shows in its checksums.
    assert name == "image.png" or ends[f"{what}: read"] > 0, "the damage is too large"


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_many_damaged_files_end_in_frames_or_in_a_sentence(name: str, tmp_path: Path):
    fuzz(name, tmp_path, count=MANY, timeout_s=1200)
