"""The translation loss, as sum and count: with means of means, N ranks would differ from one."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fla.batch import IGNORE_INDEX


class LossSum(NamedTuple):
    """Loss over counted target tokens; a mean divides the sum of all ranks by their count."""

    nats: Tensor
    """Label-smoothed cross-entropy summed over target tokens, float32 scalar."""
    num_tokens: int | Tensor
    """Target tokens that were counted."""


def translation_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> LossSum:
    """Label-smoothed cross-entropy (FLa-LLM section 3; smoothing 0.2 in both stages).

    Args:
        logits: `(B, L, V)`, any float type; the loss is computed in float32.
        labels: `(B, L)`, IGNORE_INDEX where nothing is to be predicted.
        label_smoothing: Probability mass spread evenly over the vocabulary, in [0, 1).
    """
    nats = functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return LossSum(nats, torch.count_nonzero(labels != IGNORE_INDEX))
