"""DeepSpeed behind a few verbs: forward, backward, step, weights, whole_model, save, load."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fla.averaging import MovingAverage, average_file
from fla.batch_norm import Statistics
from fla.deepspeed_setup import deepspeed
from fla.errors import CheckpointError, first_line, free_space
from fla.host_copies import copy_to_host
from fla.models.loading import tied_parameters
from fla.runtime import Runtime
from fla.shards import (
    engine_dtype,
    fill,
    gradient_norms,
    iterate_weights,
    parameter_norms,
    shards_weights,
    skeleton_of,
    whole_shape,
)
from fla.weights import Layout, layouts_of, open_tensors, write_tensors

BUFFERS = "buffers.safetensors"


class CheckpointFile(NamedTuple):
    """A file of a checkpoint that is still to be written."""

    path: Path
    write: Callable[[Path], None]
    """From a copy that nothing changes; raises a CheckpointError or a DiskError."""


class Engine:
    """A model that DeepSpeed shards and updates.

    Build it with `open_engine`. Gradients are summed, not averaged, over micro-batches and ranks:
    the caller divides by what it counted.
    """

    def __init__(
        self,
        engine: Any,
        *,
        skeleton: nn.Module | None,
        average: MovingAverage | None,
        runtime: Runtime,
    ) -> None:
        self._engine = engine
        self._skeleton = skeleton
        self._average = average
        self._runtime = runtime
        self._statistics = Statistics(engine.module, world_size=runtime.world_size)
        self._has_masters = bool(engine.bfloat16_enabled())
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

    def step(self) -> bool:
        """Reduce, clip, update the weights and their average, advance the schedule.

        Returns:
            Whether it was done, the same on every rank: DeepSpeed drops a gradient that is no
            number, and then nothing is advanced.
        """
        self._engine.step()
        if not self._engine.was_step_applied():
            return False
        if self._average is not None:
            self._average.update()
        return True

    def keep_statistics(self) -> None:
        """Remember BatchNorm's statistics as they are before a step, for `skip_step`."""
        self._statistics.keep()

    def skip_step(self) -> None:
        """After a step that was not done: advance the schedule, take back BatchNorm's statistics.

        The learning rate of every later step is that of a run in which this one was done.
        """
        self._engine.lr_scheduler.step()
        self._statistics.take_back()

    def grad_norm(self) -> float | None:
        """Norm of the last step's gradient before clipping, where the ZeRO stage computes it."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def norms(self, parts: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, float]:
        """Norms of parts of the model, between the last `backward` of a step and `step`.

        Every rank calls it; FLa-LLM's figure 2 shows them for the last layers.

        Args:
            parts: Parameters by name of the part.

        Returns:
            `grad_norm/PART`, before clipping, and `param_norm/PART`.
        """
        device = self._runtime.device
        gradients = gradient_norms(parts, device=device)
        weights = parameter_norms(parts, device=device)
        return {f"grad_norm/{name}": value for name, value in gradients.items()} | {
            f"param_norm/{name}": value for name, value in weights.items()
        }

    def learning_rates(self) -> dict[str, float]:
        """Learning rate that the next step will use, by name of the parameter group."""
        return {group["name"]: group["lr"] for group in self._engine.optimizer.param_groups}

    def average_batch_norm(self) -> None:
        """Make BatchNorm's running statistics the mean over ranks; every rank calls it."""
        self._statistics.average()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a forward pass outside the engine, equal to the one inside."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(torch.device(self._runtime.device).type, self.autocast_dtype)

    @contextmanager
    def whole_model(self) -> Iterator[Any]:
        """The model with all its weights on every rank, in eval mode; every rank enters together.

        Under ZeRO-3 the weights are gathered once into a plain replica, so that each rank can
        decode its own share without lock-step. A moving average takes the weights' place.
        """
        self.average_batch_norm()
        model = self.module if self._skeleton is None else self._replicate(self._skeleton)
        model.eval()
        with torch.no_grad(), self.autocast():
            yield model

    def weights(self, *, masters: bool) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, whole, one at a time; all ranks iterate together.

        Args:
            masters: The optimizer's float32 values instead of those that the model computes with.

        Returns:
            The parameter's first name and a tensor that is valid until the next one is asked for.
        """
        if self._average is None:
            return iterate_weights(self.module, masters=masters and self._has_masters)
        return ((name, self._average.whole(name)) for name in self._average.names)

    def layouts(self, dtype: torch.dtype) -> dict[str, Layout]:
        """What `weights` will give, in a type, by name."""
        return {
            names[0]: Layout(tuple(whole_shape(parameter)), dtype)
            for names, parameter in tied_parameters(self.module)
        }

    def buffers(self) -> dict[str, Tensor]:
        """The model's buffers, equal on all ranks; every rank calls it.

        Statistics are means over ranks; those of this rank stay as they are.
        """
        buffers = {name: buffer.detach() for name, buffer in self.module.named_buffers()}
        return buffers | self._statistics.means()

    def _replicate(self, skeleton: nn.Module) -> nn.Module:
        types = {name: parameter.dtype for name, parameter in skeleton.named_parameters()}
        # The next parameter takes the place of the one that is lent: copy each.
        tensors = {
            name: tensor.to(types[name], copy=True) for name, tensor in self.weights(masters=False)
        }
        return fill(skeleton, tensors | self.buffers())

    def copy_files(self, folder: Path) -> list[CheckpointFile]:
        """Copy weights, buffers, average, optimizer and schedule to host memory, to be written.

        Every rank calls it, and writes what it gets: training may go on before.

        Args:
            folder: Of the checkpoint; it exists.

        Raises:
            CheckpointError: The disk is full, or not to be written to.
        """
        files = self._copy_deepspeed_files(folder)
        buffers = self.buffers()
        if self._runtime.is_main:
            files.append(_tensor_file(folder / BUFFERS, buffers))
        # Means are rounded: with them training would go on a little differently.
        own = self._statistics.own()
        if own and self._runtime.world_size > 1:
            files.append(_tensor_file(self._statistics_file(folder), own))
        if self._average is not None:
            path = folder / average_file(self._runtime.rank)
            files.append(_tensor_file(path, self._average.shards()))
        return files

    def _copy_deepspeed_files(self, folder: Path) -> list[CheckpointFile]:
        taken: list[CheckpointFile] = []

        def take(state_dict: Any, path: str) -> None:
            write = partial(_write_state, copy_to_host(state_dict))
            taken.append(CheckpointFile(Path(path), write))

        # In the place of the function that writes to disk.
        self._engine.checkpoint_engine.save = take
        try:
            self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
        except (OSError, RuntimeError) as error:
            raise _not_written(folder, error) from error
        if self._runtime.is_main:
            # Its scripts for reading a checkpoint are there already.
            taken += [CheckpointFile(path, lambda _: None) for path in folder.glob("*.py")]
        return taken

    def _statistics_file(self, folder: Path) -> Path:
        return folder / f"statistics_rank_{self._runtime.rank:05d}.safetensors"

    def check_convertible(self, folder: Path) -> None:
        """Refuse another number of ranks where the optimizer's state cannot follow.

        Raises:
            CheckpointError: DeepSpeed converts Adam's state alone.
        """
        if not isinstance(self._engine.basic_optimizer, AdamW):
            raise CheckpointError(
                f"{folder} was saved by another number of ranks, and only AdamW's state can be "
                f"converted, not that of {type(self._engine.basic_optimizer).__name__}. Start as "
                "many ranks as wrote it, or start again with resume=none."
            )

    def load(self, folder: Path, *, universal: Path | None = None) -> None:
        """Restore what `save` wrote; every rank calls it.

        Args:
            folder: Of the checkpoint.
            universal: The same, converted by `convert_to_universal` for another number of ranks;
                None: as many ranks wrote it as read it.

        Raises:
            CheckpointError: DeepSpeed found nothing to load.
        """
        source = universal or folder
        # DeepSpeed reads this switch at every load; a run may load both kinds.
        self._engine._config.load_universal_checkpoint = universal is not None
        optimizer = self._engine.optimizer
        settings = [_settings(group) for group in optimizer.param_groups]
        path, _ = self._engine.load_checkpoint(str(source.parent), tag=source.name)
        if path is None:
            raise CheckpointError(
                f"{folder}: DeepSpeed's files are missing. Resume from another checkpoint, "
                "or start again with resume=none."
            )
        # From a universal checkpoint ZeRO-3 gives every group the settings of the first one, and
        # all parameters one counter of steps, which each of them would advance.
        rates = self._engine.lr_scheduler.get_last_lr()
        for group, own, rate in zip(optimizer.param_groups, settings, rates, strict=True):
            group.update(own, lr=rate)
        # It also leaves them on the CPU, where the fused kernel of a GPU cannot read them.
        for parameter, state in self._engine.basic_optimizer.state.items():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].to(parameter.device, copy=True)
        # Universal checkpoints have none, and DeepSpeed leaves the model's own without a word.
        saved = [open_tensors(folder / BUFFERS)]
        if universal is None and self._statistics_file(folder).is_file():
            saved.insert(0, open_tensors(self._statistics_file(folder)))
        for name, buffer in self.module.named_buffers():
            buffer.copy_(next(file for file in saved if name in file).tensor(name))
        if self._average is not None:
            self._average.load(folder, rank=self._runtime.rank, world_size=self._runtime.world_size)


def open_engine(
    module: nn.Module,
    *,
    optimizer: Optimizer,
    schedule: Callable[[Optimizer], LRScheduler],
    config: dict[str, Any],
    runtime: Runtime,
    ema_decay: float = 0.0,
) -> Engine:
    """Hand a model, its optimizer and its schedule to DeepSpeed.

    Args:
        module: All ranks hold the same weights, or at least rank 0 the right ones; or sharded ones
            of `place_weights`.
        optimizer: Over the module's parameters.
        schedule: Makes the learning-rate schedule of an optimizer.
        config: DeepSpeed's configuration, complete, with one micro-batch a step in it: the number
            of micro-batches is given step by step.
        runtime: Of this rank.
        ema_decay: Decay of the moving average that takes the weights' place in evaluation and
            export; 0: none.
    """
    # DeepSpeed broadcasts weights as bytes, which it cannot with channels-last ones; channels-last
    # frames alone choose the fast convolutions.
    module.to(runtime.device).to(memory_format=torch.contiguous_format)
    # All of it: a part that was loaded for evaluation would go without dropout.
    module.train()
    dtype = engine_dtype(config)
    # Before initialize, whose additions to the model could not be copied.
    skeleton = skeleton_of(module, dtype) if shards_weights(config) or ema_decay else None
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, lr_scheduler=schedule, config=config
    )
    # DeepSpeed makes groups of its own, whose patience is half an hour.
    for group in {engine.data_parallel_group, engine.seq_data_parallel_group}:
        distributed.set_timeout(runtime.patience, group)
    average = MovingAverage(engine.module, decay=ema_decay) if ema_decay else None
    return Engine(engine, skeleton=skeleton, average=average, runtime=runtime)


def convert_to_universal(folder: Path, target: Path) -> None:
    """Bring a checkpoint into the form that any number of ranks can load; one rank calls it.

    Args:
        folder: Of the checkpoint, as `Engine.save` wrote it.
        target: Folder to write to; `latest_universal` is written beside it.

    Raises:
        CheckpointError: DeepSpeed's converter does not get through.
    """
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(folder), "--output_folder", str(target)]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1"]
    # What Megatron writes about its tensor parallelism; without it ZeRO 1 and 2 are refused.
    command += ["--inject_missing_state"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CheckpointError(
            f"{folder} could not be converted for another number of ranks "
            f"({done.stderr.strip().splitlines()[-1][:200]}). Start as many ranks as wrote it."
        )


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Weight decay, name and the like of a parameter group."""
    return {key: value for key, value in group.items() if key not in ("params", "lr")}


def _write_state(state: Any, path: Path) -> None:
    try:
        torch.save(state, path)
    except (OSError, RuntimeError) as error:
        raise _not_written(path.parent, error) from error


def _tensor_file(path: Path, tensors: Mapping[str, Tensor]) -> CheckpointFile:
    copies: dict[str, Tensor] = copy_to_host(dict(tensors))
    return CheckpointFile(
        path, lambda path: write_tensors(path, layouts_of(copies), copies.items())
    )


def _not_written(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: the checkpoint could not be written ({first_line(error)}; "
        f"{free_space(folder)}). Free some space, then resume: the former checkpoints are whole."
    )
