"""Where a clip's tensor comes from: decoded from its recording, or whatever else has one.

Loaders decide what a batch holds and ask a source for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fla.data.manifest import Sample
from fla.data.memory import plan_queue
from fla.data.pipeline import ClipPipeline, ClipRequest
from fla.data.views import PlainView
from fla.runtime import Runtime

PIXEL_RULE = "BT.601, linear with antialiasing"
"""How a recording becomes pixels. Features of other pixels are not ours: a change of decoders that
moves more than the last bit changes this text."""


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Clips of a micro-batch, packed one after the other; as in `Batch`."""

    lengths: Tensor
    """Frames of each clip, int64, `(B,)`; they sum to R."""
    frames: Tensor | None = None
    features: Tensor | None = None


class ClipSource(Protocol):
    """What loaders ask; one thread at a time."""

    max_waiting_frames: int
    """Frames that may lie ready or in work ahead of the consumer."""

    def read(self, samples: Sequence[Sample], *, epoch: int) -> Clips:
        """The clips of samples as `epoch` sees them; ClipError names one that there is not."""
        ...

    def blank(self, num_frames: int) -> Clips:
        """A clip that shows nothing, for a pass that teaches nothing."""
        ...

    def close(self) -> None:
        """End what is open."""
        ...


class DecodedClips:
    """Clips decoded from their recordings.

    Args:
        root: Folder that the samples' videos are relative to.
        views: Which frames and crops.
        runtime: Says where to decode.
        max_clips: Most clips a call.
        frames_per_batch: Most frames a call.
        num_threads: Decoding threads.
        host_memory_gib: Bound of the host memory that decoded frames take, those that wait and
            those in work.
        full_frame_px: Pixels of the largest frame that DALI decodes at full size in host memory;
            0: none.

    Raises:
        ConfigError: The memory does not hold one batch in work beside a finished one.
    """

    def __init__(
        self,
        *,
        root: Path,
        views: PlainView,
        runtime: Runtime,
        max_clips: int,
        frames_per_batch: int,
        num_threads: int,
        host_memory_gib: float,
        full_frame_px: int,
    ) -> None:
        self._root, self._views = root, views
        self.max_waiting_frames = plan_queue(
            host_memory_gib=host_memory_gib,
            frames_per_batch=frames_per_batch,
            resize_px=views.resize_px,
            crop_px=views.crop_px,
            full_frame_px=full_frame_px,
            is_on_gpu=runtime.dali_device_id is not None,
        )
        self._pipeline = ClipPipeline(
            decode_device=runtime.decode_device,
            dali_device_id=runtime.dali_device_id,
            resize_px=views.resize_px,
            crop_px=views.crop_px,
            max_clips=max_clips,
            num_threads=num_threads,
        )

    def read(self, samples: Sequence[Sample], *, epoch: int) -> Clips:
        """Decode clips.

        Raises:
            ClipError: One does not decode; names the sample and the file.
        """
        frames, lengths = self._pipeline.run([self._request(sample, epoch) for sample in samples])
        return Clips(lengths=lengths, frames=frames)

    def blank(self, num_frames: int) -> Clips:
        """A clip of gray frames."""
        size = self._views.crop_px
        # On the host: the consumer copies it, on its own CUDA stream.
        frames = torch.zeros(num_frames, 3, size, size)
        return Clips(
            lengths=torch.tensor([num_frames]),
            frames=frames.contiguous(memory_format=torch.channels_last),
        )

    def close(self) -> None:
        """End the threads."""
        self._pipeline.close()

    def _request(self, sample: Sample, epoch: int) -> ClipRequest:
        frame_numbers, warp = self._views.draw(sample, epoch=epoch)
        return ClipRequest(
            sample_id=sample.id,
            path=self._root / sample.video,
            fps=sample.fps,
            start_s=sample.start_s,
            end_s=sample.end_s,
            num_frames=sample.num_frames,
            frame_numbers=frame_numbers,
            warp=warp,
        )
