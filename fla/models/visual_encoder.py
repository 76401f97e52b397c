"""Visual encoder: backbone and local temporal module, what stage 1 trains and stage 2 freezes.

Shape letters:
- B = clips in the batch
- R = real frames of all clips together, packed one clip after the other
- D = width of a sign-wise feature
"""

from torch import Tensor, nn

from fla.models.backbone import FRAME_WIDTH, Backbone, build_backbone
from fla.models.temporal import LocalTemporal


class VisualEncoder(nn.Module):
    """Frames to sign-wise features; a clip's features depend on no other clip in evaluation.

    Args:
        backbone: Frames `(R, 3, H, W)` to frame-wise features `(R, C)`.
        temporal: Frame-wise features to sign-wise ones.
    """

    def __init__(self, backbone: Backbone, temporal: LocalTemporal) -> None:
        super().__init__()
        self.backbone = backbone
        self.temporal = temporal

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Encode packed clips.

        Args:
            frames: Normalized, `(R, 3, H, W)`, the clips one after the other without padding.
            lengths: Frames of each clip, int64, `(B,)`; they sum to R.

        Returns:
            Sign-wise features, `(R, D)`.
        """
        features: Tensor = self.temporal(self.backbone.look(frames), lengths)
        return features


def build_visual_encoder(
    *, sign_width: int, kernel_size: int, backbone_weights: str = ""
) -> VisualEncoder:
    """Build ResNet-18 and the local temporal module.

    Args:
        sign_width: D; 1024 in C2RL.
        kernel_size: Frames that the local temporal module sees at once, odd; 3 in C2RL.
        backbone_weights: ResNet-18 weights, `.pth` or `.safetensors`; empty: random.

    Raises:
        ConfigError: There is no such file.
        CheckpointError: The file holds something else than ResNet-18 weights.
        ValueError: `kernel_size` is even.
    """
    return VisualEncoder(
        build_backbone(backbone_weights),
        LocalTemporal(in_width=FRAME_WIDTH, out_width=sign_width, kernel_size=kernel_size),
    )
