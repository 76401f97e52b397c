"""What is counted between two rows of training metrics, and the row that comes of it."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import distributed

from fla.batch import Step
from fla.checkpoint import WindowSums
from fla.data.skipped import SkippedClips
from fla.engine import Engine
from fla.finite import MicroBatchLoss
from fla.runtime import Runtime


class Waiting(Protocol):
    """A loader that knows how long it was waited for."""

    waited_s: float


class Sums(NamedTuple):
    """Of a window, over all ranks."""

    nats: float
    num_tokens: float
    """Target tokens whose clips decoded."""
    num_new_skipped: float
    """Clips that some rank left out and the others do not know of."""


class Window:
    """Sums between two rows of training metrics."""

    def __init__(self, runtime: Runtime, saved: Sequence[WindowSums]) -> None:
        self._runtime = runtime
        self._waited_s = 0.0
        self._reset()
        own = _own_share(saved, runtime)
        self._nats += own.nats
        self._num_tokens, self._num_skipped_tokens = own.num_tokens, own.num_skipped_tokens

    def share(self) -> tuple[WindowSums, ...]:
        """What every rank has counted, on every rank."""
        own = WindowSums(float(self._nats), self._num_tokens, self._num_skipped_tokens)
        if self._runtime.world_size == 1:
            return (own,)
        shares: list[Any] = [None] * self._runtime.world_size
        distributed.all_gather_object(shares, own)
        return tuple(shares)

    def _reset(self) -> None:
        self.losses: list[MicroBatchLoss] = []
        self._nats = torch.zeros((), device=self._runtime.device)
        self._num_tokens = self._num_skipped_tokens = 0
        self._start_s = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is no training: evaluation and saving."""
        pause_s = time.monotonic()
        yield
        self._start_s += time.monotonic() - pause_s

    def add(self, step: Step[Any], losses: Sequence[MicroBatchLoss]) -> None:
        self.losses += losses
        # First those of a step, as a run would that begins with it.
        self._nats += sum(loss.nats for loss in losses)
        self._num_tokens += step.num_tokens
        self._num_skipped_tokens += step.num_skipped_tokens

    def sum_over_ranks(self, skipped: SkippedClips | None) -> Sums:
        """Add up what the ranks counted: one collective a window."""
        num_new = 0 if skipped is None else len(skipped.new)
        counts = torch.tensor([self._num_skipped_tokens, num_new], device=self._nats.device)
        sums = torch.cat([self._nats.double()[None], counts.double()])
        distributed.all_reduce(sums)
        nats, num_skipped_tokens, num_new_skipped = sums.tolist()
        return Sums(nats, self._num_tokens - num_skipped_tokens, num_new_skipped)

    def close(self, sums: Sums, engine: Engine, loader: Waiting) -> dict[str, float]:
        """Start anew, and give the row of metrics."""
        seconds = max(time.monotonic() - self._start_s, 1e-9)
        metrics = {
            "train/tokens_per_s": sums.num_tokens / seconds,
            "train/data_wait_fraction": (loader.waited_s - self._waited_s) / seconds,
        }
        # No token at all: not a clip of the window decoded, or every step was left out.
        if sums.num_tokens:
            metrics["train/loss_nats_per_token"] = sums.nats / sums.num_tokens
        metrics |= {f"train/learning_rate/{n}": lr for n, lr in engine.learning_rates().items()}
        grad_norm = engine.grad_norm()
        # It is no number where the last step was left out.
        if grad_norm is not None and math.isfinite(grad_norm):
            metrics["train/grad_norm"] = grad_norm
        self._waited_s = loader.waited_s
        self._reset()
        return metrics


def _own_share(saved: Sequence[WindowSums], runtime: Runtime) -> WindowSums:
    """What this rank goes on counting from, whatever the number of ranks was."""
    if not saved:
        return WindowSums()
    if len(saved) == runtime.world_size:
        return saved[runtime.rank]
    num_tokens = saved[0].num_tokens
    if not runtime.is_main:
        return WindowSums(num_tokens=num_tokens)
    return WindowSums(
        nats=sum(it.nats for it in saved),
        num_tokens=num_tokens,
        num_skipped_tokens=sum(it.num_skipped_tokens for it in saved),
    )
