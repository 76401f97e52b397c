"""Translate one's own videos with an exported model, through the very pipeline of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from fla.batch import Batch, pad_labels
from fla.data.decode.video import in_range, probe_video
from fla.data.pipeline import ClipPipeline, ClipRequest
from fla.data.sampling import centre_warp, choose_frames, choose_stride
from fla.errors import DataError
from fla.export import load_translator
from fla.runtime import find_device
from fla.search import Hypothesis, Search


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The range of a video that holds one sentence."""

    start_s: float = 0.0
    """First moment, in seconds after the first presented frame."""
    end_s: float = float("inf")
    """End, exclusive; infinity: the end of the video."""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """What a segment of a video says."""

    segment: Segment
    hypotheses: tuple[Hypothesis, ...]
    """Best first, at least one."""


class VideoTranslator:
    """An exported model, ready to translate videos; close it, or use it in a `with` block.

    Args:
        export: Export folder of a run.
        search: How sentences are searched for.

    Raises:
        CheckpointError: The folder is no export.
    """

    def __init__(self, export: Path, *, search: Search) -> None:
        device = find_device()
        self._search = search
        self._translator = load_translator(export, device=device.name)
        self.preprocessing = self._translator.description.preprocessing
        self._pipeline = ClipPipeline(
            decode_device=device.decode_device,
            dali_device_id=device.dali_device_id,
            resize_px=self.preprocessing.resize_px,
            crop_px=self.preprocessing.crop_px,
            max_clips=1,
            num_threads=2,
        )

    def __enter__(self) -> "VideoTranslator":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding threads."""
        self._pipeline.close()

    def translate(self, video: Path, segments: Sequence[Segment]) -> list[Translation]:
        """Translate segments of a video, each taken as one sentence.

        Args:
            video: Any file that the data path decodes.
            segments: In any order.

        Raises:
            DataError: The file is no video, or has no frame in a segment.
        """
        info = probe_video(video)
        return [self._translate(video, info.frame_times, info.fps, part) for part in segments]

    def _translate(
        self, video: Path, times: NDArray[np.float64], fps: float, segment: Segment
    ) -> Translation:
        request = self._choose_clip(video, times, fps, segment)
        frames, frame_lengths = self._pipeline.run([request])
        batch = Batch(
            sample_ids=(request.sample_id,),
            references=("",),
            frame_lengths=frame_lengths,
            labels=pad_labels([[self._translator.codec.eos_id]]),
            frames=frames,
        )
        hypotheses = self._translator.translate(batch, search=self._search)
        return Translation(segment=segment, hypotheses=hypotheses[0])

    def _choose_clip(
        self, video: Path, times: NDArray[np.float64], fps: float, segment: Segment
    ) -> ClipRequest:
        num_frames = int(in_range(times, segment.start_s, segment.end_s).sum())
        if num_frames == 0:
            raise DataError(
                f"{video}: no frame lies between {segment.start_s} s and {segment.end_s} s; the "
                f"video lasts {times[-1]:.2f} s. Give another range."
            )
        ours = self.preprocessing
        return ClipRequest(
            sample_id=video.name,
            path=video,
            fps=fps,
            start_s=segment.start_s,
            end_s=segment.end_s,
            num_frames=num_frames,
            frame_numbers=choose_frames(
                num_frames,
                stride=choose_stride(
                    fps, frame_stride=ours.frame_stride, target_fps=ours.target_fps
                ),
                max_frames=ours.max_frames,
            ),
            warp=centre_warp(resize_px=ours.resize_px, crop_px=ours.crop_px),
        )
