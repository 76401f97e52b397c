"""Copies in host memory of what is to be written, so that training may change the original."""

import copy
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

_Copies = dict[tuple[object, ...], Tensor]


def copy_to_host(state: Any) -> Any:
    """The same state with every tensor copied to host memory, each once.

    Args:
        state: Nested dicts, lists and tuples of tensors and small objects.

    Returns:
        Of the same form. Tensors that were one are one; of a view only its part is copied.
    """
    return _copy(state, {})


def _copy(value: Any, copies: _Copies) -> Any:
    if isinstance(value, Tensor):
        return _copy_tensor(value, copies)
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _copy(item, copies)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_copy(item, copies) for item in value)
    return copy.deepcopy(value)


def _copy_tensor(tensor: Tensor, copies: _Copies) -> Tensor:
    place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    if place not in copies or not tensor.numel():
        copied = tensor.detach().to("cpu", copy=True)
        is_parameter = isinstance(tensor, nn.Parameter)
        copies[place] = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
    return copies[place]
