"""Decode many clips in this process and print what it holds: python -m tests.helpers.soak FOLDER N

A line for every batch of three clips, one of them decoded by DALI, one in software, one of
images: resident memory, memory in use by libraries and Python, both in kB, and open handles.
"""

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fla.data.pipeline import ClipPipeline, ClipRequest
from tests.helpers.videos import write_image, write_video

FPS = 15.0
NUM_FRAMES = 60
CLIPS_PER_BATCH = 3


class _Allocated(ctypes.Structure):
    """What glibc's mallinfo2 gives."""

    _fields_: Sequence[tuple[str, type]] = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks mapped usmblks fsmblks used free top".split()
    ]


def used_kb() -> float:
    """Memory that libraries and Python have taken and not given back."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Allocated
    allocated = libc.mallinfo2()
    return float(allocated.used + allocated.mapped) / 1024


def write_clips(folder: Path) -> list[Path]:
    """One recording for each way to decode."""
    (folder / "images").mkdir()
    for number in range(NUM_FRAMES):
        write_image(folder / "images" / f"{number}.jpg", number, size=160)
    return [
        folder / "images",
        write_video(folder / "h264.mp4", num_frames=NUM_FRAMES, key_frame_every=10, size=160),
        write_video(
            folder / "vp9.webm", codec="libvpx-vp9", num_frames=NUM_FRAMES, key_frame_every=10,
            size=160,
        ),
    ]  # fmt: skip


def request(path: Path, *, first: int, num_frames: int) -> ClipRequest:
    """So many frames of a recording."""
    return ClipRequest(
        sample_id=path.name, path=path, fps=FPS, start_s=first / FPS - 0.01,
        end_s=(first + num_frames) / FPS - 0.01, num_frames=num_frames,
        frame_numbers=np.arange(num_frames, dtype=np.int32), warp=np.eye(2, 3, dtype=np.float32),
    )  # fmt: skip


def main() -> None:
    paths, num_batches = write_clips(Path(sys.argv[1])), int(sys.argv[2])
    clips = ClipPipeline(
        decode_device="cpu", dali_device_id=None, resize_px=48, crop_px=40,
        max_clips=CLIPS_PER_BATCH, num_threads=2,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for batch in range(num_batches):
        # The longest come first: what DALI has once taken for a clip, it keeps for others.
        lengths = [30] * CLIPS_PER_BATCH if batch < 10 else rng.integers(1, 30, CLIPS_PER_BATCH)
        clips.run(
            [
                request(path, first=int(rng.integers(30)), num_frames=int(length))
                for path, length in zip(paths, lengths, strict=True)
            ]
        )
        status = Path("/proc/self/status").read_text().splitlines()
        resident_kb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
        print(resident_kb, used_kb(), len(list(Path("/proc/self/fd").iterdir())))
    clips.close()


if __name__ == "__main__":
    main()
