"""The DALI graph: compressed clips in, packed normalized frames out; one graph for every device.

DALI decodes what it can decode on its device. Other codecs, on a CPU H.264 among them, and frames
that lie as images are decoded in software and join the graph before the crop.

Shape letters: B = clips; T = frames of a clip; R = frames of all clips; S = resize_px; X = crop_px.
"""

import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline, pipeline_def
from nvidia.dali.types import DALIDataType
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.dlpack import from_dlpack

from fla.data.decode.images import read_image_frames
from fla.data.decode.video import VideoFormat, copy_range, read_format, read_frames
from fla.data.frame_folder import is_frame_folder
from fla.errors import DataError

# What torchvision's ResNet-18 was trained on, for values from 0 to 255.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

DALI_CODECS = {
    "cpu": frozenset({"vp8", "vp9", "mjpeg"}),
    "mixed": frozenset({"h264", "hevc", "vp8", "vp9"}),
}
"""Codecs that DALI decodes on each device; AV1 is missing on A100 and H100."""

NVDEC_LEAST_PX = {"h264": (48, 16), "hevc": (144, 144), "vp8": (48, 16), "vp9": (128, 128)}
"""Width and height of the smallest pictures that NVDEC decodes (NVDEC application note)."""

Decoder = Literal["dali", "software", "images"]
"""Who decodes a recording."""


class ClipError(DataError):
    """A clip does not decode.

    Args:
        sample_id: Of the clip.
        reason: A sentence that names the file.
    """

    def __init__(self, sample_id: str, reason: str) -> None:
        super().__init__(sample_id, reason)
        self.sample_id = sample_id

    def __str__(self) -> str:
        return ": ".join(self.args)


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """A clip to decode: which frames of which range, and where to crop them."""

    sample_id: str
    path: Path
    """A recording, or a folder of images."""
    fps: float
    """Frames a second, where they lie as images; a recording has time stamps."""
    start_s: float
    """First moment, in seconds after the recording's first presented frame."""
    end_s: float
    """End, exclusive, on the same clock."""
    num_frames: int
    """Frames that the range must hold."""
    frame_numbers: NDArray[np.int32]
    """Frames to decode, counted from the range's first, `(T,)`."""
    warp: NDArray[np.float32]
    """Place (x, y, 1) of the crop to place of the resized frame, `(2, 3)`, in pixels from the
    upper left corner."""


@dataclass(frozen=True, kw_only=True)
class _ClipInput:
    """One row of the graph's inputs; one of `encoded` and `host_frames` is a placeholder."""

    is_encoded: NDArray[np.bool_]
    encoded: NDArray[np.uint8]
    frame_numbers: NDArray[np.int32]
    """Frames counted from the first of `encoded`."""
    host_frames: NDArray[np.uint8]
    """`(T, S, S, 3)`."""
    warp: NDArray[np.float32]


class ClipPipeline:
    """Decodes, resizes, crops and normalizes the clips of one micro-batch after another.

    Args:
        decode_device: DALI's decoder: "mixed" is NVDEC.
        dali_device_id: GPU of the graph; None runs it on the CPU.
        resize_px: S, side of the square that frames are scaled to.
        crop_px: X, side of the square that comes out.
        max_clips: Most clips a call.
        num_threads: Threads of the graph, and as many that decode in software.
    """

    def __init__(
        self,
        *,
        decode_device: Literal["mixed", "cpu"],
        dali_device_id: int | None,
        resize_px: int,
        crop_px: int,
        max_clips: int,
        num_threads: int,
    ) -> None:
        self._decode_device = decode_device
        self._resize_px, self._crop_px = resize_px, crop_px
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._decoders: dict[Path, Decoder] = {}
        self._build: Callable[[], Pipeline] = partial(
            _clip_graph,
            batch_size=max_clips,
            num_threads=num_threads,
            device_id=dali_device_id,
            # Inputs are handed over call by call; the loader is what works ahead.
            prefetch_queue_depth=1,
            decode_device=decode_device,
            resize_px=resize_px,
            crop_px=crop_px,
        )
        self._graph = self._build()
        # Of its own: on torch's, packing would wait for all that training has asked for by then,
        # and the next clips with it. None: the CPU has no streams, and torch takes None for "stay".
        self._stream: Any = (
            None if dali_device_id is None else torch.cuda.Stream(dali_device_id, priority=-1)  # type: ignore[no-untyped-call]
        )

    def run(self, requests: Sequence[ClipRequest]) -> tuple[Tensor, Tensor]:
        """Decode clips, at most `max_clips`.

        Returns:
            Frames, float32, normalized with ImageNet's mean and deviation, packed clip after
            clip, `(R, 3, X, X)`, channels-last in memory, on the graph's device; and the length
            of each clip, int64, `(B,)`, on the CPU.

        Raises:
            ClipError: A clip does not decode; names the sample and the file.
        """
        inputs = list(self._threads.map(self._read, requests))
        with torch.cuda.stream(self._stream):
            try:
                clips = self._run_graph(inputs)
            except RuntimeError as error:
                # DALI does not say which clip it was, and after an error its graph is not to be
                # used.
                self._graph = self._build()
                raise self._find_fault(requests, inputs, error) from error
            lengths = torch.tensor([len(clip) for clip in clips])
            packed = _normalize(clips)
        if self._stream is not None:
            # DALI takes its memory back when `clips` goes, without asking torch's stream.
            self._stream.synchronize()
            # Memory of this stream that the consumer's reads: not to be used again before.
            packed.record_stream(torch.cuda.default_stream(packed.device))
        return packed.permute(0, 3, 1, 2), lengths

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _read(self, request: ClipRequest) -> _ClipInput:
        try:
            if request.path not in self._decoders:
                video = None if is_frame_folder(request.path) else read_format(request.path)
                self._decoders[request.path] = choose_decoder(video, self._decode_device)
            encoded = _read_encoded(request) if self._decoders[request.path] == "dali" else None
            return encoded or _read_host(request, self._decoders[request.path], self._resize_px)
        except DataError as error:
            raise ClipError(request.sample_id, str(error)) from error

    def _run_graph(self, inputs: Sequence[_ClipInput]) -> list[Tensor]:
        """Cropped clips, uint8, `(T, X, X, 3)`, still in DALI's memory."""
        size = self._crop_px
        corners = [
            _whole_corner(row.warp, resize_px=self._resize_px, crop_px=size) for row in inputs
        ]
        (clips,) = self._graph.run(
            is_encoded=[row.is_encoded for row in inputs],
            encoded=[row.encoded for row in inputs],
            frame_numbers=[row.frame_numbers for row in inputs],
            host_frames=[row.host_frames for row in inputs],
            is_warped=[np.array(corner is None) for corner in corners],
            warp=[row.warp for row in inputs],
        )
        frames = [from_dlpack(clips[index]) for index in range(len(inputs))]
        # What is not warped comes out whole.
        return [
            clip
            if corner is None
            else clip[:, corner[0] : corner[0] + size, corner[1] : corner[1] + size]
            for clip, corner in zip(frames, corners, strict=True)
        ]

    def _find_fault(
        self, requests: Sequence[ClipRequest], inputs: Sequence[_ClipInput], error: RuntimeError
    ) -> Exception:
        for request, row in zip(requests, inputs, strict=True):
            try:
                self._run_graph([row])
            except RuntimeError:
                self._graph = self._build()
                return _undecodable(request)
        return error


def choose_decoder(video: VideoFormat | None, decode_device: Literal["mixed", "cpu"]) -> Decoder:
    """Who decodes a recording on a device; None is a folder of images."""
    if video is None:
        return "images"
    has_codec = video.codec in DALI_CODECS[decode_device]
    # NVDEC of A100 and H100 has neither 10 bit nor 4:2:2 H.264.
    has_format = video.pixel_format in ("yuv420p", "yuvj420p")
    least = (1, 1)
    if has_codec and decode_device == "mixed":
        least = NVDEC_LEAST_PX[video.codec]
    is_large = video.width >= least[0] and video.height >= least[1]
    # DALI turns nothing, and what NVDEC makes of fields is not what software does.
    return "dali" if has_codec and has_format and is_large and video.is_plain else "software"


def _read_encoded(request: ClipRequest) -> _ClipInput | None:
    """Input for DALI's decoder; None where that would misread the pictures, or worse."""
    found = copy_range(
        request.path,
        start_s=request.start_s,
        end_s=request.end_s,
        num_frames=request.num_frames,
    )
    if not found.is_uniform:
        return None
    return _ClipInput(
        is_encoded=np.array(True),
        encoded=found.data,
        frame_numbers=request.frame_numbers + np.int32(found.first_frame),
        host_frames=np.zeros((1, 1, 1, 3), np.uint8),
        warp=request.warp,
    )


def _read_host(request: ClipRequest, decoder: Decoder, resize_px: int) -> _ClipInput:
    read_images = partial(read_image_frames, fps=request.fps, scale_rgb=scale_rgb)
    read = read_images if decoder == "images" else read_frames
    return _ClipInput(
        is_encoded=np.array(False),
        encoded=np.zeros(1, np.uint8),
        frame_numbers=request.frame_numbers,
        host_frames=read(
            request.path,
            start_s=request.start_s,
            end_s=request.end_s,
            num_frames=request.num_frames,
            frame_numbers=request.frame_numbers,
            height=resize_px,
            width=resize_px,
        ),
        warp=request.warp,
    )


def scale_rgb(images: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Bilinear with antialiasing, as DALI scales videos, and in a third of FFmpeg's time."""
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    scaled = interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    return scaled.permute(0, 2, 3, 1).numpy()


def _undecodable(request: ClipRequest) -> ClipError:
    return ClipError(
        request.sample_id,
        f"{request.path}, {request.start_s:.3f} s to {request.end_s:.3f} s does not decode. "
        "Replace the file, or leave it out.",
    )


def _whole_corner(
    warp: NDArray[np.float32], *, resize_px: int, crop_px: int
) -> tuple[int, int] | None:
    """Row and column of a crop that lies on whole pixels of the frame, else None."""
    column, row = (int(place) for place in warp[:, 2])
    is_whole = np.array_equal(warp, [[1, 0, column], [0, 1, row]])
    is_inside = min(row, column) >= 0 and max(row, column) <= resize_px - crop_px
    return (row, column) if is_whole and is_inside else None


def _normalize(clips: Sequence[Tensor]) -> Tensor:
    """Pack clips `(T, X, X, 3)` with levels of uint8 into one, float32, `(R, X, X, 3)`."""
    lengths = [len(clip) for clip in clips]
    _, height, width, channels = clips[0].shape
    # Here and not in the graph, so that what is four times as large is written once. A row of
    # pixels is one axis: three channels are too short a run for vector instructions.
    packed = _new_batch((sum(lengths), height, width * channels), clips[0].device)
    mean, std = (
        torch.tensor(values, device=packed.device).repeat(width)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    for clip, place in zip(clips, torch.split(packed, lengths), strict=True):
        place.copy_(clip.flatten(2))
        torch.addcmul(-mean / std, place, 1 / std, out=place)
    return packed.view(-1, height, width, channels)


def _new_batch(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Memory for float32, not yet written."""
    if device.type != "cpu":
        return torch.empty(shape, device=device)
    memory = mmap.mmap(-1, 4 * prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # In pages of 4 KB, the kernel takes as long to hand over a batch as we to fill it. Not every
    # kernel has larger ones.
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


@pipeline_def(enable_conditionals=True)
def _clip_graph(*, decode_device: str, resize_px: int, crop_px: int) -> Any:
    is_encoded = fn.external_source(name="is_encoded", dtype=DALIDataType.BOOL, ndim=0)
    encoded = fn.external_source(name="encoded", dtype=DALIDataType.UINT8, ndim=1)
    numbers = fn.external_source(name="frame_numbers", dtype=DALIDataType.INT32, ndim=1)
    host = fn.external_source(name="host_frames", dtype=DALIDataType.UINT8, layout="FHWC")
    warp = fn.external_source(name="warp", dtype=DALIDataType.FLOAT, ndim=2)
    is_warped = fn.external_source(name="is_warped", dtype=DALIDataType.BOOL, ndim=0)
    # DALI rewrites this function: a clip takes one way or the other, whatever its neighbors do.
    if is_encoded:
        frames = _decode(encoded, numbers, decode_device=decode_device, resize_px=resize_px)
    else:
        frames = _upload(host, decode_device=decode_device)
    if is_warped:
        frames = _warp(frames, warp, decode_device=decode_device, crop_px=crop_px)
    return frames


def _decode(encoded: Any, numbers: Any, *, decode_device: str, resize_px: int) -> Any:
    # Not pinned to cores: the ranks of a machine would all be to the same ones.
    frames: Any = fn.decoders.video(encoded, device=decode_device, frames=numbers, affine=False)
    return fn.resize(frames, size=(resize_px, resize_px))


def _upload(host_frames: Any, *, decode_device: str) -> Any:
    return host_frames.gpu() if decode_device == "mixed" else host_frames


def _warp(frames: Any, warp: Any, *, decode_device: str, crop_px: int) -> Any:
    size = (crop_px, crop_px)
    if decode_device == "mixed":
        return fn.warp_affine(frames, matrix=warp, size=size)
    # The same map in a quarter of the time: on the CPU, DALI leaves this one to OpenCV.
    matrix = fn.cat(warp, np.array([[0, 0, 1]], np.float32), axis=0)
    return fn.experimental.warp_perspective(frames, matrix, size=size, border_mode="replicate")
