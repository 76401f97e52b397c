# mypy: disable-error-code="no-untyped-call"
"""Frames of a video to what FLa-LLM reads: chosen, scaled, cropped, normalized.

    processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)

Needs PyTorch, NumPy and transformers alone. Frames are chosen as the evaluation of the training
toolkit chooses them, and scaled as it scales images; what a video's decoder makes of its colors is
up to that decoder.

Shape letters:
- B = videos
- T = frames of a video, chosen ones after `choose_frames`
- R = chosen frames of all videos together, packed one video after the other
- S = side of the cropped frames in pixels
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import BatchFeature, FeatureExtractionMixin

# A rate such as 29.97 / 9.99 must not gain or lose a frame by its last bit.
_ROUNDING = 1e-9


class FlaLlmProcessor(FeatureExtractionMixin):
    """Prepares whole videos, one signed sentence each.

    Args:
        size: `height` and `width` that frames are scaled to, whatever their shape is.
        crop_size: `height` and `width` that are cut from the middle.
        image_mean: Of red, green and blue, from 0 to 1.
        image_std: Their deviations.
        frame_stride: One frame in so many is taken, unless `target_fps` says otherwise.
        target_fps: Frames a second to take, whatever the video's rate; 0: by `frame_stride`.
        max_frames: Most frames a video; longer ones are thinned evenly.
        kwargs: As of FeatureExtractionMixin.
    """

    model_input_names = ["pixel_values", "frame_lengths"]  # noqa: RUF012

    def __init__(
        self,
        size: dict[str, int],
        crop_size: dict[str, int],
        image_mean: Sequence[float],
        image_std: Sequence[float],
        frame_stride: int,
        target_fps: float,
        max_frames: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.crop_size = size, crop_size
        self.image_mean, self.image_std = image_mean, image_std
        self.frame_stride, self.target_fps, self.max_frames = frame_stride, target_fps, max_frames

    def __call__(self, videos: Any, fps: float | Sequence[float] | None = None) -> BatchFeature:
        """Prepare one video, or a list of them.

        Args:
            videos: All frames of a sentence, RGB, uint8, `(T, height, width, 3)`, as an array or a
                tensor, or as a list of PIL images; or a list of such videos.
            fps: Frames a second, of all or of each; needed where `target_fps` is set.

        Returns:
            `pixel_values`, float32, `(R, 3, S, S)`, and `frame_lengths`, int64, `(B,)`.

        Raises:
            ValueError: A video is something else, or its rate is missing.
        """
        clips = list(videos) if _is_list_of_videos(videos) else [videos]
        rates = list(fps) if isinstance(fps, Sequence) else [fps] * len(clips)
        prepared = [self._prepare(clip, rate) for clip, rate in zip(clips, rates, strict=True)]
        return BatchFeature(
            {
                "pixel_values": torch.cat(prepared).permute(0, 3, 1, 2),
                "frame_lengths": torch.tensor([len(clip) for clip in prepared]),
            }
        )

    def choose_frames(self, num_frames: int, fps: float | None = None) -> list[int]:
        """Numbers of the frames that the model sees, counted from 0: decode no others.

        Args:
            num_frames: Frames of the sentence, at least 1.
            fps: Frames a second.
        """
        stride = float(self.frame_stride)
        if self.target_fps:
            if not fps:
                raise ValueError("Give fps: this model takes so many frames a second.")
            stride = max(1.0, fps / self.target_fps)
        num_strides = int(np.ceil(num_frames / stride - _ROUNDING))
        frames = np.floor(np.arange(num_strides) * stride + _ROUNDING).astype(np.int64)
        frames = frames[frames < num_frames]
        if len(frames) > self.max_frames:
            # One frame of each of so many equal segments: the middle one.
            edges = np.arange(self.max_frames + 1) * num_frames // self.max_frames
            frames = edges[:-1] + np.diff(edges) // 2
        chosen: list[int] = frames.tolist()
        return chosen

    def _prepare(self, video: Any, fps: float | None) -> Tensor:
        """Frames of one video, `(T, S, S, 3)`."""
        chosen = self.choose_frames(len(video), fps)
        frames = torch.stack([_as_tensor(video[number]) for number in chosen])
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != torch.uint8:
            raise ValueError(
                "A video is RGB, uint8, (frames, height, width, 3); this one is "
                f"{str(frames.dtype).removeprefix('torch.')}, {tuple(frames.shape)}."
            )
        height, width = self.size["height"], self.size["width"]
        scaled = interpolate(
            frames.permute(0, 3, 1, 2), size=(height, width), mode="bilinear", antialias=True
        )
        crop_height, crop_width = self.crop_size["height"], self.crop_size["width"]
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        cropped = scaled[:, :, top : top + crop_height, left : left + crop_width]
        # Channels last in memory, as the model was trained.
        levels = cropped.permute(0, 2, 3, 1).contiguous().float()
        mean = torch.tensor([value * 255 for value in self.image_mean])
        std = torch.tensor([value * 255 for value in self.image_std])
        return torch.addcmul(-mean / std, levels, 1 / std)


def _as_tensor(frame: Any) -> Tensor:
    return frame if isinstance(frame, Tensor) else torch.from_numpy(np.array(frame))


def _is_list_of_videos(videos: Any) -> bool:
    # PIL images have no ndim; frames of a video have three axes, videos have four.
    if not isinstance(videos, (list, tuple)) or not videos:
        return False
    first = videos[0]
    return isinstance(first, (list, tuple)) or getattr(first, "ndim", 3) == 4
