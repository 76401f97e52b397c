"""From frames to what the LLM-Adapter reads: frozen in whole, in part, or trained along.

Shape letters:
- B = clips in the batch
- T = frames, padded to the longest clip
- R = real frames of all clips together, packed one clip after the other
- C = width of a frame-wise feature
- D = width of what comes out
"""

import hashlib
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fla.batch import Batch
from fla.models.adapters import Adapter
from fla.models.backbone import Backbone
from fla.models.packing import pad_clips
from fla.models.temporal import LocalTemporal
from fla.models.visual_encoder import VisualEncoder
from fla.runtime import computes_bfloat16

InputFeatures = Literal["frame_wise", "sign_wise", "light_t"]
"""What the LLM-Adapter reads (FLa-LLM, table 8)."""

_BYTES_PER_PIXEL = 80
"""What the backbone holds at once in bfloat16: 512 MiB for 128 frames of 224 pixels."""


class LightTEncoder(nn.Module):
    """VL-Adapter and the encoder of Light-T, trained in stage 1: hidden states of table 8.

    Args:
        adapter: The VL-Adapter, sign-wise features to Light-T's width.
        encoder: Light-T's encoder; takes `inputs_embeds` and `attention_mask`.
    """

    def __init__(self, adapter: Adapter, encoder: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter
        self.encoder = encoder

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Turn packed sign-wise features into packed hidden states, `(R, D)`."""
        embeds_BTE, mask_BT = pad_clips(self.adapter(features), lengths)
        hidden_BTE: Tensor = self.encoder(
            inputs_embeds=embeds_BTE, attention_mask=mask_BT
        ).last_hidden_state
        return hidden_BTE[mask_BT.bool()]


class FeatureEncoder(nn.Module):
    """Frames to the features that the LLM-Adapter reads.

    Args:
        backbone: Frames `(R, 3, H, W)` to frame-wise features `(R, C)`; None: those are given.
        temporal: Frame-wise to sign-wise features; None: frame-wise ones are the input.
        light_t: Sign-wise features to hidden states; None: the others are the input.
    """

    def __init__(
        self,
        *,
        backbone: Backbone | None,
        temporal: LocalTemporal | None,
        light_t: LightTEncoder | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.temporal = temporal
        self.light_t = light_t
        self.memory_gib = 0.5

    def forward(self, batch: Batch) -> Tensor:
        """Encode a micro-batch.

        Args:
            batch: With frames, or with frame-wise features where there is no backbone.

        Returns:
            `(R, D)`.

        Raises:
            ValueError: The batch has not what this encoder starts from.
        """
        if not torch.is_grad_enabled() and imitates_bfloat16(next(self.parameters())):
            return self._encode_in_float32(batch)
        if self.backbone is None:
            features = batch.features
        else:
            features = (
                None
                if batch.frames is None
                else _look(self.backbone, batch.frames, self.memory_gib)
            )
        if features is None:
            needed = "features" if self.backbone is None else "frames"
            raise ValueError(f"The encoder needs {needed}, but the batch has none.")
        if self.temporal is not None:
            # A frozen backbone hands over bfloat16, whatever the rest is trained in.
            features = features.to(self.temporal.conv.weight.dtype)
            features = self.temporal(features, batch.frame_lengths)
        if self.light_t is not None:
            features = self.light_t(features, batch.frame_lengths)
        return features

    def _encode_in_float32(self, batch: Batch) -> Tensor:
        """The same in float32, of the same values and rounded at the end."""
        weights = {name: tensor.detach() for name, tensor in self.named_parameters()}
        weights |= dict(self.named_buffers())
        precise = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
        rounded = replace(
            batch,
            frames=None if batch.frames is None else batch.frames.bfloat16().float(),
            features=None if batch.features is None else batch.features.bfloat16().float(),
        )
        features: Tensor = functional_call(self, precise, (rounded,))
        return features.bfloat16()

    def last_layer(self) -> list[nn.Parameter]:
        """Parameters of the last layer before the features."""
        if self.light_t is not None:
            return [*_last_child(self.light_t.encoder.get_submodule("layers")).parameters()]
        if self.temporal is not None:
            return [*self.temporal.parameters()]
        assert self.backbone is not None
        return [*_last_child(self.backbone.get_submodule("layer4")).parameters()]

    def split(
        self, freeze: Literal["all", "backbone", "nothing"]
    ) -> tuple["FeatureEncoder | None", "FeatureEncoder | None"]:
        """The part that is frozen and the part that is trained (FLa-LLM, table 9)."""
        if freeze == "all":
            return self, None
        if freeze == "nothing":
            return None, self
        frozen = FeatureEncoder(backbone=self.backbone, temporal=None, light_t=None)
        trained = FeatureEncoder(backbone=None, temporal=self.temporal, light_t=self.light_t)
        return frozen, trained


def build_feature_encoder(
    visual_encoder: VisualEncoder, *, input_features: InputFeatures, light_t: LightTEncoder | None
) -> FeatureEncoder:
    """Take what an input needs of a visual encoder and, for `light_t`, of Light-T."""
    return FeatureEncoder(
        backbone=visual_encoder.backbone,
        temporal=None if input_features == "frame_wise" else visual_encoder.temporal,
        light_t=light_t if input_features == "light_t" else None,
    )


class FrozenEncoder(nn.Module):
    """Turns a batch's frames into features and changes nothing of itself.

    It stays outside of the DeepSpeed engine, which would partition it, and call `train()` on it.

    Args:
        encoder: Trained in stage 1, or its backbone; taken over and cast to bfloat16.
        memory_gib: Bound of what a pass through the backbone holds.
    """

    def __init__(self, encoder: FeatureEncoder, *, memory_gib: float = 0.5) -> None:
        super().__init__()
        # Buffers too: batch normalization refuses statistics of another type than the weights'.
        self.encoder = encoder.to(torch.bfloat16).requires_grad_(False)
        self.encoder.memory_gib = memory_gib
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay in evaluation mode, whatever is asked: its statistics belong to stage 1."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, batch: Batch) -> Batch:
        """The same batch with features `(R, D)`, bfloat16, in the place of its frames."""
        return replace(batch, frames=None, features=self.encoder(batch))

    def compile_backbone(self) -> None:
        """Let PyTorch compile the backbone when it is first used."""
        backbone = self.encoder.backbone
        if backbone is not None and not imitates_bfloat16(next(backbone.parameters())):
            backbone.compile_in_place()

    def digest(self) -> str:
        """SHA-256 over names, types and bytes of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def imitates_bfloat16(tensor: Tensor) -> bool:
    """Whether PyTorch would imitate bfloat16 for this tensor: 30 times slower on the CPU."""
    return tensor.dtype is torch.bfloat16 and not computes_bfloat16(str(tensor.device))


def _last_child(module: nn.Module) -> nn.Module:
    return [*module.children()][-1]


def _look(backbone: Backbone, frames: Tensor, memory_gib: float) -> Tensor:
    """Frame-wise features `(R, C)` in passes that keep within the memory, where none is learned."""
    frames = frames.to(next(backbone.parameters()).dtype)
    if torch.is_grad_enabled():
        # What the backward pass needs is kept anyway, and batch normalization sees all frames.
        return backbone.look(frames)
    bytes_per_pixel = _BYTES_PER_PIXEL * frames.element_size() // 2
    bytes_per_frame = frames.shape[-1] * frames.shape[-2] * bytes_per_pixel
    frames_per_pass = max(1, int(memory_gib * 2**30 / bytes_per_frame))
    return torch.cat([backbone.look(part) for part in torch.split(frames, frames_per_pass)])
