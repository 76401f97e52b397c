"""Checkpoints on their way to disk while training goes on, and which of them are kept.

Training waits for a copy in host memory. A thread of each rank writes that copy, and the threads
agree among themselves when all of it is on disk: only then is the checkpoint COMPLETE.
"""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import distributed

from fla.checkpoint import TrainState, complete_checkpoint
from fla.checkpoint_files import Digest, digest_file
from fla.engine import CheckpointFile, Engine
from fla.errors import FlaError, disk_errors
from fla.run_folder import RunFolder, clear_checkpoint, prune_checkpoints
from fla.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints are kept."""

    newest: int
    """The newest ones."""
    best: int = 1
    """Those with the best evaluations beside them."""
    every_steps: int = 0
    """Multiples of so many steps beside them; 0: none."""


class Saver:
    """Saves checkpoints of a run; every rank makes one, and calls it alike.

    Args:
        engine: Whose state is saved.
        run_folder: Takes the checkpoints.
        runtime: Of this rank.
        retention: Which of them are kept.
    """

    def __init__(
        self, engine: Engine, run_folder: RunFolder, *, runtime: Runtime, retention: Retention
    ) -> None:
        self._engine, self._run_folder = engine, run_folder
        self._runtime, self._retention = runtime, retention
        # Beside training's own, whatever that computes on.
        self._group: Any = None
        if runtime.world_size > 1:
            # Its patience is for another rank that has not written yet what this one has.
            self._group = distributed.new_group(backend="gloo", timeout=runtime.patience)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._start_s = time.monotonic()

    @property
    def age_s(self) -> float:
        """Time since the last checkpoint was begun."""
        return time.monotonic() - self._start_s

    def begin(self, state: TrainState) -> None:
        """Copy what the engine holds now; a thread writes it, once the former one is written.

        Raises:
            FlaError: The former checkpoint, or the beginning of this one, could not be written.
        """
        self.finish()
        folder = self._run_folder.checkpoint(state.step)
        if self._runtime.is_main:
            clear_checkpoint(self._run_folder, state.step)
        distributed.barrier()
        files = self._engine.copy_files(folder)
        # Not kept from ending by it: what is not complete by then never will be.
        self._thread = threading.Thread(
            target=self._write, args=(state, files), name="checkpoint", daemon=True
        )
        self._thread.start()
        self._start_s = time.monotonic()

    def check(self) -> None:
        """Raise the error that `finish` would raise, if writing has ended with one by now."""
        if self._thread is not None and not self._thread.is_alive():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint that was begun is complete on disk.

        Raises:
            FlaError: Some rank could not write its part; raised on all of them.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def prune(self, state: TrainState) -> None:
        """Delete the checkpoints that are not kept; rank 0 calls it."""
        prune_checkpoints(
            self._run_folder,
            keep_newest=self._retention.newest,
            keep_steps=[step for _, step in state.ranking],
            keep_every=self._retention.every_steps,
        )

    def _write(self, state: TrainState, files: Sequence[CheckpointFile]) -> None:
        try:
            digests = self._share(_write_files(files))
            if self._runtime.is_main:
                complete_checkpoint(
                    self._run_folder, state, digests, world_size=self._runtime.world_size
                )
                self.prune(state)
            # Whoever finishes it finds it complete.
            if self._group is not None:
                distributed.barrier(group=self._group)
        except Exception as error:
            # Whatever it is, it belongs to the thread that trains.
            self._error = error

    def _share(self, own: dict[str, Digest] | FlaError) -> dict[str, Digest]:
        """What all ranks have written; the first error of any of them."""
        shares: list[Any] = [own]
        if self._group is not None:
            shares = [None] * self._runtime.world_size
            distributed.all_gather_object(shares, own, group=self._group)
        for share in shares:
            if isinstance(share, FlaError):
                raise share
        return {name: digest for share in shares for name, digest in share.items()}


def _write_files(files: Sequence[CheckpointFile]) -> dict[str, Digest] | FlaError:
    digests = {}
    try:
        for path, write in files:
            with disk_errors(path):
                write(path)
                # A checkpoint that a loss of power has emptied would be complete all the same.
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
                digests[path.name] = digest_file(path)
    except FlaError as error:
        return error
    return digests
