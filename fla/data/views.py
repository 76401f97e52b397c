"""Views of a clip: which of its frames the encoder sees, and where they are cropped.

Pure decisions, made without opening a video. Loaders plan and decode by them, and a cache of
features is a cache of certain views.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fla.data.manifest import Sample
from fla.data.sampling import (
    centre_warp,
    choose_frames,
    choose_stride,
    count_chosen_frames,
    sample_rng,
    train_warp,
)

Draw = tuple[NDArray[np.int32], NDArray[np.float32]]
"""A sample's frame numbers `(T,)` and warp `(2, 3)`."""


@dataclass(frozen=True, kw_only=True)
class PlainView:
    """What evaluation sees: always the same frames, centre crop."""

    frame_stride: int
    """One frame in so many is decoded, unless `target_fps` says otherwise."""
    target_fps: float
    """Decoded frames a second, whatever the recording's rate; 0: by `frame_stride`."""
    max_frames: int
    """Most frames a clip, after the stride."""
    resize_px: int
    """Side of the square that frames are scaled to."""
    crop_px: int
    """Side of the square that the encoder sees."""

    def lengths(self, samples: Sequence[Sample]) -> NDArray[np.int64]:
        """Most frames that `draw` can pick of each sample, `(N,)`: what plans are made of."""
        return count_chosen_frames(
            np.array([sample.num_frames for sample in samples], dtype=np.int64),
            stride=np.array([self._stride(sample) for sample in samples], dtype=np.float64),
            max_frames=self.max_frames,
        )

    def draw(self, sample: Sample, *, epoch: int) -> Draw:
        """Frames and crop of a sample; here they are the same in every epoch."""
        frame_numbers = choose_frames(
            sample.num_frames, stride=self._stride(sample), max_frames=self.max_frames
        )
        return frame_numbers, self._centre()

    def _stride(self, sample: Sample) -> float:
        return choose_stride(sample.fps, frame_stride=self.frame_stride, target_fps=self.target_fps)

    def _centre(self) -> NDArray[np.float32]:
        return centre_warp(resize_px=self.resize_px, crop_px=self.crop_px)


@dataclass(frozen=True, kw_only=True)
class DrawnViews(PlainView):
    """What training sees: frames and crops drawn anew every epoch."""

    seed: int
    """Of the draws, together with epoch and sample."""
    augment: bool
    """Random crop, rotation, scale and shift, one draw a clip; else the centre crop."""
    max_rotation_deg: float
    """As in `sampling.train_warp`, like the next two."""
    max_rescale_fraction: float
    max_shift_fraction: float

    def draw(self, sample: Sample, *, epoch: int) -> Draw:
        """Frames and crop of a sample in an epoch."""
        rng = sample_rng(seed=self.seed, epoch=epoch, sample_id=sample.id)
        frame_numbers = choose_frames(
            sample.num_frames, stride=self._stride(sample), max_frames=self.max_frames, rng=rng
        )
        if not self.augment:
            return frame_numbers, self._centre()
        return frame_numbers, train_warp(
            rng,
            resize_px=self.resize_px,
            crop_px=self.crop_px,
            max_rotation_deg=self.max_rotation_deg,
            max_rescale_fraction=self.max_rescale_fraction,
            max_shift_fraction=self.max_shift_fraction,
        )
