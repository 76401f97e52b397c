"""Backbone: ResNet-18, frame by frame. The only module that knows torchvision.

Shape letters:
- R = real frames of all clips together, no padding
- C = width of a frame-wise feature, 512
"""

import pickle
from pathlib import Path

import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn

from fla.errors import CheckpointError, ConfigError

FRAME_WIDTH = 512
"""C, the width that ResNet-18 ends with."""


def build_backbone(weights: str = "") -> nn.Module:
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
    backbone = torchvision.models.resnet18(weights=None)
    # The classifier goes before loading, so that weights of any number of classes fit.
    backbone.fc = nn.Identity()
    if weights:
        _load_weights(backbone, Path(weights).expanduser())
    module: nn.Module = backbone
    return module


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
