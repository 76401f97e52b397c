"""Batch, the one object that data hands to models.

Shape letters:
- B = clips in the micro-batch
- R = real frames of all clips together, packed one clip after the other, no padding
- H, W = height and width of a frame in pixels
- D = width of a sign-wise feature
- L = target tokens, padded to the longest sentence
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

IGNORE_INDEX = -100

BatchT = TypeVar("BatchT")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A micro-batch: what one rank sees in one forward pass.

    Either `frames` or `features` is set: a frozen visual encoder turns the first into the second.
    """

    sample_ids: tuple[str, ...]
    """Manifest ids, B of them."""
    references: tuple[str, ...]
    """Sentences as the annotation has them, B of them; never through a tokenizer."""
    frame_lengths: Tensor
    """Real frames of each clip, int64, `(B,)`; they sum to R."""
    labels: Tensor
    """Target token ids `tokens </s> language`, int64, `(B, L)`, IGNORE_INDEX behind the end."""
    frames: Tensor | None = None
    """Normalised frames, float32, `(R, 3, H, W)`, channels-last in memory."""
    features: Tensor | None = None
    """Sign-wise features of a frozen visual encoder, `(R, D)`."""
    is_blank: bool = False
    """No clip of it decodes: it goes through the model, but its labels do not count."""

    @property
    def targets(self) -> Tensor:
        """Labels that count, int64, `(B, L)`, IGNORE_INDEX elsewhere."""
        return torch.full_like(self.labels, IGNORE_INDEX) if self.is_blank else self.labels

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            frame_lengths=self.frame_lengths.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            frames=None if self.frames is None else self.frames.to(device, non_blocking=True),
            features=None if self.features is None else self.features.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """A micro-batch of denoising pretraining: damaged sentences and what they were."""

    input_ids: Tensor
    """Damaged sentences `tokens </s> language`, int64, `(B, T)`, padded."""
    attention_mask: Tensor
    """1 for a token, 0 for padding, int64, `(B, T)`."""
    labels: Tensor
    """Undamaged sentences, int64, `(B, L)`, IGNORE_INDEX behind each end."""

    def to(self, device: torch.device | str) -> "TextBatch":
        """The same batch with its tensors on `device`."""
        return TextBatch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class Step(Generic[BatchT]):
    """What one rank computes for one optimizer update."""

    micro_batches: tuple[BatchT, ...]
    """This rank's share; every rank has the same number of them."""
    num_tokens: int
    """Target tokens of the step over ALL ranks: known from the plan, so no collective is needed."""
    num_skipped_tokens: int = 0
    """Those among them that this rank left out, since their clips do not decode."""


def pad_labels(token_ids: Sequence[Sequence[int]]) -> Tensor:
    """Stack target sentences of different lengths.

    Args:
        token_ids: B sentences as ids.

    Returns:
        int64, `(B, L)`, IGNORE_INDEX behind each end.
    """
    length = max(len(ids) for ids in token_ids)
    labels = torch.full((len(token_ids), length), IGNORE_INDEX, dtype=torch.int64)
    for row, ids in zip(labels, token_ids, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return labels
