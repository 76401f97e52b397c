"""The visual encoder of stage 2: where it comes from, and what of it stays as it is."""

import logging
from pathlib import Path

import torch

from fla.build import build_encoder
from fla.config.schema import Stage2Config
from fla.description import EncoderShape
from fla.export import load_encoder
from fla.models.features import FeatureEncoder, FrozenEncoder
from fla.runtime import Runtime

log = logging.getLogger(__name__)


def read_encoder(
    config: Stage2Config, runtime: Runtime
) -> tuple[FrozenEncoder | None, FeatureEncoder | None, EncoderShape]:
    """Read the encoder of stage 1 as far as its features are used, or make one of ImageNet's.

    Returns:
        The part that is frozen, on the device in bfloat16; the part that is trained, in float32;
        and the shape of both together.

    Raises:
        FlaError: Something that the user can fix.
    """
    encoder, shape = _open_encoder(config)
    to_freeze, trained = encoder.split(config.model.freeze)
    if trained is not None and trained.backbone is not None:
        trained.backbone.num_checkpointed = config.model.checkpointed_stages
    if to_freeze is None:
        return None, trained, shape
    frozen = FrozenEncoder(to_freeze, memory_gib=config.features.encoder_memory_gib)
    if config.model.compile:
        frozen.compile_backbone()
    return frozen.to(runtime.device), trained, shape


def _open_encoder(config: Stage2Config) -> tuple[FeatureEncoder, EncoderShape]:
    model = config.model
    if model.encoder_export:
        return load_encoder(Path(model.encoder_export), input_features=model.input_features)
    if not model.backbone_weights:
        log.info("The backbone starts from random weights: model.backbone_weights is empty.")
    shape = EncoderShape(
        sign_width=model.sign_width,
        kernel_size=model.kernel_size,
        input_features=model.input_features,
    )
    torch.manual_seed(config.seed)
    return build_encoder(shape, backbone_weights=model.backbone_weights), shape
