from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fla.errors import CheckpointError
from fla.models.loading import fill_module, find_tensor, stored_buffers, tied_parameters
from fla.weights import Weights, layouts_of, open_tensors, write_tensors


class Speaker(nn.Module):
    """Words in and out by one matrix, as in many language models."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.layer = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("bias", torch.zeros(1, 5))
        self.register_buffer("positions", torch.arange(4), persistent=False)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "words.weight": torch.randn(5, 3),
        "layer.weight": torch.randn(3, 3),
        "layer.bias": torch.randn(3),
        "bias": torch.randn(1, 5),
    }


def weights_of(tensors: dict[str, Tensor], folder: Path) -> Weights:
    save_file(tensors, folder / "model.safetensors")
    return open_tensors(folder / "model.safetensors")


def test_a_tied_parameter_is_told_once_with_all_of_its_names():
    names = [names for names, _ in tied_parameters(Speaker())]

    assert names == [("words.weight", "head.weight"), ("layer.weight",), ("layer.bias",)]


def test_only_buffers_that_a_file_holds_are_stored():
    assert [name for name, _ in stored_buffers(Speaker())] == ["bias"]


def test_a_module_without_memory_is_filled_and_stays_tied(tensors: dict[str, Tensor], tmp_path):
    with torch.device("meta"):
        speaker = Speaker()

    fill_module(speaker, weights_of(tensors, tmp_path))

    assert speaker.head.weight is speaker.words.weight
    stored = {**tensors, "head.weight": tensors["words.weight"]}
    torch.testing.assert_close(dict(speaker.state_dict()), stored, rtol=0, atol=0)


def test_filled_weights_are_no_window_on_the_file(tensors: dict[str, Tensor], tmp_path):
    weights = weights_of(tensors, tmp_path)
    first, second = Speaker(), Speaker()
    fill_module(first, weights)
    fill_module(second, weights)

    with torch.no_grad():
        first.layer.bias.zero_()

    assert torch.equal(second.layer.bias, tensors["layer.bias"])
    assert torch.equal(weights.tensor("layer.bias"), tensors["layer.bias"])


def test_any_name_of_a_tied_parameter_will_do(tensors: dict[str, Tensor], tmp_path):
    expected = tensors.pop("words.weight")
    speaker = Speaker()

    fill_module(speaker, weights_of({**tensors, "head.weight": expected}, tmp_path))

    assert torch.equal(speaker.words.weight, expected)
    assert speaker.head.weight is speaker.words.weight


def test_the_type_is_the_callers(tensors: dict[str, Tensor], tmp_path):
    speaker = Speaker()

    fill_module(speaker, weights_of(tensors, tmp_path), dtype=torch.bfloat16)

    assert {value.dtype for value in speaker.state_dict().values()} == {torch.bfloat16}


def test_frozen_parameters_stay_frozen(tensors: dict[str, Tensor], tmp_path):
    speaker = Speaker()
    speaker.layer.bias.requires_grad_(False)

    fill_module(speaker, weights_of(tensors, tmp_path))

    assert not speaker.layer.bias.requires_grad
    assert speaker.layer.weight.requires_grad


@pytest.mark.parametrize("name", ["layer.bias", "words.weight"])
def test_a_missing_tensor_is_named(tensors: dict[str, Tensor], tmp_path, name: str):
    del tensors[name]

    with pytest.raises(CheckpointError, match=rf"safetensors: the weights lack the tensor {name}"):
        fill_module(Speaker(), weights_of(tensors, tmp_path))


def test_a_buffer_that_a_file_lacks_stays_as_it_is(tensors: dict[str, Tensor], tmp_path):
    del tensors["bias"]
    speaker = Speaker()
    speaker.bias.fill_(3.0)

    fill_module(speaker, weights_of(tensors, tmp_path))

    assert speaker.bias.tolist() == [[3.0] * 5]


def test_a_buffer_without_memory_must_be_in_the_file(tensors: dict[str, Tensor], tmp_path):
    del tensors["bias"]
    with torch.device("meta"):
        speaker = Speaker()

    with pytest.raises(CheckpointError, match="lack the tensor bias"):
        fill_module(speaker, weights_of(tensors, tmp_path))


def test_another_shape_is_refused_with_both(tensors: dict[str, Tensor], tmp_path):
    tensors["layer.weight"] = torch.randn(4, 3)

    with pytest.raises(
        CheckpointError, match=r"layer\.weight has the shape 4x3, the model's .*3x3"
    ):
        fill_module(Speaker(), weights_of(tensors, tmp_path))


def test_tied_names_with_different_tensors_are_refused(tensors: dict[str, Tensor], tmp_path):
    tensors["head.weight"] = tensors["words.weight"] + 1

    with pytest.raises(CheckpointError, match=r"words\.weight and head\.weight differ"):
        fill_module(Speaker(), weights_of(tensors, tmp_path))


def test_the_shape_may_come_from_elsewhere_than_the_parameter(tensors, tmp_path):
    # Under ZeRO-3 a parameter is empty, and its own shape is beside it.
    tensor = find_tensor(weights_of(tensors, tmp_path), ["layer.bias"], shape=[3])

    assert torch.equal(tensor, tensors["layer.bias"])


def test_flipped_bits_are_noticed_before_anything_is_filled(tensors: dict[str, Tensor], tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, layouts_of(tensors), tensors.items())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))

    with pytest.raises(CheckpointError, match=r"the bytes of words\.weight are not those"):
        fill_module(Speaker(), open_tensors(path))
