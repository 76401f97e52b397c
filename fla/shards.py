"""Parameters under DeepSpeed, whole or in shards: how they are born, gathered and measured.

Under ZeRO-3 every rank holds an equal slice of each flat parameter, the last one padded. Nothing
here ever holds a second copy of a model: one parameter at a time is whole.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from fla.deepspeed_setup import deepspeed
from fla.models.loading import set_tensor, tied_parameters
from fla.runtime import Runtime

Source = Callable[[Sequence[str], Sequence[int]], Tensor]
"""A parameter's tensor by its names, several where it is tied, and its shape; only to be read."""


def place_weights(
    module: nn.Module, source: Source, *, config: Mapping[str, Any], runtime: Runtime
) -> None:
    """Give a model its weights, in the engine's type; under ZeRO-3 in shards from the start.

    Every rank calls it, with rank 0 alone reading the values under ZeRO-3: the others get them from
    it. Beside its own share a rank holds one parameter at a time.

    Args:
        module: Parameters on the meta device get theirs from `source`, others keep what they have,
            and so do all buffers.
        source: Of the parameters on the meta device.
        config: DeepSpeed's configuration.
        runtime: Of this rank.

    Raises:
        CheckpointError: As `source` does.
    """
    dtype = engine_dtype(config)
    shards = shards_weights(config)
    if shards:
        # Else DeepSpeed takes itself for one rank until initialize.
        deepspeed.init_distributed()
    for names, parameter in tied_parameters(module):
        data = parameter.data
        if parameter.is_meta:
            data = (
                source(names, parameter.shape)
                if runtime.is_main or not shards
                else torch.empty(parameter.shape, dtype=dtype)
            )
        is_view = parameter.is_meta and not shards
        placed = nn.Parameter(
            data.to(runtime.device, dtype, copy=is_view), requires_grad=parameter.requires_grad
        )
        if shards:
            # The public way to shard what is there; it sends rank 0's values to the others.
            deepspeed.zero.Init(
                module=nn.ParameterList([placed]), config_dict_or_path=dict(config), dtype=dtype
            )
        for name in names:
            set_tensor(module, name, placed)
    for buffer in module.buffers():
        # DeepSpeed moves no buffer of a model whose parameters are sharded already.
        buffer.data = buffer.data.to(runtime.device)


def engine_dtype(config: Mapping[str, Any]) -> torch.dtype:
    """The type that the engine keeps parameters in."""
    return torch.bfloat16 if config.get("bf16", {}).get("enabled", False) else torch.float32


def shards_weights(config: Mapping[str, Any]) -> bool:
    """Whether parameters are sharded: ZeRO-3."""
    return bool(config.get("zero_optimization", {}).get("stage", 0) == 3)


def skeleton_of(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a model without values, its parameters of a type, for `fill`; ties stay."""
    memo: dict[int, Any] = {}
    for _, parameter in tied_parameters(module):
        meta = torch.empty(whole_shape(parameter), dtype=dtype, device="meta")
        memo[id(parameter)] = nn.Parameter(meta, requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo)


def fill(skeleton: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a skeleton with these parameters and buffers, each by one of its names."""
    memo: dict[int, Any] = {}
    for names, parameter in tied_parameters(skeleton):
        memo[id(parameter)] = nn.Parameter(tensors[names[0]], requires_grad=False)
    for name, buffer in skeleton.named_buffers():
        memo[id(buffer)] = tensors[name]
    return copy.deepcopy(skeleton, memo)


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Shape of a parameter, sharded or not."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def iterate_weights(module: nn.Module, *, masters: bool) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, whole, one at a time; all ranks iterate together.

    Args:
        module: Of the engine.
        masters: The optimizer's float32 values instead of those that the model computes with.

    Returns:
        The first name and a tensor that is valid until the next one is asked for.
    """
    for names, parameter in tied_parameters(module):
        if masters and parameter.requires_grad:
            whole = deepspeed.utils.safe_get_full_fp32_param(parameter)
            yield names[0], parameter.detach() if whole is None else whole.detach()
            continue
        with deepspeed.zero.GatheredParameters([parameter]), torch.no_grad():
            yield names[0], parameter.detach()


def local_masters(parameter: nn.Parameter) -> Tensor:
    """This rank's slice of the optimizer's float32 values under ZeRO-3, else the parameter."""
    if not hasattr(parameter, "ds_id"):
        return parameter.detach()
    shard: Tensor = deepspeed.utils.safe_get_local_fp32_param(parameter)
    return shard.detach()


def join_shards(shard: Tensor, parameter: nn.Parameter) -> Tensor:
    """The whole of what `local_masters` gave a slice of; every rank calls it."""
    if not hasattr(parameter, "ds_id"):
        return shard
    whole = shard.new_empty(shard.numel() * distributed.get_world_size())
    distributed.all_gather_into_tensor(whole, shard)
    return whole[: whole_shape(parameter).numel()].view(whole_shape(parameter))


def gradient_norms(parts: Mapping[str, Iterable[nn.Parameter]], *, device: str) -> dict[str, float]:
    """Norm of the last backward pass' whole gradient of each part; every rank calls it."""
    return _norms(parts, _local_gradient, device)


def parameter_norms(
    parts: Mapping[str, Iterable[nn.Parameter]], *, device: str
) -> dict[str, float]:
    """Norm of the weights of each part; every rank calls it."""
    return _norms(parts, _local_weight, device)


def _norms(
    parts: Mapping[str, Iterable[nn.Parameter]],
    local: Callable[[Any], Tensor | None],
    device: str,
) -> dict[str, float]:
    # Where the ranks can add up: offloaded weights lie elsewhere.
    squares = torch.zeros(len(parts), dtype=torch.float64, device=device)
    for number, parameters in enumerate(parts.values()):
        for parameter in parameters:
            tensor = local(parameter)
            if tensor is not None:
                squares[number] += _square(tensor, parameter).to(device)
    distributed.all_reduce(squares)
    return dict(zip(parts, squares.sqrt().tolist(), strict=True))


def _square(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's share of a square of the norm: the ranks' shares add up to the whole."""
    if not _is_sharded(parameter):
        return tensor.double().square().sum() / distributed.get_world_size()
    shard = tensor.numel()
    # What pads the last shard was never written.
    real = whole_shape(parameter).numel() - shard * distributed.get_rank()
    return tensor[: max(0, min(shard, real))].double().square().sum()


def _local_gradient(parameter: nn.Parameter) -> Tensor | None:
    if _is_sharded(parameter):
        shard: Tensor | None = deepspeed.utils.safe_get_local_grad(parameter)
        return shard
    whole: Tensor | None = deepspeed.utils.safe_get_full_grad(parameter)
    return whole


def _local_weight(parameter: nn.Parameter) -> Tensor:
    shard: Tensor = getattr(parameter, "ds_tensor", parameter)
    return shard.detach()


def _is_sharded(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")
