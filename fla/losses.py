"""The translation loss, as sum and count: with means of means, N ranks would differ from one.

Shape letters:
- B = clips in the micro-batch
- L = target tokens
- N = B x L
- V = vocabulary
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fla.batch import IGNORE_INDEX

# Logits that are float32 at one time: on a CPU what its cache holds, on a GPU enough to fill it.
_CHUNK_OF_CPU = 2**20
_CHUNK_OF_GPU = 2**24


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
    nats: Tensor = _CrossEntropy.apply(logits.flatten(0, 1), labels.flatten(), label_smoothing)
    return LossSum(nats, torch.count_nonzero(labels != IGNORE_INDEX))


class _CrossEntropy(torch.autograd.Function):
    """`cross_entropy` with reduction="sum", some tokens at a time.

    PyTorch's own keeps the float32 log-probabilities of all tokens, and makes their gradient beside
    that of the logits. Here the logits are kept as they are, with a number a token.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        is_counted_N = labels != IGNORE_INDEX
        target_N1 = labels.where(is_counted_N, 0)[:, None]
        nats_N = logits.new_empty(len(logits), dtype=torch.float32)
        log_z_N1 = torch.empty_like(nats_N)[:, None]
        num_rows = _rows_of_chunk(logits)
        chunks = (torch.split(it, num_rows) for it in (logits, target_N1, nats_N, log_z_N1))
        for logits_CV, target_C1, nats_C, log_z_C1 in zip(*chunks, strict=True):
            log_p_CV = torch.log_softmax(logits_CV, dim=1, dtype=torch.float32)
            of_target_C1 = log_p_CV.gather(1, target_C1)
            torch.sub(logits_CV.gather(1, target_C1).float(), of_target_C1, out=log_z_C1)
            torch.mul(of_target_C1[:, 0], label_smoothing - 1, out=nats_C)
            # Without smoothing, a word that is impossible costs nothing.
            if label_smoothing:
                nats_C.sub_(log_p_CV.mean(dim=1), alpha=label_smoothing)
        ctx.save_for_backward(logits, target_N1, is_counted_N, log_z_N1)
        ctx.label_smoothing = label_smoothing
        return nats_N.masked_fill_(~is_counted_N, 0.0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, target_N1, is_counted_N, log_z_N1 = ctx.saved_tensors
        grad_NV = torch.empty_like(logits)
        num_rows, vocabulary = _rows_of_chunk(logits), logits.shape[1]
        weight_N1 = (grad * is_counted_N)[:, None]
        chunks = (
            torch.split(it, num_rows) for it in (logits, target_N1, log_z_N1, weight_N1, grad_NV)
        )
        for logits_CV, target_C1, log_z_C1, weight_C1, grad_CV in zip(*chunks, strict=True):
            # Softmax, minus what is to be.
            difference_CV = torch.sub(logits_CV.float(), log_z_C1).exp_()
            difference_CV -= ctx.label_smoothing / vocabulary
            mass_C1 = difference_CV.new_full((), ctx.label_smoothing - 1).expand_as(target_C1)
            difference_CV.scatter_add_(1, target_C1, mass_C1)
            grad_CV.copy_(difference_CV.mul_(weight_C1))
        return grad_NV, None, None


def _rows_of_chunk(logits_NV: Tensor) -> int:
    size = _CHUNK_OF_CPU if logits_NV.device.type == "cpu" else _CHUNK_OF_GPU
    return max(1, size // logits_NV.shape[1])
