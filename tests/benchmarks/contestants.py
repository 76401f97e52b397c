"""The ways from compressed clips to a packed batch, ours and those of others, written by hand.

Each maker opens what its way keeps open and returns a function from jobs to frames: float32,
normalized, packed clip after clip, `(R, 3, CROP_PX, CROP_PX)`. A contestant is imported by its
maker alone, so that one that does not import costs only its own row.
"""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fla.data.sampling import choose_frames, sample_rng, train_warp
from tests.benchmarks.material import SEED, Clip

RESIZE_PX, CROP_PX = 256, 224
STRIDE = 4
MAX_FRAMES = 300

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""For values from 0 to 1. Not fla's own: peers know nothing of it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip, which of its frames are wanted, and where to crop them."""

    clip: Clip
    frame_numbers: NDArray[np.int32]
    """Counted from the clip's first frame, `(T,)`."""
    warp: NDArray[np.float32]
    """As in `sampling.train_warp`, `(2, 3)`."""

    @property
    def in_file(self) -> list[int]:
        """The wanted frames, counted from the recording's first."""
        return (self.clip.first_frame + self.frame_numbers).tolist()


Way = Callable[[Sequence[Job]], torch.Tensor]
"""Decodes one batch."""


def draw_jobs(clips: Sequence[Clip], *, augment: bool) -> list[Job]:
    """Every 4th frame and one crop a clip, drawn as in training.

    Args:
        augment: Rotation, scale and shift, too; else the crop is at a random place only.
    """
    jobs = []
    for number, clip in enumerate(clips):
        rng = sample_rng(seed=SEED, epoch=0, sample_id=str(number))
        numbers = choose_frames(clip.num_frames, stride=STRIDE, max_frames=MAX_FRAMES, rng=rng)
        warp = train_warp(
            rng,
            resize_px=RESIZE_PX,
            crop_px=CROP_PX,
            max_rotation_deg=30.0 * augment,
            max_rescale_fraction=0.2 * augment,
            max_shift_fraction=0.04 * augment,
        )
        jobs.append(Job(clip=clip, frame_numbers=numbers, warp=warp))
    return jobs


def make_ours() -> Way:
    """The pipeline, called as the loader calls it."""
    from fla.data.pipeline import ClipPipeline, ClipRequest

    pipeline = ClipPipeline(
        decode_device="cpu",
        dali_device_id=None,
        resize_px=RESIZE_PX,
        crop_px=CROP_PX,
        max_clips=4,
        num_threads=1,
    )

    def decode(jobs: Sequence[Job]) -> torch.Tensor:
        requests = [
            ClipRequest(
                sample_id=job.clip.path.name,
                path=job.clip.path,
                fps=job.clip.fps,
                start_s=job.clip.start_s,
                end_s=job.clip.end_s,
                num_frames=job.clip.num_frames,
                frame_numbers=job.frame_numbers,
                warp=job.warp,
            )
            for job in jobs
        ]
        return pipeline.run(requests)[0]

    return decode


def make_pyav() -> Way:
    """Seek, decode, and scale in the conversion to RGB; warp by OpenCV."""
    import av

    def read(job: Job) -> Iterator[NDArray[np.uint8]]:
        clip, wanted = job.clip, set(job.in_file)
        with av.open(str(clip.path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            ticks = 1 / (clip.fps * float(stream.time_base))
            container.seek(round(clip.first_frame * ticks), stream=stream)
            for frame in container.decode(stream):
                number = round(frame.pts / ticks)
                if number in wanted:
                    image = frame.reformat(RESIZE_PX, RESIZE_PX, "rgb24", interpolation="BILINEAR")
                    yield image.to_ndarray()
                if number >= max(wanted):
                    return

    return lambda jobs: _pack([_warp(read(job), job) for job in jobs])


def make_torchcodec(seek_mode: str) -> Way:
    """A range with a step, scaled by torchvision; warp by OpenCV."""
    from torchcodec.decoders import VideoDecoder
    from torchvision.transforms.v2.functional import resize

    def read(job: Job) -> Iterator[NDArray[np.uint8]]:
        numbers = job.in_file
        decoder = VideoDecoder(job.clip.path, num_ffmpeg_threads=1, seek_mode=seek_mode)
        frames = decoder.get_frames_in_range(numbers[0], numbers[-1] + 1, STRIDE).data
        yield from resize(frames, [RESIZE_PX, RESIZE_PX]).permute(0, 2, 3, 1).contiguous().numpy()

    return lambda jobs: _pack([_warp(read(job), job) for job in jobs])


def make_decord() -> Way:
    """A reader that scales, and a batch of frames; warp by OpenCV."""
    import decord

    def read(job: Job) -> Iterator[NDArray[np.uint8]]:
        reader = decord.VideoReader(
            str(job.clip.path), width=RESIZE_PX, height=RESIZE_PX, num_threads=1
        )
        yield from reader.get_batch(job.in_file).asnumpy()

    return lambda jobs: _pack([_warp(read(job), job) for job in jobs])


def make_opencv() -> Way:
    """Seek by frame number, grab what is not wanted, scale by area; warp by OpenCV."""
    import cv2

    cv2.setNumThreads(1)

    def read(job: Job) -> Iterator[NDArray[np.uint8]]:
        numbers = job.in_file
        capture = cv2.VideoCapture(str(job.clip.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        capture.set(cv2.CAP_PROP_POS_FRAMES, numbers[0])
        for number in range(numbers[0], numbers[-1] + 1):
            if number not in numbers:
                capture.grab()
                continue
            _, image = capture.read()
            small = cv2.resize(image, (RESIZE_PX, RESIZE_PX), interpolation=cv2.INTER_AREA)
            yield cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
        capture.release()

    return lambda jobs: _pack([_warp(read(job), job) for job in jobs])


def make_ffmpeg() -> Way:
    """Nothing but decoding the same ranges: what no way in software can beat by much."""
    from imageio_ffmpeg import get_ffmpeg_exe

    program = get_ffmpeg_exe()

    def decode(jobs: Sequence[Job]) -> torch.Tensor:
        for job in jobs:
            clip = job.clip
            span = ("-ss", f"{clip.start_s:.4f}", "-t", f"{clip.end_s - clip.start_s:.4f}")
            subprocess.run(
                [program, "-nostdin", "-v", "error", "-threads", "1", *span, "-i", str(clip.path),
                 "-map", "0:v:0", "-threads", "1", "-f", "null", "-"],
                check=True,
            )  # fmt: skip
        return torch.empty(0)

    return decode


def make_gfslt() -> Way:
    """As GFSLT-VLP reads PHOENIX14T, without its augmentation but for the crop's random place."""
    import cv2
    from PIL import Image
    from torchvision import transforms

    cv2.setNumThreads(1)
    to_tensor = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )

    def read(job: Job) -> torch.Tensor:
        paths = sorted(job.clip.path.iterdir())
        images = torch.zeros(len(job.frame_numbers), 3, CROP_PX, CROP_PX)
        x, y = (int(offset) for offset in job.warp[:, 2])
        for place, number in enumerate(job.frame_numbers):
            image = cv2.cvtColor(cv2.imread(str(paths[number])), cv2.COLOR_BGR2RGB)
            frame = to_tensor(Image.fromarray(image).resize((RESIZE_PX, RESIZE_PX)))
            images[place] = frame[:, y : y + CROP_PX, x : x + CROP_PX]
        return images

    return lambda jobs: torch.cat([read(job) for job in jobs])


def _warp(frames: Iterator[NDArray[np.uint8]], job: Job) -> NDArray[np.uint8]:
    """The crop of each frame, `(T, CROP_PX, CROP_PX, 3)`: the fastest that there is on a CPU."""
    import cv2

    cv2.setNumThreads(1)
    # From places counted in pixels from the corner to numbers of pixels, as OpenCV has them.
    warp = job.warp.astype(np.float64)
    warp[:, 2] += warp[:, :2] @ (0.5, 0.5) - 0.5
    crops = np.empty((len(job.frame_numbers), CROP_PX, CROP_PX, 3), np.uint8)
    for frame, crop in zip(frames, crops, strict=True):
        cv2.warpAffine(
            frame,
            warp,
            (CROP_PX, CROP_PX),
            dst=crop,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return crops


def _pack(clips: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    mean, std = (
        torch.tensor(values)[:, None, None] * 255 for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    frames = torch.from_numpy(np.concatenate(clips)).permute(0, 3, 1, 2)
    return frames.float().sub_(mean).div_(std)
