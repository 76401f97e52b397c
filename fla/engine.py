"""DeepSpeed behind a few verbs: forward, backward, step, whole_model, save, load."""

import copy
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fla.errors import CheckpointError
from fla.runtime import Runtime

if not torch.cuda.is_available():
    # What DeepSpeed would find out by itself, with a warning from every process.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
import deepspeed
import deepspeed.ops
from deepspeed.utils import logger as deepspeed_logger

# DeepSpeed's calls, not ours: one line a collective.
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")
# Its only user is inference_all_reduce; left on, a CPU run wants a C++ compiler and 75 s.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed_logger.setLevel(logging.WARNING)


class Engine:
    """A model that DeepSpeed shards and updates.

    Build it with `open_engine`. Gradients are summed, not averaged, over micro-batches and ranks:
    the caller divides by what it counted.
    """

    def __init__(self, engine: Any, *, replica: nn.Module | None, runtime: Runtime) -> None:
        self._engine = engine
        self._replica = replica
        self._runtime = runtime
        self.autocast_dtype: torch.dtype | None = (
            engine.torch_autocast_dtype() if engine.torch_autocast_enabled() else None
        )

    @property
    def module(self) -> nn.Module:
        """The sharded module; under ZeRO-3 its parameters are empty between uses."""
        module: nn.Module = self._engine.module
        return module

    def __call__(self, batch: object) -> Any:
        """Forward pass in training mode, on the batch as it is."""
        if not self.module.training:
            self.module.train()
        return self._engine(batch)

    def backward(self, nats: Tensor, *, num_tokens: int, is_last: bool) -> None:
        """Add a micro-batch's gradient.

        Args:
            nats: Loss summed over this micro-batch's target tokens.
            num_tokens: Target tokens of the whole step, over all ranks and micro-batches.
            is_last: Whether `step` follows.
        """
        self._engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages over ranks; undo that, so that N ranks give the gradient of one.
        scaled = nats * (self._runtime.world_size / num_tokens)
        self._engine.backward(scaled, scale_wrt_gas=False)

    def step(self) -> None:
        """Reduce, clip, update the weights, advance the schedule."""
        self._engine.step()

    def grad_norm(self) -> float | None:
        """Norm of the last step's gradient before clipping, where the ZeRO stage computes it."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def learning_rates(self) -> dict[str, float]:
        """Learning rate that the next step will use, by name of the parameter group."""
        return {group["name"]: group["lr"] for group in self._engine.optimizer.param_groups}

    def average_batch_norm(self) -> None:
        """Make BatchNorm's running statistics the mean over ranks; every rank calls it.

        DeepSpeed never exchanges buffers, and would save those of rank 0.
        """
        running = [
            buffer
            for name, buffer in self.module.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        ]
        if not running or self._runtime.world_size == 1:
            return
        flat = torch.cat([buffer.flatten() for buffer in running])
        distributed.all_reduce(flat)
        flat /= self._runtime.world_size
        for buffer, mean in zip(
            running, torch.split(flat, [b.numel() for b in running]), strict=True
        ):
            buffer.copy_(mean.view_as(buffer))

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a forward pass outside the engine, equal to the one inside."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(torch.device(self._runtime.device).type, self.autocast_dtype)

    @contextmanager
    def whole_model(self) -> Iterator[Any]:
        """The model with all its weights on every rank, in eval mode; every rank enters together.

        Under ZeRO-3 the weights are gathered once into a plain replica, so that each rank can
        decode its own share without lock-step.
        """
        self.average_batch_norm()
        model = self.module if self._replica is None else self._gather_replica(self._replica)
        model.eval()
        with torch.no_grad(), self.autocast():
            yield model
        if self._replica is not None:
            self._replica.to("cpu")

    def _gather_replica(self, replica: nn.Module) -> nn.Module:
        replica.to(self._runtime.device)
        targets = dict(replica.named_parameters())
        for name, parameter in self.module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]), torch.no_grad():
                targets[name].copy_(parameter)
        for name, buffer in self.module.named_buffers():
            replica.get_buffer(name).copy_(buffer)
        return replica

    def save(self, folder: Path) -> None:
        """Write weights, optimizer and schedule below `folder`; every rank calls it."""
        self.average_batch_norm()
        self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; every rank calls it.

        Raises:
            CheckpointError: DeepSpeed found nothing to load.
        """
        path, _ = self._engine.load_checkpoint(str(folder.parent), tag=folder.name)
        if path is None:
            raise CheckpointError(
                f"{folder}: DeepSpeed's files are missing. Resume from another checkpoint, "
                "or start again with resume=none."
            )


def open_engine(
    module: nn.Module,
    *,
    optimizer: Optimizer,
    schedule: Callable[[Optimizer], LRScheduler],
    config: dict[str, Any],
    runtime: Runtime,
) -> Engine:
    """Hand a model, its optimizer and its schedule to DeepSpeed.

    Args:
        module: All ranks must hold the same weights, or at least rank 0 the right ones.
        optimizer: Over the module's parameters.
        schedule: Makes the learning-rate schedule of an optimizer.
        config: DeepSpeed's configuration, complete, with one micro-batch a step in it: the number
            of micro-batches is given step by step.
        runtime: Of this rank.
    """
    # DeepSpeed broadcasts weights as bytes, which it cannot with channels-last ones; channels-last
    # frames alone choose the fast convolutions.
    module.to(runtime.device).to(memory_format=torch.contiguous_format)
    shards_weights = config.get("zero_optimization", {}).get("stage", 0) == 3
    dtype = torch.bfloat16 if config.get("bf16", {}).get("enabled", False) else torch.float32
    # Before initialize, which leaves nothing to copy.
    replica = copy.deepcopy(module).to("cpu", dtype) if shards_weights else None
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, lr_scheduler=schedule, config=config
    )
    return Engine(engine, replica=replica, runtime=runtime)
