from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from fla.errors import CheckpointError, ConfigError
from fla.models.backbone import build_backbone


@pytest.fixture(scope="module")
def imagenet() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).state_dict()


def test_a_frame_becomes_512_numbers():
    features = build_backbone()(torch.randn(3, 3, 32, 32))

    assert features.shape == (3, 512)


@pytest.mark.parametrize("name", ["resnet18.pth", "resnet18.safetensors"])
def test_weights_of_a_file_are_used(tmp_path: Path, imagenet: dict[str, torch.Tensor], name: str):
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(imagenet, path)
    else:
        save_file(imagenet, path)

    backbone = build_backbone(str(path))

    torch.testing.assert_close(backbone.layer4[1].conv2.weight, imagenet["layer4.1.conv2.weight"])
    torch.testing.assert_close(backbone.bn1.running_var, imagenet["bn1.running_var"])


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere\.pth: there is no such file\."):
        build_backbone(str(tmp_path / "nowhere.pth"))


def test_weights_of_another_network_are_refused(tmp_path: Path):
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)

    with pytest.raises(CheckpointError, match=r"not ResNet-18 weights, 99 of 120 tensors"):
        build_backbone(str(path))


def test_weights_of_another_shape_are_refused(tmp_path: Path, imagenet: dict[str, torch.Tensor]):
    path = tmp_path / "gray.safetensors"
    save_file({**imagenet, "conv1.weight": torch.zeros(64, 1, 7, 7)}, path)

    with pytest.raises(CheckpointError, match=r"conv1\.weight has shape \(64, 1, 7, 7\)"):
        build_backbone(str(path))


@pytest.mark.parametrize("name", ["garbage.pth", "garbage.safetensors"])
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"<html>not found</html>")

    with pytest.raises(CheckpointError, match="no file of tensors") as caught:
        build_backbone(str(tmp_path / name))

    assert "\n" not in str(caught.value)


def test_a_pickle_with_code_is_not_run(tmp_path: Path):
    path = tmp_path / "evil.pth"
    torch.save({"conv1.weight": Path("/")}, path)

    with pytest.raises(CheckpointError, match="no file of tensors"):
        build_backbone(str(path))
