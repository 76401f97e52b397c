"""Prepare what comes next in a thread, while the consumer is busy with what is there.

Stage 2's frozen encoder turns frames into features in such a thread, one step ahead of the language
model: decoding, encoding and the model's step overlap, on a GPU on a CUDA stream of their own.
"""

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from fla.batch import Batch, Step
from fla.runtime import take_device

T = TypeVar("T", Batch, Step[Batch])


class TrainSteps(Protocol):
    """What gives the steps of an epoch."""

    num_steps: int

    def epoch(self, epoch: int, *, first_step: int = 0) -> Generator[Step[Batch], None, None]: ...


class EvalBatches(Protocol):
    """What gives the batches of a split."""

    num_batches: int

    def __iter__(self) -> Iterator[Batch]: ...


class Ahead:
    """A thread that prepares batches, one item ahead of the consumer.

    Args:
        prepare: Brings a batch to the device and into the model's form. It is called in the thread:
            without the caller's autocast and gradient modes.
        device: Torch device that it computes on.
    """

    def __init__(self, prepare: Callable[[Batch], Batch], *, device: str) -> None:
        self._prepare = prepare
        # One for all iterators, as there is one encoder.
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="ahead", initializer=take_device, initargs=(device,)
        )
        # None: the CPU has no streams, and torch takes None for "stay where you are".
        self._stream: Any = None if device == "cpu" else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End the thread; what is prepared and not taken is lost."""
        self._thread.shutdown(cancel_futures=True)

    def run(self, items: Iterator[T], prepare: Callable[[T], T]) -> Generator[T, None, None]:
        """Items, each prepared while the consumer has the one before.

        At most one is ready or in work beside the consumer's. An error of `items` or `prepare` is
        raised where the item would have come.

        Args:
            items: Asked in the thread alone.
            prepare: Applies `batch` to what an item holds.
        """
        coming = self._thread.submit(self._next, items, prepare)
        try:
            while (item := coming.result()) is not None:
                # Before the consumer has this one.
                coming = self._thread.submit(self._next, items, prepare)
                yield item
        finally:
            _end(coming)

    def batch(self, batch: Batch) -> Batch:
        """Prepare one batch, and wait until it can be used."""
        with torch.cuda.stream(self._stream):
            prepared = self._prepare(batch)
        if self._stream is not None:
            # This thread waits, nobody else: then the frames may go, and the features are there.
            self._stream.record_event().synchronize()
            # Memory of this stream that the consumer's stream reads: not to be used again before.
            for value in vars(prepared).values():
                if isinstance(value, Tensor) and value.is_cuda:
                    value.record_stream(torch.cuda.default_stream(value.device))
        return prepared

    def step(self, step: Step[Batch]) -> Step[Batch]:
        """Prepare all micro-batches of a step."""
        return replace(step, micro_batches=tuple(map(self.batch, step.micro_batches)))

    def _next(self, items: Iterator[T], prepare: Callable[[T], T]) -> T | None:
        item = next(items, None)
        return None if item is None else prepare(item)


def _end(coming: "Future[T | None]") -> None:
    # One that runs is not to be cancelled, and a generator that is being asked not to be closed.
    if not coming.cancel():
        wait([coming])


class AheadTrainLoader:
    """Steps of training whose micro-batches are prepared one step ahead.

    Args:
        loader: Gives the steps.
        ahead: Its thread.

    Attributes:
        num_steps: Steps of an epoch.
        waited_s: Seconds that the consumer has waited for prepared steps, over all epochs.
    """

    def __init__(self, loader: TrainSteps, ahead: Ahead) -> None:
        self._loader, self._ahead = loader, ahead
        self.num_steps = loader.num_steps
        self.waited_s = 0.0

    def epoch(self, epoch: int, *, first_step: int = 0) -> Generator[Step[Batch], None, None]:
        """As of the loader."""
        with (
            closing(self._loader.epoch(epoch, first_step=first_step)) as steps,
            closing(self._ahead.run(steps, self._ahead.step)) as prepared,
        ):
            while True:
                start_s = time.monotonic()
                step = next(prepared, None)
                self.waited_s += time.monotonic() - start_s
                if step is None:
                    return
                yield step


class AheadEvalLoader:
    """Batches of an evaluation, prepared one ahead.

    Args:
        loader: Gives the batches.
        ahead: Its thread.

    Attributes:
        num_batches: Batches of this rank.
    """

    def __init__(self, loader: EvalBatches, ahead: Ahead) -> None:
        self._loader, self._ahead = loader, ahead
        self.num_batches = loader.num_batches

    def __iter__(self) -> Iterator[Batch]:
        """As of the loader."""
        return self._ahead.run(iter(self._loader), self._ahead.batch)
