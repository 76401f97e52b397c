"""Read damaged copies of a file in this process: python -m tests.helpers.fuzz SOURCE FOLDER COUNT

What is read must end in frames or in a `DataError`, soon; anything else ends the process. The
copy that it happened with stays in the folder.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from fla.data.decode.images import read_image_frames
from fla.data.decode.video import copy_range, probe_video, read_format, read_frames
from fla.errors import DataError

MAX_S = 5.0
NUM_CUTS = 40
# Most of a small file is pictures; what holds them together lies near its ends.
ENDS = 600
FPS = 15.0
CHOSEN = np.array([0, 2, 5], np.int32)


def damaged(data: bytes, count: int) -> Iterator[bytes]:
    """The file cut short at many places, with a part of zeros, and with bits turned over."""
    for cut in range(NUM_CUTS):
        yield data[: len(data) * cut // NUM_CUTS]
        begin = len(data) * cut // NUM_CUTS
        yield data[:begin] + bytes(len(data) // NUM_CUTS) + data[begin + len(data) // NUM_CUTS :]
    rng = np.random.default_rng(0)
    for number in range(count):
        bytes_ = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(len(data), size=rng.integers(1, 20))
        if number % 2:
            places = np.where(places % 4, places % ENDS, -1 - places % ENDS) % len(data)
        bytes_[places] ^= (1 << rng.integers(8, size=len(places))).astype(np.uint8)
        yield bytes_.tobytes()


def open_graph() -> Callable[..., object]:
    """A function that sends a clip through the graph."""
    # It takes seconds, which most files need not wait for.
    from fla.data.pipeline import ClipPipeline, ClipRequest

    graph = ClipPipeline(
        decode_device="cpu", dali_device_id=None, resize_px=16, crop_px=16, max_clips=1,
        num_threads=1,
    )  # fmt: skip
    warp = np.eye(2, 3, dtype=np.float32)
    return lambda **clip: graph.run([ClipRequest(sample_id="sample", fps=FPS, warp=warp, **clip)])


def video_readers(
    path: Path, graph: Callable[..., object] | None
) -> dict[str, Callable[[], object]]:
    """What is asked of a recording; its range holds 8 frames where it is whole."""
    clip = {"start_s": 5 / FPS - 0.01, "end_s": 13 / FPS - 0.01, "num_frames": 8}

    def read() -> None:
        frames = read_frames(path, **clip, frame_numbers=CHOSEN, height=16, width=16)
        assert (frames.shape, frames.dtype) == ((3, 16, 16, 3), np.uint8)

    of_graph = {}
    if graph is not None:
        of_graph = {"graph": lambda: graph(path=path, frame_numbers=CHOSEN, **clip)}
    return of_graph | {
        "read_frames": read,
        "copy_range": lambda: copy_range(path, **clip),
        "probe_video": lambda: probe_video(path),
        "read_format": lambda: read_format(path),
    }


def image_readers(path: Path) -> dict[str, Callable[[], object]]:
    """What is asked of a folder of 6 images."""

    def read() -> None:
        frames = read_image_frames(
            path, fps=FPS, start_s=0.0, end_s=6 / FPS, num_frames=6, frame_numbers=CHOSEN,
            height=16, width=16,
        )  # fmt: skip
        assert (frames.shape, frames.dtype) == ((3, 16, 16, 3), np.uint8)

    return {"read_image_frames": read}


def main() -> None:
    source, folder, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    av.logging.set_level(av.logging.PANIC)
    # What DALI decodes on a CPU.
    graph = open_graph() if source.suffix in (".webm", ".avi") else None
    ends: Counter[str] = Counter()
    for number, data in enumerate(damaged(source.read_bytes(), count)):
        # A name of its own for each: opened archives are kept.
        path = folder / f"{number}{source.suffix}"
        if source.suffix in (".png", ".jpg"):
            readers = image_readers(folder)
            path = folder / f"2{source.suffix}"
        elif source.suffix == ".zip":
            readers = image_readers(path / "clip")
        else:
            readers = video_readers(path, graph)
        path.write_bytes(data)
        # Read by whoever finds that this process is gone.
        (folder / "last.txt").write_text(f"{number}")
        for name, read in readers.items():
            begin_s = time.monotonic()
            try:
                read()
                ends[f"{name}: read"] += 1
            except DataError as error:
                assert str(error).endswith("."), error
                assert "\n" not in str(error), error
                ends[f"{name}: refused"] += 1
            except BaseException as error:
                error.add_note(f"{name} of variant {number}, {path}")
                raise
            assert time.monotonic() - begin_s < MAX_S, f"{name} of variant {number}, {path}"
        if path.suffix not in (".png", ".jpg"):
            path.unlink()
    for end, times in sorted(ends.items()):
        print(f"{end} {times}")


if __name__ == "__main__":
    main()
