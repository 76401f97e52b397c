"""Translators that start from random weights: Light-T, and the small mBART of pretraining."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import MBartConfig, MBartForConditionalGeneration

from fla.models.translator import Translator, set_generation

LightTSize = Literal["tiny", "small", "base", "large"]


@dataclass(frozen=True, kw_only=True)
class _Shape:
    num_layers: int
    num_heads: int
    d_model: int
    ffn_width: int


# FLa-LLM, table 7.
_LIGHT_T_SHAPES: dict[LightTSize, _Shape] = {
    "tiny": _Shape(num_layers=1, num_heads=4, d_model=256, ffn_width=1024),
    "small": _Shape(num_layers=2, num_heads=4, d_model=512, ffn_width=2048),
    "base": _Shape(num_layers=3, num_heads=8, d_model=512, ffn_width=2048),
    "large": _Shape(num_layers=4, num_heads=8, d_model=1024, ffn_width=4096),
}


class LightT(MBartForConditionalGeneration):  # type: ignore[no-untyped-call]
    """A plain Transformer with learned positions, whose head has weights of its own.

    Untied, its four sizes have the parameters of table 7: 3.61, 18.25, 25.61 and 124.66 million
    with a vocabulary of 2,427.
    """

    # mBART ties the head here. The word embedding stays shared between encoder and decoder: with
    # tie_word_embeddings=False there would be a second one, in an encoder that reads no words.
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012


def build_light_t(
    *,
    size: LightTSize,
    vocab_size: int,
    dropout: float,
    pad_id: int,
    eos_id: int,
    start_id: int,
    max_positions: int = 1024,
) -> LightT:
    """Build Light-T with random weights.

    Args:
        size: Row of table 7; the paper uses base.
        vocab_size: V.
        dropout: After embeddings, attention and feed-forward blocks; the paper gives no number.
        pad_id: Id behind the end of a sentence.
        eos_id: Id of `</s>`.
        start_id: Id that every translation starts with.
        max_positions: Most frames of a clip, and most tokens of a sentence.
    """
    shape = _LIGHT_T_SHAPES[size]
    config = _config(shape, vocab_size, dropout, pad_id, eos_id, start_id)
    config.max_position_embeddings = max_positions
    config.activation_function = "relu"
    light_t = LightT(config)
    _start_like_transformer(light_t)
    set_generation(light_t, start_id)
    return light_t


@torch.no_grad()
def start_from_frequencies(model: Translator, token_ids: Iterable[Sequence[int]]) -> None:
    """Let a model's head start out with how often each token is the next one.

    Its constant bias takes the logarithms of the frequencies; it is no weight and stays as it is.
    Without it the first updates push one constant through every layer, because that is the fastest
    way to say which words are frequent. What differs from clip to clip drowned in it: on the demo
    corpus, with AdamW at 1e-3, clips caused 31 % of the variance of what a new Light-T's encoder
    gives, and 0.7 % ten steps later.

    Args:
        model: Light-T, newly built.
        token_ids: Target sentences to train on.
    """
    head_bias = model.get_buffer("final_logits_bias")
    counts = torch.ones(head_bias.shape[1], dtype=torch.float64)
    for ids in token_ids:
        counts += torch.bincount(torch.tensor(ids), minlength=len(counts))
    head_bias.copy_((counts / counts.sum()).log()[None])


def build_small_mbart(
    *,
    vocab_size: int,
    d_model: int,
    num_layers: int,
    num_heads: int,
    ffn_width: int,
    dropout: float,
    pad_id: int,
    eos_id: int,
    start_id: int,
) -> MBartForConditionalGeneration:
    """Build an mBART of any size with random weights; its head is its word embedding.

    Args:
        vocab_size: V.
        d_model: E.
        num_layers: Layers of the encoder, and of the decoder.
        num_heads: Attention heads a layer.
        ffn_width: Hidden width of a feed-forward block.
        dropout: After embeddings, attention and feed-forward blocks.
        pad_id: Id behind the end of a sentence.
        eos_id: Id of `</s>`.
        start_id: Id that every sentence starts with.
    """
    shape = _Shape(num_layers=num_layers, num_heads=num_heads, d_model=d_model, ffn_width=ffn_width)
    mbart = MBartForConditionalGeneration(
        _config(shape, vocab_size, dropout, pad_id, eos_id, start_id)
    )
    _start_like_transformer(mbart)
    set_generation(mbart, start_id)
    return mbart


def _config(
    shape: _Shape, vocab_size: int, dropout: float, pad_id: int, eos_id: int, start_id: int
) -> MBartConfig:
    return MBartConfig(
        vocab_size=vocab_size,
        d_model=shape.d_model,
        encoder_layers=shape.num_layers,
        decoder_layers=shape.num_layers,
        encoder_attention_heads=shape.num_heads,
        decoder_attention_heads=shape.num_heads,
        encoder_ffn_dim=shape.ffn_width,
        decoder_ffn_dim=shape.ffn_width,
        dropout=dropout,
        # mbart-large-cc25 scales words by sqrt(d_model). At the start of training that would drown
        # the positions, and with them the order of the signs.
        scale_embedding=False,
        pad_token_id=pad_id,
        eos_token_id=eos_id,
        forced_eos_token_id=eos_id,
        decoder_start_token_id=start_id,
    )


@torch.no_grad()
def _start_like_transformer(model: MBartForConditionalGeneration) -> None:
    # transformers draws all matrices from N(0, 0.02), which is small for a few narrow layers. On a
    # toy task of reordering signs the loss with SGD at 1e-2 was 3.7 nats after 400 steps where it
    # is 1.9 after 300 with Xavier's (and unscaled words), as the original Transformer has it.
    for module in model.model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
