"""Packed clips laid side by side, as attention needs them.

Shape letters:
- B = clips in the micro-batch
- T = frames, padded to the longest clip
- R = real frames of all clips together
- E = width of a feature
"""

import torch
from torch import Tensor


def pad_clips(packed: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Lay packed clips side by side.

    Args:
        packed: `(R, E)`, the clips one after the other.
        lengths: Frames of each clip, int64, `(B,)`; they sum to R.

    Returns:
        The clips `(B, T, E)`, zero behind each end, and the attention mask, int64, `(B, T)`,
        1 on frames.
    """
    num_frames = int(lengths.max())
    real_BT = torch.arange(num_frames, device=lengths.device) < lengths[:, None]
    padded_BTE = packed.new_zeros(len(lengths), num_frames, packed.shape[1])
    padded_BTE[real_BT] = packed
    return padded_BTE, real_BT.long()
