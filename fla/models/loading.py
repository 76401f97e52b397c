"""Filling a module from a weights file, parameter by parameter.

A parameter may have several names: tied weights are one Parameter in the module, and a file may
hold it under any of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fla.errors import CheckpointError
from fla.weights import Weights


def tied_parameters(module: nn.Module) -> list[tuple[tuple[str, ...], nn.Parameter]]:
    """Each parameter of a module once, with all of its names, in the module's order."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [(tuple(all_names), parameter) for parameter, all_names in names.items()]


def stored_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers that a weights file holds beside the parameters, by name."""
    stored = module.state_dict(keep_vars=True)
    return [(name, buffer) for name, buffer in module.named_buffers() if name in stored]


def find_tensor(weights: Weights, names: Sequence[str], *, shape: Sequence[int]) -> Tensor:
    """The tensor that a weights file holds for a parameter.

    Args:
        weights: An open file; the tensor is a view of its pages.
        names: All names of the parameter; any one of them in the file will do.
        shape: That the parameter has. Under ZeRO-3 that is `ds_shape`.

    Raises:
        CheckpointError: None of the names is in the file, or the tensor has another shape, or
            there are several, which differ although the module has only one.
    """
    found = [name for name in names if name in weights]
    if not found:
        raise CheckpointError(
            f"{weights.path}: the weights lack the tensor {names[0]}. Give the folder of a whole "
            "model, with the config.json that was saved with it."
        )
    tensor = weights.tensor(found[0])
    if tuple(tensor.shape) != tuple(shape):
        raise CheckpointError(
            f"{weights.path}: the tensor {found[0]} has the shape {_words(tensor.shape)}, the "
            f"model's has {_words(shape)}. Give weights and config.json of the same model."
        )
    for name in found[1:]:
        other = weights.tensor(name)
        if other.data_ptr() != tensor.data_ptr() and not torch.equal(other, tensor):
            raise CheckpointError(
                f"{weights.path}: the tensors {found[0]} and {name} differ, but the model has one "
                "for both. Set tie_word_embeddings in config.json as the model was trained."
            )
    return tensor


def set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a parameter or a buffer in the place of the one that has this name.

    Tied weights stay one when the same Parameter is set under each of its names.
    """
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, tensor)


def fill_module(module: nn.Module, weights: Weights, *, dtype: torch.dtype = torch.float32) -> None:
    """Give a module, also one on the meta device, the weights of a file, in memory of their own.

    Args:
        module: Its parameters are replaced; tied ones stay tied. A buffer that the file lacks
            stays as it is.
        weights: An open file; tensors that the module does not have are left aside.
        dtype: Of all parameters and floating-point buffers.

    Raises:
        CheckpointError: As of `find_tensor`, or a tensor's bytes are not those that were written.
    """
    weights.check()
    for names, parameter in tied_parameters(module):
        tensor = find_tensor(weights, names, shape=parameter.shape)
        filled = nn.Parameter(tensor.to(dtype, copy=True), requires_grad=parameter.requires_grad)
        for name in names:
            set_tensor(module, name, filled)
    fill_buffers(module, weights, dtype=dtype)


def fill_buffers(module: nn.Module, weights: Weights, *, dtype: torch.dtype) -> None:
    """Give a module the buffers of a file; arguments and error as of `fill_module`."""
    for name, buffer in stored_buffers(module):
        if name not in weights and not buffer.is_meta:
            continue
        tensor = find_tensor(weights, [name], shape=buffer.shape)
        kind = dtype if buffer.is_floating_point() else buffer.dtype
        set_tensor(module, name, tensor.to(kind, copy=True))


def _words(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "of a single number"
