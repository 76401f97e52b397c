"""The LLM of stage 2: a pretrained encoder-decoder of transformers, or one with random weights.

A model is described by plain values, the fields of its config.json: they are read and checked
without its weights, go into exports, and say how to build it.
"""

import json
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from fla.errors import CheckpointError
from fla.models.loading import fill_module
from fla.models.translator import Translator, set_generation
from fla.weights import open_weights

T5_TYPES = ("longt5", "mt5", "t5", "umt5")
"""Model types with distances for positions and, often, more rows than their tokenizer has ids."""

MODEL_TYPES = ("bart", "blenderbot", "mbart", "plbart", *T5_TYPES)
"""Values of model_type in config.json that can be an LLM; tests go through all of them."""

_COMPUTED = "its positions are computed, not learned, and not all of its files hold them"
_REFUSED = {
    "bigbird_pegasus": "its attention is another one for short clips than for long ones",
    "encoder-decoder": "it is two models, each with a configuration of its own",
    "fsmt": "its encoder takes words only",
    "led": "it has weights for global attention, which clips do not use",
    "m2m_100": _COMPUTED,
    "marian": _COMPUTED,
    "nllb-moe": _COMPUTED,
    "pegasus": _COMPUTED,
    "prophetnet": "it predicts several tokens at once",
    "switch_transformers": "its experts take a limited number of tokens, padding included",
}
# By these transformers finds code, of the model's own or for its attention, in the folder or on the
# hub; and an export would hand them on.
_NAMES_OF_CODE = frozenset(
    "attn_implementation _attn_implementation auto_map experts_implementation "
    "_experts_implementation".split()
)


def read_llm(
    folder: Path,
    *,
    dropout: float,
    attention_dropout: float,
    pad_id: int,
    eos_id: int,
    start_id: int,
    vocab_size: int,
) -> dict[str, Any]:
    """Read what an LLM is, from config.json alone: no weights are opened.

    Args:
        folder: A local folder in Hugging Face format; nothing is downloaded.
        dropout: Of the layers while fine-tuning; MMTLB uses 0.3.
        attention_dropout: Of the attention weights; MMTLB uses 0.1. T5 and its kin have no such
            number: there `dropout` is for these, too.
        pad_id: Of the tokenizer that it is used with, and so are the next three.
        eos_id: Id of `</s>`.
        start_id: Id that every translation starts with.
        vocab_size: Number of ids.

    Returns:
        Plain values for `build_llm`, `load_llm` and exports.

    Raises:
        CheckpointError: No such folder, a kind of model that cannot work, a broken config.json,
            or one that does not fit the tokenizer.
    """
    fields = _read_fields(folder)
    config: Any = _read_config(folder, fields)
    _check_tokens(folder, config, pad_id=pad_id, eos_id=eos_id, vocab_size=vocab_size)
    config.decoder_start_token_id = start_id
    if config.model_type in T5_TYPES:
        config.dropout_rate = dropout
    else:
        config.dropout = dropout
        config.attention_dropout = attention_dropout
    description: dict[str, Any] = config.to_diff_dict()
    # Whether the numbers fit each other shows when modules are built of them; this takes no memory.
    try:
        with torch.device("meta"):
            build_llm(description)
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(folder, error) from error
    return description


def check_positions(folder: Path, description: dict[str, Any], *, num_positions: int) -> None:
    """Refuse an LLM that is too short for the clips or sentences of a run.

    Args:
        folder: Where it was read from, for the error.
        description: As of `read_llm`.
        num_positions: Of the longest clip or sentence that it may be given.

    Raises:
        CheckpointError: It has fewer; T5 and its kin have no such limit.
    """
    config: Any = _config_of(description)
    if config.model_type in T5_TYPES or config.max_position_embeddings >= num_positions:
        return
    raise CheckpointError(
        f"{folder}: the model has {config.max_position_embeddings} positions, and data.max_frames, "
        f"text.max_tokens or beam.max_new_tokens is {num_positions}. Lower them, or use another "
        "model."
    )


def build_llm(description: dict[str, Any]) -> Translator:
    """Build a model with random weights, as its own kind starts.

    On the meta device its parameters take no memory. Tied ones are one Parameter there, too.

    Args:
        description: As of `read_llm`. One without model_type, as former exports have it, is of an
            mBART.
    """
    config: Any = _config_of(description)
    model = cast(Any, AutoModelForSeq2SeqLM).from_config(config, dtype=torch.float32)
    if not config.tie_word_embeddings:
        # Only the head has weights of its own. transformers would part the words of encoder and
        # decoder as well, which no pretrained model has.
        words = model.get_input_embeddings().weight
        for part in (model.get_encoder(), model.get_decoder()):
            part.get_input_embeddings().weight = words
    if hasattr(model, "final_logits_bias"):
        # The one buffer that these models have; files of old releases lack it. On the meta device
        # it would have no value to keep then.
        model.final_logits_bias = torch.zeros(1, config.vocab_size, device="cpu")
    set_generation(model, int(config.decoder_start_token_id))
    translator: Translator = model
    return translator


def load_llm(
    folder: Path, description: dict[str, Any], *, dtype: torch.dtype = torch.float32
) -> Translator:
    """Build a model and give it the weights of a folder, in evaluation mode.

    Args:
        folder: With model.safetensors or pytorch_model.bin, in one file or several.
        description: As of `read_llm` for the same folder.
        dtype: Of the weights. The optimizer wants float32 whatever the file holds; DeepSpeed casts.

    Raises:
        CheckpointError: The weights are missing, damaged, of another model, or a pickle with more
            than tensors; nothing in it is run.
    """
    weights = open_weights(folder)
    with torch.device("meta"):
        model = build_llm(description)
    fill_module(model, weights, dtype=dtype)
    model.train(False)
    return model


def save_llm(model: Translator, folder: Path) -> None:
    """Write weights and config.json in Hugging Face format; tied weights once."""
    # One bar a rank would be drawn, all in the same line.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)


def _read_fields(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: there is no config.json, so this is no model in Hugging Face format. Give "
            "the folder of an mBART, such as tools/pretrain_mbart.py makes, or of an mT5."
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: this is no JSON ({error}). Restore the file.") from error
    model_type = fields.get("model_type") if isinstance(fields, dict) else None
    if model_type not in MODEL_TYPES:
        reason = _REFUSED.get(str(model_type), "that is no encoder-decoder that this release knows")
        raise CheckpointError(
            f"{path}: model_type is {model_type!r}, and {reason}. Give a folder of one of "
            f"{', '.join(MODEL_TYPES)}."
        )
    return cast(dict[str, Any], fields)


def _read_config(folder: Path, fields: dict[str, Any]) -> PreTrainedConfig:
    try:
        return _config_of(fields)
    except (LookupError, TypeError, ValueError, StrictDataclassError) as error:
        raise _broken(folder, error) from error


def _config_of(fields: dict[str, Any]) -> PreTrainedConfig:
    known = {name: value for name, value in fields.items() if name not in _NAMES_OF_CODE}
    config: Any = CONFIG_MAPPING[fields.get("model_type", "mbart")].from_dict(known)
    # transformers says True for every T5 and then finds other weights in the file: mT5's head, and
    # that of T5 1.1, is not its word embedding.
    config.tie_word_embeddings = fields.get("tie_word_embeddings", True) is not False
    return cast(PreTrainedConfig, config)


def _check_tokens(folder: Path, config: Any, *, pad_id: int, eos_id: int, vocab_size: int) -> None:
    num_rows = config.vocab_size
    # mT5 has 250,112 rows for 250,100 tokens, to divide well.
    fits = num_rows >= vocab_size if config.model_type in T5_TYPES else num_rows == vocab_size
    if not fits:
        raise CheckpointError(
            f"{folder}: the weights have a vocabulary of {num_rows} tokens, the tokenizer one of "
            f"{vocab_size}. Use the tokenizer that belongs to the weights."
        )
    for name, ours in (("pad_token_id", pad_id), ("eos_token_id", eos_id)):
        if getattr(config, name) != ours:
            raise CheckpointError(
                f"{folder}: the model's {name} is {getattr(config, name)}, the tokenizer's is "
                f"{ours}. Use the tokenizer that belongs to the weights."
            )


def _broken(folder: Path, error: Exception) -> CheckpointError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"{folder / 'config.json'}: {lines[0].rstrip('.')[:200]}. Restore the file."
    )
