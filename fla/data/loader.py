"""Loaders: the plan of an epoch turned into batches of clips, a few batches ahead.

What a batch holds is a function of samples, seed, epoch and step alone; where its clips come from
is the source's affair. A clip that there is not ends the run with its name, unless the run asked
for such clips to be left out and listed.
"""

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from fla.batch import IGNORE_INDEX, Batch, Step, pad_labels
from fla.data.clips import Clips, ClipSource
from fla.data.manifest import Sample
from fla.data.pipeline import ClipError
from fla.data.sampling import MicroBatch, StepPlan, plan_epoch, plan_evaluation
from fla.data.skipped import SkippedClips
from fla.runtime import Runtime, take_device

Work = tuple[MicroBatch, int]
"""Which samples, and as which epoch sees them."""


@dataclass(eq=False)
class ClipLoader:
    """Samples in, batches out, made in a thread ahead of the consumer.

    Attributes:
        waited_s: Seconds that the consumer has waited for batches.
    """

    samples: Sequence[Sample]
    _: KW_ONLY
    source: ClipSource
    """Has the clips; it is closed with the loader."""
    lengths: NDArray[np.int64]
    """Most frames of each sample, `(N,)`."""
    token_ids: Sequence[Sequence[int]]
    """Target sentence of each sample."""
    runtime: Runtime
    frames_per_batch: int
    """Most frames of one batch, all its clips together."""
    prefetch_batches: int
    """Most batches made ahead of the consumer."""
    skipped: SkippedClips | None = None
    """Takes clips that there are not; None: the first one ends the run."""

    def __post_init__(self) -> None:
        # One thread, because a graph serves one call at a time.
        self._thread = ThreadPoolExecutor(
            1,
            thread_name_prefix="loader",
            initializer=take_device,
            initargs=(self.runtime.device,),
        )
        self.waited_s = 0.0

    def close(self) -> None:
        """End the threads."""
        self._thread.shutdown(cancel_futures=True)
        self.source.close()

    def read(self, work: Sequence[Work], *, least_ahead: int = 0) -> Generator[Batch, None, None]:
        """Batches in the order of `work`; one without a clip that can be had is blank.

        Args:
            work: Indices of samples, and epoch, of each batch.
            least_ahead: Batches that may be decoded before they are asked for, where
                `prefetch_batches` are fewer.

        Raises:
            DataError: A clip does not decode; names the sample and the file.
        """
        ahead = max(self.prefetch_batches, least_ahead)
        waiting = deque(work)
        coming: deque[tuple[Future[Batch], int]] = deque()
        try:
            self._submit(waiting, coming, ahead)
            while coming:
                start_s = time.monotonic()
                batch = coming[0][0].result()
                self.waited_s += time.monotonic() - start_s
                coming.popleft()
                # Before the consumer has it: the next ones are made meanwhile.
                self._submit(waiting, coming, ahead)
                yield batch
                # Not to be held while the next one comes.
                del batch
        finally:
            for future, _ in coming:
                future.cancel()

    def _submit(
        self, waiting: deque[Work], coming: deque[tuple[Future[Batch], int]], ahead: int
    ) -> None:
        """Send batches to the thread, as many as may be ahead; `coming` has their frames, too."""
        frames_ahead = sum(frames for _, frames in coming)
        while waiting and len(coming) < ahead:
            frames = int(self.lengths[list(waiting[0][0])].sum())
            if coming and frames_ahead + frames > self.source.max_waiting_frames:
                return
            coming.append((self._thread.submit(self._make, *waiting.popleft()), frames))
            frames_ahead += frames

    def _make(self, indices: MicroBatch, epoch: int) -> Batch:
        if self.skipped is None:
            return self._read_batch(indices, epoch)
        left = [index for index in indices if self.samples[index].id not in self.skipped]
        while left:
            try:
                return self._read_batch(left, epoch)
            except ClipError as error:
                self.skipped.add(error.sample_id, str(error))
                left = [index for index in left if self.samples[index].id != error.sample_id]
        # A pass that teaches nothing: under ZeRO-3 all ranks must make the same number of them.
        blank = self.source.blank(int(self.lengths[indices[0]]))
        return self._batch(indices[:1], blank, is_blank=True)

    def _read_batch(self, indices: Sequence[int], epoch: int) -> Batch:
        clips = self.source.read([self.samples[index] for index in indices], epoch=epoch)
        return self._batch(indices, clips, is_blank=False)

    def _batch(self, indices: Sequence[int], clips: Clips, *, is_blank: bool) -> Batch:
        return Batch(
            sample_ids=tuple(self.samples[index].id for index in indices),
            references=tuple(self.samples[index].sentence for index in indices),
            frame_lengths=clips.lengths,
            labels=pad_labels([self.token_ids[index] for index in indices]),
            frames=clips.frames,
            features=clips.features,
            is_blank=is_blank,
        )


@dataclass(eq=False)
class TrainLoader(ClipLoader):
    """Steps of training: length-bucketed batches, in another order every epoch.

    Attributes:
        num_steps: Steps of an epoch.

    Raises:
        ConfigError: The batch sizes do not fit each other or the samples.
    """

    _: KW_ONLY
    seed: int
    """Seed of the order."""
    global_batch_size: int
    """Sentences a step, over all ranks."""
    micro_batch_size: int
    """Most sentences of one batch on one rank."""
    shortest_first_epochs: int
    """First epochs whose steps come in order of their clips' length."""
    like_sentences: bool
    """Whether micro-batches are of like sentences, and then depend on the number of ranks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._num_tokens = np.array([len(ids) for ids in self.token_ids], np.int64)
        self.num_steps = len(self._plan(0))

    def epoch(self, epoch: int, *, first_step: int = 0) -> Generator[Step[Batch], None, None]:
        """This rank's share of an epoch's steps.

        Args:
            epoch: Counts from 0.
            first_step: Steps of the epoch to leave out, for a run that resumes.

        Raises:
            DataError: A clip does not decode; names the sample and the file.
        """
        rank = self.runtime.rank
        steps = self._plan(epoch)[first_step:]
        # All of a step is there before its first pass: less ahead, and training would wait for it.
        most = max((len(step.ranks[rank]) for step in steps), default=0)
        batches = self.read(
            [(batch, epoch) for step in steps for batch in step.ranks[rank]],
            least_ahead=most,
        )
        with closing(batches):
            for step in steps:
                share = step.ranks[rank]
                taken = tuple(next(batches) for _ in share)
                yield Step(
                    micro_batches=taken,
                    num_tokens=self._count_tokens(step.samples),
                    num_skipped_tokens=0
                    if self.skipped is None
                    else sum(map(self._count_tokens, share)) - sum(map(_count_targets, taken)),
                )
                del taken

    def _count_tokens(self, indices: Sequence[int]) -> int:
        return int(self._num_tokens[list(indices)].sum())

    def _plan(self, epoch: int) -> list[StepPlan]:
        return plan_epoch(
            self.lengths,
            global_batch_size=self.global_batch_size,
            micro_batch_size=self.micro_batch_size,
            frames_per_batch=self.frames_per_batch,
            world_size=self.runtime.world_size,
            seed=self.seed,
            epoch=epoch,
            shortest_first=epoch < self.shortest_first_epochs,
            num_tokens=self._num_tokens if self.like_sentences else None,
        )


@dataclass(eq=False)
class EvalLoader(ClipLoader):
    """Every sample exactly once over all ranks.

    Attributes:
        num_batches: Batches of this rank; ranks may have different numbers, or none.

    Raises:
        ConfigError: A clip alone exceeds `frames_per_batch`.
    """

    _: KW_ONLY
    batch_size: int
    """Most sentences of one batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._batches = plan_evaluation(
            self.lengths,
            batch_size=self.batch_size,
            frames_per_batch=self.frames_per_batch,
            world_size=self.runtime.world_size,
        )[self.runtime.rank]
        self.num_batches = len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """This rank's share, longest clips first.

        Raises:
            DataError: A clip does not decode; names the sample and the file.
        """
        return self.read([(batch, 0) for batch in self._batches])


def _count_targets(batch: Batch) -> int:
    return int((batch.targets != IGNORE_INDEX).sum())
