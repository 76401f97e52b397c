"""Translators: Light-T and mBART. The only module that knows the models of transformers.

Shape letters:
- B = clips in the batch
- T = frames, padded to the longest clip
- E = width of the translator's embeddings
- L = target tokens
- V = vocabulary
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, TypeAlias, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import GenerationConfig, MBartConfig, MBartForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from fla.errors import CheckpointError

# mBART's class carries every translator here; other modules name it only by this alias.
Translator: TypeAlias = MBartForConditionalGeneration
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
    language_id: int,
    max_positions: int = 1024,
) -> LightT:
    """Build Light-T with random weights.

    Args:
        size: Row of table 7; the paper uses base.
        vocab_size: V.
        dropout: After embeddings, attention and feed-forward blocks; the paper gives no number.
        pad_id: Id behind the end of a sentence.
        eos_id: Id of `</s>`.
        language_id: Id that every translation starts with.
        max_positions: Most frames of a clip, and most tokens of a sentence.
    """
    shape = _LIGHT_T_SHAPES[size]
    config = _config(shape, vocab_size, dropout, pad_id, eos_id, language_id)
    config.max_position_embeddings = max_positions
    config.activation_function = "relu"
    light_t = LightT(config)
    _start_like_transformer(light_t)
    _set_generation(light_t, language_id)
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
    counts = torch.ones(model.config.vocab_size, dtype=torch.float64)
    for ids in token_ids:
        counts += torch.bincount(torch.tensor(ids), minlength=len(counts))
    model.final_logits_bias.copy_((counts / counts.sum()).log()[None])


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
    language_id: int,
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
        language_id: Id that every sentence starts with.
    """
    shape = _Shape(num_layers=num_layers, num_heads=num_heads, d_model=d_model, ffn_width=ffn_width)
    mbart = MBartForConditionalGeneration(
        _config(shape, vocab_size, dropout, pad_id, eos_id, language_id)
    )
    _start_like_transformer(mbart)
    _set_generation(mbart, language_id)
    return mbart


def load_mbart(
    folder: Path, *, dropout: float, attention_dropout: float, language_id: int, vocab_size: int
) -> MBartForConditionalGeneration:
    """Load mBART from a local Hugging Face folder, in float32; nothing is downloaded.

    Args:
        folder: config.json and weights, as `save_pretrained` wrote them.
        dropout: Of the layers while fine-tuning; MMTLB uses 0.3.
        attention_dropout: Of the attention weights; MMTLB uses 0.1.
        language_id: Id that every translation starts with.
        vocab_size: V of the tokenizer that it is used with.

    Raises:
        CheckpointError: No such folder, no mBART in it, weights missing or of another shape, or a
            vocabulary of another size than the tokenizer's.
    """
    config = _read_config(folder)
    if config.vocab_size != vocab_size:
        raise CheckpointError(
            f"{folder}: the weights have a vocabulary of {config.vocab_size} tokens, the tokenizer "
            f"one of {vocab_size}. Use the tokenizer that belongs to the weights."
        )
    config.dropout = dropout
    config.attention_dropout = attention_dropout
    mbart = _load_weights(folder, config)
    _set_generation(mbart, language_id)
    return mbart


def save_mbart(mbart: Translator, folder: Path) -> None:
    """Write weights and config in Hugging Face format, for `load_mbart`; tied weights once."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    mbart.save_pretrained(folder)


def describe_mbart(mbart: Translator) -> dict[str, Any]:
    """mBART's configuration as plain values, for `build_mbart`."""
    configuration: dict[str, Any] = mbart.config.to_diff_dict()
    return configuration


def build_mbart(configuration: dict[str, Any]) -> Translator:
    """Build the mBART that `describe_mbart` described, with random weights to be replaced."""
    mbart = MBartForConditionalGeneration(MBartConfig.from_dict(configuration))
    _set_generation(mbart, int(configuration["decoder_start_token_id"]))
    return mbart


def predict(
    model: Translator, labels: Tensor, *, inputs_embeds: Tensor, attention_mask: Tensor
) -> Tensor:
    """Predict every token of the reference from the ones before it.

    Args:
        model: Light-T or mBART.
        labels: `tokens </s> language`, int64, `(B, L)`, IGNORE_INDEX behind each end.
        inputs_embeds: Adapted features, `(B, T, E)`.
        attention_mask: 1 on frames and 0 behind a clip's end, `(B, T)`.

    Returns:
        Logits `(B, L, V)`, in the model's float type.

    Raises:
        ValueError: A clip has more frames than the model has positions.
    """
    _check_positions(model, inputs_embeds)
    logits: Tensor = model(
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        # The last label of each sentence, its language, moves to the front.
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
        use_cache=False,
    ).logits
    return logits


def restore(
    model: Translator, labels: Tensor, *, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """Like `predict`, from a noisy sentence `(B, S)` of token ids instead of features."""
    logits: Tensor = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
        use_cache=False,
    ).logits
    return logits


@torch.no_grad()
def decode(
    model: Translator,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    *,
    num_beams: int,
    length_penalty: float,
    max_new_tokens: int,
    language_id: int,
) -> Tensor:
    """Translate by beam search.

    Args:
        model: Light-T or mBART, in evaluation mode.
        inputs_embeds: Adapted features, `(B, T, E)`.
        attention_mask: 1 on frames and 0 behind a clip's end, `(B, T)`.
        num_beams: Hypotheses kept; the paper uses 5.
        length_penalty: Exponent of the length by which a log-probability is divided.
        max_new_tokens: Longest hypothesis in tokens, `</s>` included.
        language_id: Id that every hypothesis starts with.

    Returns:
        Ids `language tokens </s>`, int64, `(B, L)`, padded behind `</s>`.

    Raises:
        ValueError: A clip has more frames than the model has positions, or the model is in
            training mode.
    """
    if model.training:
        raise ValueError("The model is in training mode: dropout would decode too. Call eval().")
    _check_positions(model, inputs_embeds)
    ids: Tensor = cast(Any, model).generate(
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        num_beams=num_beams,
        length_penalty=length_penalty,
        max_new_tokens=max_new_tokens,
        # Without it generate() starts with <s> wherever the config has a bos_token_id.
        decoder_start_token_id=language_id,
        do_sample=False,
        # Every rank decodes a replica of its own, so no rank waits for another.
        synced_gpus=False,
    )
    return ids


def _config(
    shape: _Shape, vocab_size: int, dropout: float, pad_id: int, eos_id: int, language_id: int
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
        decoder_start_token_id=language_id,
    )


@torch.no_grad()
def _start_like_transformer(model: Translator) -> None:
    # transformers draws all matrices from N(0, 0.02), which is small for a few narrow layers. On a
    # toy task of reordering signs the loss with SGD at 1e-2 was 3.7 nats after 400 steps where it
    # is 1.9 after 300 with Xavier's (and unscaled words), as the original Transformer has it.
    for module in model.model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


def _set_generation(model: Translator, language_id: int) -> None:
    model.config.decoder_start_token_id = language_id
    # A folder may bring its own beams, lengths and penalties, and generate() would mix them with
    # ours: start from an empty page.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        pad_token_id=model.config.pad_token_id,
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        forced_eos_token_id=model.config.eos_token_id,
        decoder_start_token_id=language_id,
    )


def _check_positions(model: Translator, inputs_embeds: Tensor) -> None:
    num_frames, num_positions = inputs_embeds.shape[1], model.config.max_position_embeddings
    if num_frames > num_positions:
        raise ValueError(
            f"A clip has {num_frames} frames, the translator has {num_positions} positions. "
            "Choose fewer frames a clip."
        )


def _read_config(folder: Path) -> MBartConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: there is no config.json, so this is no model in Hugging Face format. Give "
            "the folder of an mBART, such as tools/pretrain_mbart.py makes."
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: this is no JSON ({error}). Restore the file.") from error
    model_type = fields.get("model_type") if isinstance(fields, dict) else None
    if model_type != "mbart":
        raise CheckpointError(
            f"{path}: model_type is {model_type!r}, not 'mbart'. Give the folder of an mBART."
        )
    try:
        config: MBartConfig = MBartConfig.from_pretrained(folder, local_files_only=True)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise CheckpointError(f"{path}: {_first_line(error)}. Restore the file.") from error
    return config


def _load_weights(folder: Path, config: MBartConfig) -> Translator:
    # One bar a rank would be drawn, all in the same line.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        mbart, report = cast(Any, MBartForConditionalGeneration).from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            # The optimizer wants float32 whatever the file holds; DeepSpeed casts.
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(
            f"{folder}: the weights do not load ({_first_line(error)}). Give the folder of an "
            "mBART, with model.safetensors."
        ) from error
    # transformers fills what a file lacks with random numbers, and goes on.
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder}: the weights lack {len(missing)} tensors of mBART (for example "
            f"{missing[0]}). Give a folder with all of them."
        )
    loaded: Translator = mbart
    return loaded


def _first_line(error: Exception) -> str:
    if isinstance(error, UnpicklingError):
        # PyTorch's own words explain how to run the code in the file.
        return "the file holds more than tensors"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
