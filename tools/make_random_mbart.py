"""Make an mBART of full size with random weights: python tools/make_random_mbart.py OUT_DIR.

Layout, sizes and configuration are those of facebook/mbart-large-cc25, so that memory, speed and
whatever reads it can be measured where the real one cannot be had. It speaks no language.
"""

import argparse
import json
import string
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fla.data.command import run_tool
from fla.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from fla.weights import Layout

# 250,027 tokens: <s>, <pad>, </s>, <unk>, these, 25 language codes and <mask>.
NUM_PIECES = 249_997
NUM_LAYERS = 12
D_MODEL = 1024
# Of XLM-R's vocabulary, which is mBART's, a corpus of sign language translation uses fewer.
MAX_LEARNED_PIECES = 32_000

_HEAD_WIDTH = 64
_STD = 0.02
_PAD_ID = 1
_NUM_FIRST, _NUM_LAST = 4, 26
_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
_GENERATION = {
    "bos_token_id": 0,
    "eos_token_id": 2,
    "forced_eos_token_id": 2,
    "max_length": 1024,
    "num_beams": 5,
    "pad_token_id": 1,
}
# A plane of private use: in nobody's text, and NFKC leaves it alone.
_PRIVATE_USE, _NUM_PRIVATE = 0xF0000, 512


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write an mBART with random weights, in the layout and size of "
        "facebook/mbart-large-cc25 unless told otherwise.",
    )
    parser.add_argument("out_dir", type=Path, help="new folder, in Hugging Face format")
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="bf16", help="of the weights (default: %(default)s)"
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="text to learn pieces from, one sentence a line; without it printable ASCII is known",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the weights (default: %(default)s)")
    sizes = {
        "--layers": (NUM_LAYERS, "layers of the encoder, and of the decoder"),
        "--d-model": (D_MODEL, f"width, a multiple of {_HEAD_WIDTH}"),
        "--pieces": (NUM_PIECES, "tokens without those for control"),
    }
    for name, (default, meaning) in sizes.items():
        parser.add_argument(
            name, type=_positive, default=default, metavar="N", help=f"{meaning} ({default})"
        )
    return parser.parse_args()


def make_random_mbart(
    out_dir: Path,
    *,
    text: Path | None,
    num_pieces: int,
    num_layers: int,
    d_model: int,
    dtype: str,
    seed: int,
) -> None:
    """Write a folder in Hugging Face format, its weights one tensor at a time.

    Raises:
        ConfigError: The folder is in use, or the sizes make no mBART.
        CheckpointError: The disk is full.
    """
    if out_dir.exists() and any(out_dir.iterdir()):
        raise ConfigError(f"{out_dir} exists and is not empty. Name a new folder.")
    if d_model % _HEAD_WIDTH:
        raise ConfigError(
            f"--d-model ({d_model}) is no multiple of {_HEAD_WIDTH}, the width of a head. "
            "Choose one."
        )
    # torch takes seconds to import; what is above is answered without it.
    from fla.text.trimming import save_tokenizer
    from fla.weights import SAFETENSORS, write_tensors

    pieces = _make_pieces(text, num_pieces)
    config = make_config(
        num_tokens=len(pieces), num_layers=num_layers, d_model=d_model, dtype=dtype
    )
    layouts = model_layouts(config)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_tensors(
        out_dir / SAFETENSORS,
        layouts,
        _random_tensors(layouts, seed=seed),
        metadata={"format": "pt"},
    )
    save_tokenizer(out_dir, pieces, language="en_XX")
    _write_json(out_dir / "config.json", config)
    _write_json(out_dir / "generation_config.json", _GENERATION)
    num_bytes = sum(layout.num_bytes for layout in layouts.values())
    print(f"{out_dir}: {len(pieces):,} tokens, {len(layouts)} tensors, {num_bytes:,} bytes.")


def _make_pieces(text: Path | None, num_pieces: int) -> list[tuple[str, float]]:
    """mBART's tokens with their scores: control tokens, learned pieces, then made-up ones."""
    from fla.text.codec import train_codec
    from fla.text.trimming import read_vocabulary

    sentences = text.read_text(encoding="utf-8").splitlines() if text else string.printable.split()
    try:
        codec = train_codec(
            sentences, max_pieces=min(num_pieces, MAX_LEARNED_PIECES), language="en_XX"
        )
    except ConfigError as error:
        raise ConfigError(
            f"--pieces ({num_pieces}) is less than the text's characters need. Give more."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        codec.save(Path(folder))
        learned = read_vocabulary(Path(folder)).pieces
    # Behind the pieces come the codes of 25 languages and <mask>.
    first, last = learned[:-_NUM_LAST], learned[-_NUM_LAST:]
    lowest = min(score for _, score in learned)
    num_missing = num_pieces + _NUM_FIRST - len(first)
    return [*first, *((_unspoken(i), lowest - 1.0) for i in range(num_missing)), *last]


def _unspoken(number: int) -> str:
    high, low = divmod(number, _NUM_PRIVATE)
    return chr(_PRIVATE_USE + high) + chr(_PRIVATE_USE + low)


def make_config(*, num_tokens: int, num_layers: int, d_model: int, dtype: str) -> dict[str, Any]:
    """config.json with the fields of facebook/mbart-large-cc25's.

    transformers 5 passes over add_bias_logits, add_final_layer_norm, normalize_before,
    normalize_embedding and static_position_embeddings: its mBART is always so. It takes max_length
    and num_beams from generation_config.json.
    """
    sides = ("encoder", "decoder")
    return {
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "add_bias_logits": False,
        "add_final_layer_norm": True,
        "architectures": ["MBartForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "classifier_dropout": 0.0,
        "d_model": d_model,
        **{f"{side}_attention_heads": d_model // _HEAD_WIDTH for side in sides},
        **{f"{side}_ffn_dim": 4 * d_model for side in sides},
        **{f"{side}_layerdrop": 0.0 for side in sides},
        **{f"{side}_layers": num_layers for side in sides},
        "dropout": 0.1,
        "dtype": dtype,
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
        "init_std": _STD,
        "is_encoder_decoder": True,
        "max_length": 1024,
        "max_position_embeddings": 1024,
        "model_type": "mbart",
        "normalize_before": True,
        "normalize_embedding": True,
        "num_beams": 5,
        "num_hidden_layers": num_layers,
        "pad_token_id": 1,
        "scale_embedding": True,
        "static_position_embeddings": False,
        # Romanian.
        "task_specific_params": {
            "translation_en_to_ro": {"decoder_start_token_id": num_tokens - 7}
        },
        "tokenizer_class": "MBartTokenizer",
        "use_cache": True,
        "vocab_size": num_tokens,
    }


def model_layouts(config: Mapping[str, Any]) -> dict[str, "Layout"]:
    """Every tensor of the model by name: parameters, the tied one once, and final_logits_bias."""
    import torch
    from transformers import MBartConfig, MBartForConditionalGeneration

    from fla.weights import Layout

    with torch.device("meta"):
        model = MBartForConditionalGeneration(MBartConfig.from_dict(dict(config)))
    dtype = getattr(torch, config["dtype"])
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: Layout(tuple(tensor.shape), dtype) for name, tensor in tensors.items()}


def _random_tensors(
    layouts: Mapping[str, "Layout"], *, seed: int
) -> Iterator[tuple[str, "Tensor"]]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, layout in layouts.items():
        tensor = torch.zeros(layout.shape, dtype=layout.dtype)
        if name.endswith(("norm.weight", "norm_embedding.weight")):
            tensor.fill_(1.0)
        elif name.endswith(".weight"):
            tensor.normal_(0.0, _STD, generator=generator)
        if name == "model.shared.weight":
            tensor[_PAD_ID] = 0.0
        yield name, tensor


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(f"{json.dumps(fields, indent=2)}\n", encoding="utf-8")


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return number


def main() -> int:
    words = parse_arguments()

    def work() -> int:
        make_random_mbart(
            words.out_dir,
            text=words.text,
            num_pieces=words.pieces,
            num_layers=words.layers,
            d_model=words.d_model,
            dtype=_DTYPES[words.dtype],
            seed=words.seed,
        )
        return 0

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())
