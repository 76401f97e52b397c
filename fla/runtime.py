"""What machine this is, asked once; the answer is a frozen value that is handed on."""

import ctypes
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import psutil
import torch
from torch import distributed

from fla.errors import ConfigError, FlaError
from fla.orphans import end_with_launcher

Answer = TypeVar("Answer")

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MOST_FREE_BYTES = 2**31 - 1

ROOMY_BYTES = 12 * 2**30
"""Memory of a machine whose ranks may keep more of it than they use."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device, place among the ranks, and where video is decoded."""

    device: str
    """Torch device of this rank: "cpu" or "cuda:N"."""
    rank: int
    local_rank: int
    world_size: int
    dali_device_id: int | None
    """GPU of DALI's graph; None runs the same graph on the CPU."""
    decode_device: Literal["mixed", "cpu"]
    """DALI's decoder: "mixed" is NVDEC."""
    patience: timedelta = timedelta(minutes=10)
    """Longest wait of a rank for another one."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what all ranks share."""
        return self.rank == 0


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where one process computes and decodes."""

    name: str
    """Torch device: "cpu" or "cuda:N"."""
    dali_device_id: int | None
    decode_device: Literal["mixed", "cpu"]


def find_device(local_rank: int = 0) -> Device:
    """The GPU of this rank if the machine has one, else the CPU."""
    # DS_ACCELERATOR is DeepSpeed's own switch; the two must not disagree about the device.
    if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu":
        return Device(name=f"cuda:{local_rank}", dali_device_id=local_rank, decode_device="mixed")
    return Device(name="cpu", dali_device_id=None, decode_device="cpu")


def take_device(device: str) -> None:
    """Make a rank's GPU that of the calling thread, too.

    A new thread is on the first GPU: each rank of a machine would open a context there, of half a
    GiB.
    """
    if device != "cpu":
        torch.cuda.set_device(device)


def computes_bfloat16(device: str) -> bool:
    """Whether a device computes in bfloat16 by itself, and not many times slower than in float32.

    Most CPUs of laptops, and AMD's before Zen 4, do not: they lack AVX-512. Nor do GPUs before
    Ampere.
    """
    if torch.device(device).type != "cpu":
        # NVIDIA's from Ampere on.
        return torch.cuda.get_device_properties(device).major >= 8
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        # PyTorch without oneDNN, as for macOS.
        return False


def start_runtime(*, patience_minutes: float = 10.0) -> Runtime:
    """Read ranks from the environment, join the process group, set up logging.

    Works the same under `deepspeed`, `torchrun`, `srun` and plain `python` (one rank).

    Args:
        patience_minutes: Longest wait of a rank for another one.
    """
    end_with_launcher()
    # DeepSpeed asks for this one even of a single process.
    os.environ.setdefault("LOCAL_RANK", "0")
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ["LOCAL_RANK"])
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    device = find_device(local_rank)
    has_gpu = device.name != "cpu"
    if has_gpu:
        _check_gpu(local_rank)
        torch.cuda.set_device(local_rank)
    else:
        _reuse_freed_memory()
    join_process_group(
        "nccl" if has_gpu else "gloo",
        rank=rank,
        world_size=world_size,
        patience_minutes=patience_minutes,
    )
    _start_logging(rank)
    return Runtime(
        device=device.name,
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        dali_device_id=device.dali_device_id,
        decode_device=device.decode_device,
        patience=timedelta(minutes=patience_minutes),
    )


def join_process_group(
    backend: str, *, rank: int, world_size: int, patience_minutes: float = 10.0
) -> None:
    """Join the group that the launcher described, or make one of a single rank without a port.

    Args:
        backend: gloo or nccl.
        rank: This one.
        world_size: Ranks.
        patience_minutes: Longest wait of a rank for another one.

    Raises:
        ConfigError: The port that the ranks are to meet at is taken.
    """
    if distributed.is_initialized():
        return
    # Before deepspeed.initialize: it reuses this group, and never tries MPI.
    if world_size == 1 and "MASTER_ADDR" not in os.environ:
        store = distributed.HashStore()  # type: ignore[attr-defined]
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        return
    try:
        distributed.init_process_group(
            backend,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(minutes=patience_minutes),
        )
    except distributed.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ConfigError(
            f"Port {os.environ['MASTER_PORT']} of this machine is taken, perhaps by another run. "
            "Name a free one: deepspeed --master_port PORT launchers/..."
        ) from None


def ask_main(runtime: Runtime, question: Callable[[], Answer]) -> Answer:
    """What rank 0 finds out, on every rank: one look at a shared disk, not one a rank.

    Args:
        runtime: Of this rank; every rank calls it.
        question: Asked on rank 0 alone; the answer is picklable.

    Raises:
        FlaError: The question's, on every rank.
    """
    found: list[Any] = [None]
    if runtime.is_main:
        try:
            found = [question()]
        except FlaError as error:
            found = [error]
    if runtime.world_size > 1:
        distributed.broadcast_object_list(found)
    if isinstance(found[0], FlaError):
        raise found[0]
    answer: Answer = found[0]
    return answer


def stop_runtime() -> None:
    """Leave the process group together, so that no rank tears down a connection in use."""
    distributed.barrier()
    distributed.destroy_process_group()


def _check_gpu(local_rank: int) -> None:
    num_gpus = torch.cuda.device_count()
    if local_rank >= num_gpus:
        shown = "1 GPU" if num_gpus == 1 else f"{num_gpus} GPUs"
        raise ConfigError(
            f"This machine shows {shown}, and was given at least {local_rank + 1} ranks. Start one "
            f"for each: deepspeed --num_gpus {num_gpus} launchers/..."
        )


def _reuse_freed_memory() -> None:
    """Let malloc keep up to 2 GiB of what is freed, where the machine has memory for that.

    It gives every large block back to the kernel, and ZeRO takes several as large as all gradients
    in each step: their pages, touched for the first time, were half of what ZeRO's step costs more
    than PyTorch's (14.7 million parameters, one rank, in a virtual machine). What lies between kept
    blocks takes memory: 3.0 instead of 2.4 GiB in the demo's stage 1.
    """
    if psutil.virtual_memory().total < ROOMY_BYTES:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Other C libraries have no such switches.
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _MOST_FREE_BYTES)


def _start_logging(rank: int) -> None:
    # The other ranks speak up only when something is wrong; the run folder has a log of each.
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s [rank {rank}] %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
