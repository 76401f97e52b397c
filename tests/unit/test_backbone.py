from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from fla.errors import CheckpointError, ConfigError
from fla.models.backbone import Backbone, build_backbone


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


def step(backbone: Backbone, frames: torch.Tensor) -> list[torch.Tensor]:
    """Forward and backward pass; gradients, and BatchNorm's statistics after it."""
    backbone.train()
    backbone(frames).square().sum().backward()
    return [*(parameter.grad for parameter in backbone.parameters()), *backbone.buffers()]


def kept_bytes(backbone: Backbone, frames: torch.Tensor) -> int:
    own = {parameter.data_ptr() for parameter in backbone.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone.train()(frames)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("num_checkpointed", [1, 2, 3, 4])
def test_what_is_computed_again_changes_neither_gradients_nor_statistics(num_checkpointed: int):
    kept, again = build_backbone(), build_backbone()
    again.load_state_dict(kept.state_dict())
    again.num_checkpointed = num_checkpointed
    frames = torch.randn(4, 3, 32, 32)

    # Twice, as with two micro-batches: statistics are counted once for each.
    for _ in range(2):
        pairs = zip(step(again, frames), step(kept, frames), strict=True)

    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert again.bn1.num_batches_tracked == 2


def test_each_stage_that_is_computed_again_keeps_less():
    backbone, frames = build_backbone(), torch.randn(2, 3, 64, 64)
    kept = []

    for backbone.num_checkpointed in range(5):
        kept.append(kept_bytes(backbone, frames))

    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 5
    # The stem and the first stage have the most of it.
    assert kept[1] < 0.4 * kept[0]


def test_evaluation_computes_nothing_twice():
    backbone = build_backbone()
    backbone.num_checkpointed = 4

    with torch.no_grad():
        features = backbone.eval()(torch.randn(2, 3, 32, 32))

    assert features.shape == (2, 512)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_compiled_backbone_has_the_same_names_and_features():
    torch.manual_seed(0)
    plain, compiled = build_backbone(), build_backbone()
    names = [*compiled.state_dict()]
    compiled.compile_in_place()
    # What was saved without it is loaded with it.
    compiled.load_state_dict(plain.state_dict())

    for num_frames in (6, 4, 7):
        frames = torch.randn(num_frames, 3, 32, 32)
        torch.testing.assert_close(compiled.look(frames), plain.look(frames), rtol=1e-3, atol=1e-3)
    gradients = zip(step(compiled, frames), step(plain, frames), strict=True)

    assert [*compiled.state_dict()] == names
    for ours, theirs in gradients:
        assert (ours - theirs).float().norm() <= 1e-3 * theirs.float().norm()
