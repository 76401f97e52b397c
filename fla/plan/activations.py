"""What a training step keeps for its backward pass, in bytes: arithmetic over shapes.

The counts are those of transformers' encoder-decoders, such as mBART and T5, run by PyTorch: a
matrix product keeps its input, a layer norm its input, a dropout its mask, fused
attention its queries, keys, values, output and one float32 number a row. A test counts the tensors
that autograd keeps.

Letters:
- E = width of the embeddings, F = hidden width of a feed-forward block, V = vocabulary
- N = padded frames of a micro-batch (clips x longest clip), M = padded tokens
"""

from dataclasses import dataclass
from typing import Literal

_FP32 = 4


@dataclass(frozen=True, kw_only=True)
class LlmShape:
    """Widths and depths of an encoder-decoder."""

    width: int
    """E."""
    ffn_width: int
    """F."""
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    vocab_size: int
    """V."""
    hidden_tensors: int = 2
    """Tensors of the hidden width that a feed-forward block keeps: 2 with GELU, its input and its
    output; 1 with ReLU, whose output is enough; 8 with mT5's gated GELU, which is put together."""
    is_t5: bool = False
    """T5's norms keep a float32 copy of their input, and what they have normalized. Its attention
    has learned biases, for which PyTorch may have no fused kernel: all scores are counted."""


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The largest micro-batch."""

    num_clips: int
    max_frames: int
    """Frames of the longest clip; the others are padded to it."""
    num_real_frames: int
    """Frames of all clips, without padding."""
    max_tokens: int
    """Tokens of the longest sentence; the others are padded to it."""
    feature_width: int
    """Width of what the adapter reads."""

    @property
    def padded_frames(self) -> int:
        """N."""
        return self.num_clips * self.max_frames

    @property
    def padded_tokens(self) -> int:
        """M."""
        return self.num_clips * self.max_tokens


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Where bytes depend on the device."""

    dropout_mask_bytes: int | None
    """Of an element; None: as many as the activation's own."""


GPU = Kernels(dropout_mask_bytes=1)
CPU = Kernels(dropout_mask_bytes=None)


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes of a micro-batch on one rank."""

    saved: int
    """Kept from the forward to the backward pass."""
    recomputed: int
    """With gradient checkpointing: of the layer that is at hand in the backward pass."""
    loss: int
    """On top, where the backward pass begins: the gradient of the logits."""

    @property
    def peak(self) -> int:
        """The most at one time: where the loss is, or later in the layer that needs most."""
        return self.saved + max(self.recomputed, self.loss)


def plan_activations(
    llm: LlmShape,
    batch: BatchShape,
    *,
    precision: Literal["fp32", "bf16", "autocast"],
    has_dropout: bool,
    checkpoints: bool,
    kernels: Kernels = GPU,
) -> Activations:
    """Count what a stage-2 model keeps of a micro-batch.

    Args:
        llm: Its shape.
        batch: The largest micro-batch.
        precision: Of the engine.
        has_dropout: Whether the layers' dropout is above 0.
        checkpoints: Gradient checkpointing: only the inputs of layers are kept.
        kernels: Of the device.
    """
    count = _Count(llm, batch, precision, has_dropout, kernels)
    encoder_layer = count.encoder_layer + count.cast(4, llm)
    decoder_layer = count.decoder_layer + count.cast(8, llm)
    kept_of_encoder, kept_of_decoder, recomputed = encoder_layer, decoder_layer, 0
    if checkpoints:
        kept_of_encoder = batch.padded_frames * llm.width * count.stream
        kept_of_decoder = batch.padded_tokens * llm.width * count.stream
        recomputed = max(encoder_layer, decoder_layer)
    words = llm.vocab_size * batch.padded_tokens * _FP32
    return Activations(
        # The loss keeps the logits, which mBART adds a float32 bias to.
        saved=count.ends
        + llm.num_encoder_layers * kept_of_encoder
        + llm.num_decoder_layers * kept_of_decoder
        + words,
        recomputed=recomputed,
        # The gradient of the logits.
        loss=words,
    )


def plan_beams(
    llm: LlmShape,
    *,
    num_clips: int,
    max_frames: int,
    num_beams: int,
    max_new_tokens: int,
    weight_bytes: int,
) -> int:
    """Count what beam search holds at its end: keys and values of all layers, and the last logits.

    Args:
        llm: Its shape.
        num_clips: Clips decoded at once.
        max_frames: Frames of the longest clip.
        num_beams: Hypotheses a clip.
        max_new_tokens: Longest hypothesis.
        weight_bytes: Of an element of the keys.
    """
    num_hypotheses = num_clips * num_beams
    positions = max_frames + max_new_tokens
    cache = 2 * llm.num_decoder_layers * num_hypotheses * positions * llm.width * weight_bytes
    # transformers grows each layer's cache by copying it, and reorders it after every token.
    copied = cache // max(1, llm.num_decoder_layers)
    scores = 3 * num_hypotheses * llm.vocab_size * _FP32
    return cache + copied + scores


class _Count:
    """Bytes of the pieces of a model."""

    def __init__(
        self,
        llm: LlmShape,
        batch: BatchShape,
        precision: str,
        has_dropout: bool,
        kernels: Kernels,
    ) -> None:
        self._llm = llm
        self._batch = batch
        self.stream = 2 if precision == "bf16" else _FP32
        """Bytes of the residual stream, which autocast leaves in float32."""
        self._product = _FP32 if precision == "fp32" else 2
        """Bytes of what goes into matrix products and attention."""
        self._has_dropout = has_dropout
        # Autocast casts a norm's output anew for each of queries, keys and values.
        self._copies = 2 if precision == "autocast" else 0
        self._casts = 2 if precision == "autocast" else 0
        mask = kernels.dropout_mask_bytes
        self._stream_mask = (self.stream if mask is None else mask) * has_dropout
        self._product_mask = (self._product if mask is None else mask) * has_dropout

    @property
    def encoder_layer(self) -> int:
        """Norms 2, behind them 2; queries, keys, values, output; hidden; 2 masks."""
        frames, llm = self._batch.padded_frames, self._llm
        width = 2 * self._norm + (6 + self._copies) * self._product + 2 * self._product_mask
        norms = 4 * frames * self.stream
        attention = self._rows(frames) + self._scores(
            self._batch.max_frames, self._batch.max_frames
        )
        return frames * (width * llm.width + self._hidden) + norms + attention

    @property
    def decoder_layer(self) -> int:
        """As in the encoder, and of the attention to the clip its keys and values."""
        frames, tokens, llm = self._batch.padded_frames, self._batch.padded_tokens, self._llm
        width = 3 * self._norm + (9 + self._copies) * self._product + 3 * self._product_mask
        norms = 6 * tokens * self.stream
        of_tokens = tokens * (width * llm.width + self._hidden) + norms + 2 * self._rows(tokens)
        of_frames = (2 + self._copies) * frames * llm.width * self._product
        own = self._scores(self._batch.max_tokens, self._batch.max_tokens)
        return (
            of_tokens
            + of_frames
            + own
            + self._scores(self._batch.max_tokens, self._batch.max_frames)
        )

    @property
    def ends(self) -> int:
        """Adapter, embeddings, the norms around the stacks, attention masks, cast matrices."""
        batch, llm = self._batch, self._llm
        adapter = batch.num_real_frames * (batch.feature_width + llm.width) * self._product
        # T5 has no norm behind the embeddings.
        norms_of_stack = 1 if self._llm.is_t5 else 2
        width = norms_of_stack * self._norm + self._product + self._stream_mask
        norms = 4 * self.stream
        of_both = (batch.padded_frames + batch.padded_tokens) * (width * llm.width + norms)
        # Of padding, for all heads and layers alike; the decoder's own knows no padding.
        masks = batch.padded_frames * (batch.max_frames + batch.max_tokens) * self._product
        matrices = llm.width * (llm.vocab_size + batch.feature_width + llm.width)
        return adapter + of_both + masks + self._casts * matrices

    def cast(self, num_projections: int, llm: LlmShape) -> int:
        """A layer's matrices in bfloat16, which autocast keeps beside float32."""
        feed_forward = (3 if llm.hidden_tensors > 2 else 2) * llm.width * llm.ffn_width
        return self._casts * (num_projections * llm.width**2 + feed_forward)

    @property
    def _norm(self) -> int:
        """What a norm keeps of an element of its input."""
        if not self._llm.is_t5:
            return self.stream
        copy = 0 if self.stream == _FP32 else _FP32
        return self.stream + copy + self._product

    @property
    def _hidden(self) -> int:
        return self._llm.hidden_tensors * self._llm.ffn_width * self._product

    def _scores(self, queries: int, keys: int) -> int:
        """Without a fused kernel: float32 queries, keys and values; scores, and with dropout twice
        more."""
        if not self._llm.is_t5:
            return 0
        each = _FP32 * (3 if self._has_dropout else 1)
        scores = queries * keys * self._llm.num_heads * each
        copies = (queries + 2 * keys) * self._llm.width * (_FP32 - self._product)
        return self._batch.num_clips * (scores + copies)

    def _rows(self, positions: int) -> int:
        return positions * self._llm.num_heads * _FP32
