"""Stage models by their description, with random weights, to be trained or to be filled."""

from typing import Any

import torch
from torch import nn

from fla.description import Description, EncoderShape
from fla.models.adapters import Adapter
from fla.models.backbone import FRAME_WIDTH
from fla.models.features import FeatureEncoder, LightTEncoder, build_feature_encoder
from fla.models.light_t import LightT, build_light_t
from fla.models.stages import Stage1Model, Stage2Model
from fla.models.translator import Translator
from fla.models.visual_encoder import VisualEncoder, build_visual_encoder
from fla.text.codec import TextCodec


def build_stage1(
    description: Description,
    codec: TextCodec,
    *,
    backbone_weights: str = "",
    dropout: float = 0.0,
    label_smoothing: float = 0.0,
) -> Stage1Model:
    """Build stage 1's model, with random weights where none are given.

    Args:
        description: Shapes.
        codec: Its vocabulary is the model's.
        backbone_weights: As of `build_visual_encoder`.
        dropout: Of Light-T, in training.
        label_smoothing: Of the loss, in training.
    """
    encoder = _build_visual_encoder(description.encoder, backbone_weights)
    light_t = _build_light_t(description, codec, dropout=dropout)
    adapter = Adapter(in_width=description.encoder.sign_width, out_width=light_t.config.d_model)
    return Stage1Model(
        encoder,
        adapter,
        light_t,
        label_smoothing=label_smoothing,
        start_id=codec.start_id,
    )


def build_encoder(shape: EncoderShape, *, backbone_weights: str = "") -> FeatureEncoder:
    """Build what turns frames into the input of the LLM-Adapter.

    Args:
        shape: Of stage 2.
        backbone_weights: As of `build_visual_encoder`.
    """
    return build_feature_encoder(
        _build_visual_encoder(shape, backbone_weights),
        input_features=shape.input_features,
        light_t=_build_light_t_encoder(shape) if shape.light_t else None,
    )


def build_stage2(
    description: Description,
    codec: TextCodec,
    encoder: FeatureEncoder | None,
    llm: Translator,
    *,
    label_smoothing: float = 0.0,
) -> Stage2Model:
    """Put the LLM-Adapter, and what belongs to the model of an encoder, before an LLM."""
    adapter = Adapter(in_width=feature_width(description.encoder), out_width=llm.config.d_model)
    return Stage2Model(
        encoder, adapter, llm, label_smoothing=label_smoothing, start_id=codec.start_id
    )


def describe_light_t(description: Description, codec: TextCodec) -> dict[str, Any]:
    """Configuration of the Light-T in a model, as transformers has it; empty: there is none."""
    with torch.device("meta"):
        if description.stage == 1:
            return _build_light_t(description, codec, dropout=0.0).config.to_diff_dict()
        if description.encoder.light_t:
            encoder: Any = _build_light_t_encoder(description.encoder).encoder
            fields: dict[str, Any] = encoder.config.to_diff_dict()
            return fields
    return {}


def _build_light_t(description: Description, codec: TextCodec, *, dropout: float) -> LightT:
    return build_light_t(
        size=description.translator["size"],
        vocab_size=codec.vocab_size,
        dropout=dropout,
        pad_id=codec.pad_id,
        eos_id=codec.eos_id,
        start_id=codec.start_id,
    )


def _build_visual_encoder(shape: EncoderShape, backbone_weights: str) -> VisualEncoder:
    return build_visual_encoder(
        sign_width=shape.sign_width,
        kernel_size=shape.kernel_size,
        backbone_weights=backbone_weights,
    )


def feature_width(shape: EncoderShape) -> int:
    """Width of what the LLM-Adapter reads."""
    if shape.input_features == "frame_wise":
        return FRAME_WIDTH
    if shape.input_features == "sign_wise":
        return shape.sign_width
    with torch.device("meta"):
        return _build_light_t_encoder(shape).adapter.out.out_features


def _build_light_t_encoder(shape: EncoderShape) -> LightTEncoder:
    # The words are left out, so their number does not matter.
    ids = {"vocab_size": 8, "pad_id": 1, "eos_id": 2, "start_id": 3}
    light_t = build_light_t(size=shape.light_t, dropout=0.0, **ids)  # type: ignore[arg-type]
    encoder = light_t.model.encoder
    encoder.embed_tokens = nn.Identity()
    width = light_t.config.d_model
    return LightTEncoder(Adapter(in_width=shape.sign_width, out_width=width), encoder)
