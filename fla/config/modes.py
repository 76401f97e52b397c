"""Modes of stage 2: which of the paper's ablations go together (FLa-LLM, tables 4, 5, 8 and 9)."""

import json
from collections.abc import Iterator
from pathlib import Path

from fla.config.schema import Stage2Config


def broken_modes(config: Stage2Config) -> Iterator[str]:
    """A sentence for every pair of keys that makes no sense together."""
    model = config.model
    if not model.encoder_export:
        yield from _untrained_encoder(config)
    if model.freeze == "backbone" and model.input_features == "frame_wise":
        yield (
            "model.freeze=backbone with model.input_features=frame_wise: the backbone is all that "
            "gives frame-wise features. Set model.freeze=all, or nothing."
        )
    if config.features.mode == "cached" and model.freeze != "all":
        yield (
            f"features=cached with model.freeze={model.freeze}: features of an encoder that is "
            "trained change with every step. Set features=online, or model.freeze=all."
        )
    if model.freeze != "all":
        yield from bf16_parameters(
            config.deepspeed,
            f"model.freeze={model.freeze} cannot run with it",
            "zero3_autocast.json",
        )


def _untrained_encoder(config: Stage2Config) -> Iterator[str]:
    model = config.model
    if model.input_features == "light_t":
        yield (
            "model.input_features=light_t: Light-T is trained in stage 1. Give its export as "
            "model.encoder_export."
        )
    if model.freeze == "all" and model.input_features == "sign_wise":
        yield (
            "model.freeze=all without model.encoder_export: the local temporal module would stay "
            "random. Set model.freeze=backbone or nothing, or give an export of stage 1."
        )
    elif model.freeze != "nothing" and not model.backbone_weights:
        yield (
            f"model.freeze={model.freeze} without model.encoder_export and model.backbone_weights: "
            "the backbone would stay random. Give one of them."
        )


def bf16_parameters(path: str, consequence: str, instead: str) -> Iterator[str]:
    """A sentence where the engine's bf16 meets a trained batch normalization.

    Args:
        path: Of the DeepSpeed JSON.
        consequence: What cannot be done.
        instead: Name of a JSON that can.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        has_bf16 = content["bf16"]["enabled"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if has_bf16:
        yield (
            f"{path}: bf16 casts the weights but not BatchNorm's statistics, so {consequence}. "
            f"Use ds_configs/{instead}."
        )
