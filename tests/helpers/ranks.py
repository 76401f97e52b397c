"""Run a function on N real gloo ranks."""

import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed

from fla.runtime import Runtime

# Forked from a process that has imported what takes seconds, and has started nothing.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch.distributed", "deepspeed", "transformers.models.mbart.modeling_mbart"]
)


def one_of(world_size: int, rank: int = 0) -> Runtime:
    """What a rank on a CPU knows of itself, without the others."""
    return Runtime(
        device="cpu",
        rank=rank,
        local_rank=rank,
        world_size=world_size,
        dali_device_id=None,
        decode_device="cpu",
    )


def run_ranks(
    function: Callable[..., Any], *args: Any, world_size: int = 2, timeout_s: float = 120.0
) -> list[Any]:
    """Call `function(*args)` on every rank of a gloo group, each rank a process of its own.

    Args:
        function: At the top level of a module, so that the processes can import it.
        args: Picklable.
        world_size: Ranks.
        timeout_s: For all of it; a start takes about 5 s.

    Returns:
        What each rank returned, by rank.

    Raises:
        Exception: The first failure of a rank, with its rank and traceback as notes.
        TimeoutError: Some rank did not answer in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A file store needs no free port, so parallel test runs cannot collide.
        store = Path(folder) / "store"
        with _started_ranks(function, args, store, world_size) as answers:
            return _gather(answers, deadline=time.monotonic() + timeout_s)


@contextmanager
def _started_ranks(
    function: Callable[..., Any], args: tuple[Any, ...], store: Path, world_size: int
) -> Iterator[dict[Connection, int]]:
    answers: dict[Connection, int] = {}
    processes = []
    for rank in range(world_size):
        receiver, sender = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(
            target=_answer, args=(function, args, store, rank, world_size, sender), daemon=True
        )
        # The process that forks imports DeepSpeed, which reads them.
        with mock.patch.dict(os.environ, _environment(rank, world_size)):
            process.start()
        sender.close()
        answers[receiver] = rank
        processes.append(process)
    try:
        yield answers
    finally:
        for process in processes:
            process.kill()
            process.join()


def _environment(rank: int, world_size: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }


def _gather(answers: dict[Connection, int], *, deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    waiting = dict(answers)
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"ranks {sorted(waiting.values())} did not answer in time")
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = waiting.pop(receiver)
            try:
                has_failed, value = pickle.loads(receiver.recv_bytes())
            except EOFError:
                raise RuntimeError(f"rank {rank} died without an answer") from None
            if has_failed:
                raise value
            results[rank] = value
    return [results[rank] for rank in sorted(results)]


def _answer(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    store: Path,
    rank: int,
    world_size: int,
    sender: Connection,
) -> None:
    # What this was forked from has those of the first rank.
    os.environ.update(_environment(rank, world_size))
    try:
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo",
            store=distributed.FileStore(str(store), world_size),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=60),
        )
        result = function(*args)
        # A rank that leaves early would cut the others' last messages.
        distributed.barrier()
        # Plain pickle copies tensors; multiprocessing's own would share memory that ends with us.
        answer = pickle.dumps((False, result))
    except BaseException as error:
        error.add_note(f"on rank {rank}:\n{traceback.format_exc()}")
        sender.send_bytes(_pickle_failure(error, rank))
        # Until killed: closed connections would make the other ranks fail too, perhaps first.
        time.sleep(60)
        os._exit(1)
    sender.send_bytes(answer)
    sender.close()
    # Gloo's threads sometimes abort an ordinary exit.
    os._exit(0)


def _pickle_failure(error: BaseException, rank: int) -> bytes:
    try:
        answer = pickle.dumps((True, error))
        pickle.loads(answer)
    except Exception:
        return pickle.dumps((True, RuntimeError(f"rank {rank}: {traceback.format_exc()}")))
    return answer
