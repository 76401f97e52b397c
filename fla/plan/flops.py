"""Floating-point operations of a stage-2 step, and the operations that PyTorch issues for it.

A product of matrices of (m, k) and (k, n) counts 2 m k n. Norms, activations, dropout and the loss
are left out, and so is what a fused attention computes again in its backward pass. Tests count the
real modules.

Letters:
- E = width of the embeddings, F = hidden width of a feed-forward block, V = vocabulary
- N = padded frames of a micro-batch (clips x longest clip), M = padded tokens
- T, L = frames and tokens of the longest clip
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fla.models.features import FeatureEncoder
from fla.plan.activations import BatchShape, LlmShape

_ENCODER_LAYER, _DECODER_LAYER, _ENDS = 49, 77, 112
"""Operations of a layer, and of all else, forward and backward, that are not views: counted."""
_ENCODER_LAYER_FORWARD, _DECODER_LAYER_FORWARD = 21, 31


class Work(NamedTuple):
    """What a micro-batch asks of a GPU, forward and backward."""

    llm: float
    """Floating-point operations of LLM and adapter."""
    encoder: float
    """Of the visual encoder."""
    operations: int
    """Operations that the host issues."""


@dataclass(frozen=True, kw_only=True)
class EncoderWork:
    """Floating-point operations of the visual encoder for one frame, forward."""

    frozen: float = 0.0
    """Of what is frozen and runs in training; 0: its features are cached."""
    trained: float = 0.0


def count_work(
    llm: LlmShape, batch: BatchShape, *, encoder: EncoderWork, checkpoints: bool
) -> Work:
    """Count a micro-batch of stage 2.

    Args:
        llm: Its shape.
        batch: Of the micro-batch.
        encoder: Of a frame.
        checkpoints: Gradient checkpointing: layers are computed twice in the forward direction.
    """
    layers = llm.num_encoder_layers * _encoder_layer(
        llm, batch
    ) + llm.num_decoder_layers * _decoder_layer(llm, batch)
    head = 2.0 * batch.padded_tokens * llm.width * llm.vocab_size
    first = 2.0 * batch.num_real_frames * batch.feature_width * llm.width
    second = 2.0 * batch.num_real_frames * llm.width**2
    # Features need no gradient unless their encoder is trained.
    passes_of_first = 3 if encoder.trained else 2
    again, operations_again = 0.0, 0
    if checkpoints:
        again = layers
        operations_again = (
            llm.num_encoder_layers * _ENCODER_LAYER_FORWARD
            + llm.num_decoder_layers * _DECODER_LAYER_FORWARD
        )
    return Work(
        llm=3 * (layers + head + second) + again + passes_of_first * first,
        encoder=batch.num_real_frames * (encoder.frozen + 3 * encoder.trained),
        operations=llm.num_encoder_layers * _ENCODER_LAYER
        + llm.num_decoder_layers * _DECODER_LAYER
        + _ENDS
        + operations_again,
    )


def count_encoder(part: FeatureEncoder | None, crop_px: int) -> float:
    """Operations of a part of the visual encoder for one frame, forward; 0 for none.

    Args:
        part: On the meta device.
        crop_px: Side of the frame.
    """
    if part is None:
        return 0.0
    total = 0.0
    if part.backbone is not None:
        with FlopCounterMode(display=False) as counter:
            # Batch normalization of small frames refuses a single one.
            part.backbone(torch.empty(2, 3, crop_px, crop_px, device="meta"))
        total += counter.get_total_flops() / 2
    rest = [module for module in (part.temporal, part.light_t) if module is not None]
    # Each weight of a convolution over time, or of a linear layer, is used once a frame.
    return total + 2.0 * sum(_matrix_elements(module) for module in rest)


def _matrix_elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


def _encoder_layer(llm: LlmShape, batch: BatchShape) -> float:
    frames, width = batch.padded_frames, llm.width
    return (
        8.0 * frames * width**2
        + _attend(batch.max_frames, batch.max_frames, batch, width)
        + (_feed_forward(llm, frames))
    )


def _decoder_layer(llm: LlmShape, batch: BatchShape) -> float:
    frames, tokens, width = batch.padded_frames, batch.padded_tokens, llm.width
    products = (12.0 * tokens + 4.0 * frames) * width**2
    own = _attend(batch.max_tokens, batch.max_tokens, batch, width)
    across = _attend(batch.max_tokens, batch.max_frames, batch, width)
    return products + own + across + _feed_forward(llm, tokens)


def _attend(queries: int, keys: int, batch: BatchShape, width: int) -> float:
    """Scores and their sums of values; what a causal mask hides is computed as well."""
    return 4.0 * batch.num_clips * queries * keys * width


def _feed_forward(llm: LlmShape, positions: int) -> float:
    # A gated one, as mT5's, has a third matrix.
    num_matrices = 3 if llm.hidden_tensors > 3 else 2
    return 2.0 * num_matrices * positions * llm.width * llm.ffn_width
