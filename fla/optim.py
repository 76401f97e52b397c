"""Optimizers and their schedules: which parameters decay, how the learning rate falls."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def decay_groups(
    modules: Iterable[nn.Module], *, learning_rate: float, weight_decay: float, name: str
) -> list[dict[str, Any]]:
    """Two parameter groups: matrices and kernels decay, biases and norms (one dimension) do not.

    Args:
        modules: Parts that share the learning rate; shared parameters count once.
        learning_rate: Highest learning rate of the groups.
        weight_decay: Decay of the first group.
        name: Goes into the metric name of the learning rate.
    """
    parameters = dict.fromkeys(parameter for module in modules for parameter in module.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {
            "params": [p for p in trained if _num_dimensions(p) > 1],
            "lr": learning_rate,
            "weight_decay": weight_decay,
            "name": name,
        },
        {
            "params": [p for p in trained if _num_dimensions(p) <= 1],
            "lr": learning_rate,
            "weight_decay": 0.0,
            "name": name,
        },
    ]
    return [group for group in groups if group["params"]]


def _num_dimensions(parameter: nn.Parameter) -> int:
    # A shard of ZeRO-3 is flat; DeepSpeed notes the shape of the whole.
    return len(getattr(parameter, "ds_shape", parameter.shape))


def build_sgd(groups: list[dict[str, Any]], *, momentum: float) -> Optimizer:
    """SGD with Nesterov momentum, the optimizer of stage 1 (FLa-LLM, section 4.1)."""
    return SGD(groups, momentum=momentum, nesterov=momentum > 0)


def build_adamw(groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> Optimizer:
    """Adam with decoupled weight decay; torch's own, so that no compiler is needed."""
    # Fused: one pass over the memory, where the default takes ten.
    return AdamW(groups, betas=betas, fused=True)


def cosine_schedule(*, num_steps: int, warmup_fraction: float) -> Callable[[Optimizer], LambdaLR]:
    """Learning rate from 0 up on a line, then down to 0 on a half cosine.

    Args:
        num_steps: Optimizer steps of the whole run.
        warmup_fraction: Part of them on which the rate rises, in [0, 1).
    """
    num_warmup = math.floor(num_steps * warmup_fraction)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    return lambda optimizer: LambdaLR(optimizer, factor)
