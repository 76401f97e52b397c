"""Backbone: ResNet-18, frame by frame. The only module that knows torchvision.

Shape letters:
- R = real frames of all clips together, no padding
- C = width of a frame-wise feature, 512
"""

import pickle
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, ResNet

from fla.batch_norm import borrowed_statistics
from fla.errors import CheckpointError, ConfigError

FRAME_WIDTH = 512
"""C, the width that ResNet-18 ends with."""


class Backbone(ResNet):  # type: ignore[misc]
    """ResNet-18 without its classifier; names of weights are torchvision's.

    Attributes:
        num_checkpointed: First stages, 0 to 4, whose activations are computed again in the backward
            pass instead of kept; the stem is part of the first one.
    """

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.fc = nn.Identity()
        self.num_checkpointed = 0
        self._is_compiled = False

    def forward(self, frames: Tensor) -> Tensor:
        """Turn frames `(R, 3, H, W)` into frame-wise features `(R, C)`."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        num_checkpointed = self.num_checkpointed if torch.is_grad_enabled() else 0
        # The stem, whose only BatchNorm is this one, is the largest of all.
        x = _run(self._stem, frames, norms=self.bn1, is_kept=num_checkpointed == 0)
        for number, stage in enumerate(stages, start=1):
            x = _run(stage, x, norms=stage, is_kept=number > num_checkpointed)
        return torch.flatten(self.avgpool(x), 1)

    def compile_in_place(self) -> None:
        """Let PyTorch compile it when it is first used; names of weights stay."""
        self._is_compiled = True
        self.compile()

    def look(self, frames: Tensor) -> Tensor:
        """What `forward` gives, compiled or not."""
        if self._is_compiled:
            # It is compiled once for all R, except 1, which PyTorch takes for a constant.
            torch._dynamo.maybe_mark_dynamic(frames, 0)
        features: Tensor = self(frames)
        return features

    def _stem(self, frames: Tensor) -> Tensor:
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(frames))))
        return x


def build_backbone(weights: str = "") -> Backbone:
    """Build ResNet-18 without its classifier, channels-last in memory.

    Args:
        weights: ResNet-18 weights as torchvision has them, a `.pth` or `.safetensors` file;
            empty: random.

    Returns:
        A module that turns frames `(R, 3, H, W)` into frame-wise features `(R, C)`.

    Raises:
        ConfigError: There is no such file.
        CheckpointError: The file holds something else than ResNet-18 weights.
    """
    backbone = Backbone()
    if weights:
        _load_weights(backbone, Path(weights).expanduser())
    return backbone


def _run(work: Callable[[Tensor], Tensor], x: Tensor, *, norms: nn.Module, is_kept: bool) -> Tensor:
    """Do some work; where its activations are not kept, the backward pass does it again."""
    if is_kept:
        return work(x)
    output: Tensor = checkpoint(
        work,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), borrowed_statistics(norms)),
    )
    return output


def _load_weights(backbone: nn.Module, path: Path) -> None:
    state = {name: value for name, value in _read(path).items() if not name.startswith("fc.")}
    wanted = backbone.state_dict()
    # Files from before PyTorch 0.4.1 do not count batches; nothing here reads the count.
    missing = {name for name in wanted if not name.endswith("num_batches_tracked")} - state.keys()
    unknown = state.keys() - wanted.keys()
    if missing or unknown:
        raise CheckpointError(
            f"{path}: these are not ResNet-18 weights, {len(missing)} of {len(wanted)} tensors are "
            f"missing and {len(unknown)} are unknown (for example {min(missing | unknown)}). "
            "Give the file that torchvision downloads for resnet18."
        )
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(value.shape)}, ResNet-18 has "
                f"{tuple(wanted[name].shape)}. Give the file that torchvision downloads for "
                "resnet18."
            )
    backbone.load_state_dict(state, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(
            f"{path}: there is no such file. Give ResNet-18 weights as torchvision saves them, or "
            "leave the key empty for random ones."
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # The reason stays out: PyTorch's own words explain how to run code that hides in the file.
        raise CheckpointError(
            f"{path}: this is no file of tensors. Give the file that torchvision downloads for "
            "resnet18."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path}: this is no table of named tensors. Give the file that torchvision downloads "
            "for resnet18."
        )
    return state
