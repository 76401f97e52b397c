"""Local temporal module: lets neighbouring frames talk, keeps the clip's length.

Shape letters:
- B = clips in the batch
- R = real frames of all clips together, packed one clip after the other
- C = width of a frame-wise feature
- D = width of a sign-wise feature
- G = R and the gaps between the clips
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class LocalTemporal(nn.Module):
    """One convolution over time, batch normalization and ReLU (FLa-LLM, section 3).

    Args:
        in_width: C.
        out_width: D.
        kernel_size: Frames that one output sees. The paper gives no number;
            3 follows its first author's later C2RL.

    Raises:
        ValueError: `kernel_size` is even, so no padding keeps the length.
    """

    def __init__(self, *, in_width: int, out_width: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}.")
        self.gap = kernel_size // 2
        self.conv = nn.Conv1d(in_width, out_width, kernel_size)
        self.norm = nn.BatchNorm1d(out_width)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Turn frame-wise features into sign-wise features.

        Args:
            frames: `(R, C)`, the clips one after the other without padding.
            lengths: Frames of each clip, int64, `(B,)`; they sum to R.

        Returns:
            `(R, D)`, packed like `frames`.
        """
        num_frames, num_clips = len(frames), len(lengths)
        clip_R = torch.arange(num_clips, device=frames.device).repeat_interleave(
            lengths, output_size=num_frames
        )
        # One long sequence with zeros between the clips: as if each was convolved alone with zero
        # padding, and no work is spent on the difference to the longest clip.
        place_R = torch.arange(num_frames, device=frames.device) + self.gap * clip_R
        x_GC = frames.new_zeros(num_frames + self.gap * (num_clips + 1), frames.shape[1])
        x_GC = x_GC.index_copy(0, place_R + self.gap, frames)
        x_RD = self.conv(x_GC.T[None])[0].T[place_R]
        return torch.relu(self._normalize(x_RD))

    def _normalize(self, x_RD: Tensor) -> Tensor:
        if len(x_RD) > 1 or not self.training:
            normalized: Tensor = self.norm(x_RD)
            return normalized
        # A single frame has no spread: use the running statistics, as evaluation does.
        return functional.batch_norm(
            x_RD,
            self.norm.running_mean,
            self.norm.running_var,
            self.norm.weight,
            self.norm.bias,
            eps=self.norm.eps,
        )
