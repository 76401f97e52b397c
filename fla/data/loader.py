"""Loaders: the plan of an epoch turned into batches of decoded clips, a few batches ahead.

What a batch holds is a function of samples, seed, epoch and step alone. Nothing is skipped or
replaced: a clip that does not decode ends the run with its name.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fla.batch import Batch, Step, pad_labels
from fla.data.manifest import Sample
from fla.data.pipeline import ClipPipeline, ClipRequest
from fla.data.sampling import (
    MicroBatch,
    StepPlan,
    centre_warp,
    choose_frames,
    count_chosen_frames,
    plan_epoch,
    plan_evaluation,
    sample_rng,
    train_warp,
)
from fla.runtime import Runtime

Draw = Callable[[Sample], tuple[NDArray[np.int32], NDArray[np.float32]]]
"""A sample's frame numbers `(T,)` and warp `(2, 3)`."""


@dataclass(eq=False)
class _ClipLoader:
    """What both loaders share: samples in, decoded batches out."""

    samples: Sequence[Sample]
    _: KW_ONLY
    root: Path
    """Folder that the samples' videos are relative to."""
    token_ids: Sequence[Sequence[int]]
    """Target sentence of each sample."""
    runtime: Runtime
    frames_per_batch: int
    """Most frames of one batch, all its clips together."""
    frame_stride: int
    """One frame in so many is decoded."""
    max_frames: int
    """Most frames a clip, after the stride."""
    resize_px: int
    """Side of the square that frames are scaled to."""
    crop_px: int
    """Side of the square that the encoder sees."""
    num_threads: int
    """Decoding threads."""
    prefetch_batches: int
    """Batches decoded ahead of the consumer."""

    def __post_init__(self) -> None:
        num_frames = np.array([sample.num_frames for sample in self.samples], dtype=np.int64)
        self._lengths = count_chosen_frames(
            num_frames, stride=self.frame_stride, max_frames=self.max_frames
        )
        self.waited_s = 0.0

    def close(self) -> None:
        """End the threads."""
        self._thread.shutdown(cancel_futures=True)
        self._clips.close()

    def _open(self, *, max_clips: int) -> None:
        # One thread, because a graph serves one call at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._clips = ClipPipeline(
            decode_device=self.runtime.decode_device,
            dali_device_id=self.runtime.dali_device_id,
            resize_px=self.resize_px,
            crop_px=self.crop_px,
            max_clips=max_clips,
            num_threads=self.num_threads,
        )

    def _read(
        self, micro_batches: Sequence[MicroBatch], draw: Draw
    ) -> Generator[Batch, None, None]:
        """Batches in the plan's order, decoded in another thread."""
        waiting = iter(micro_batches)
        coming: deque[Future[Batch]] = deque()
        try:
            while True:
                for indices in islice(waiting, self.prefetch_batches + 1 - len(coming)):
                    coming.append(self._thread.submit(self._decode, indices, draw))
                if not coming:
                    return
                start_s = time.monotonic()
                batch = coming.popleft().result()
                self.waited_s += time.monotonic() - start_s
                yield batch
        finally:
            for future in coming:
                future.cancel()

    def _decode(self, indices: MicroBatch, draw: Draw) -> Batch:
        samples = [self.samples[index] for index in indices]
        frames, frame_lengths = self._clips.run(
            [self._request(sample, *draw(sample)) for sample in samples]
        )
        return Batch(
            sample_ids=tuple(sample.id for sample in samples),
            references=tuple(sample.sentence for sample in samples),
            frame_lengths=frame_lengths,
            labels=pad_labels([self.token_ids[index] for index in indices]),
            frames=frames,
        )

    def _request(
        self, sample: Sample, frame_numbers: NDArray[np.int32], warp: NDArray[np.float32]
    ) -> ClipRequest:
        return ClipRequest(
            sample_id=sample.id,
            path=self.root / sample.video,
            fps=sample.fps,
            start_s=sample.start_s,
            end_s=sample.end_s,
            num_frames=sample.num_frames,
            frame_numbers=frame_numbers,
            warp=warp,
        )


@dataclass(eq=False)
class TrainLoader(_ClipLoader):
    """Steps of training: length-bucketed batches, frames and crops drawn anew every epoch.

    Attributes:
        num_steps: Steps of an epoch.
        waited_s: Seconds that the consumer has waited for batches, over all epochs.

    Raises:
        ConfigError: The batch sizes do not fit each other or the samples.
    """

    _: KW_ONLY
    seed: int
    """Seed of order, frames and augmentation."""
    global_batch_size: int
    """Sentences a step, over all ranks."""
    micro_batch_size: int
    """Most sentences of one batch on one rank."""
    shortest_first_epochs: int
    """First epochs whose steps come in order of their clips' length."""
    augment: bool
    """Random crop, rotation, scale and shift, one draw a clip; else the centre crop."""
    max_rotation_deg: float
    """As in `sampling.train_warp`, like the next two."""
    max_rescale_fraction: float
    max_shift_fraction: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.num_steps = len(self._plan(0))
        self._open(max_clips=self.micro_batch_size)

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Step[Batch]]:
        """This rank's share of an epoch's steps.

        Args:
            epoch: Counts from 0.
            first_step: Steps of the epoch to leave out, for a run that resumes.

        Raises:
            DataError: A clip does not decode; names the sample and the file.
        """
        rank = self.runtime.rank
        steps = self._plan(epoch)[first_step:]
        micro_batches = [batch for step in steps for batch in step.ranks[rank]]
        batches = self._read(micro_batches, partial(self._draw, epoch=epoch))
        with closing(batches):
            for step in steps:
                yield Step(
                    micro_batches=tuple(islice(batches, len(step.ranks[rank]))),
                    num_tokens=sum(len(self.token_ids[index]) for index in step.samples),
                )

    def _plan(self, epoch: int) -> list[StepPlan]:
        return plan_epoch(
            self._lengths,
            global_batch_size=self.global_batch_size,
            micro_batch_size=self.micro_batch_size,
            frames_per_batch=self.frames_per_batch,
            world_size=self.runtime.world_size,
            seed=self.seed,
            epoch=epoch,
            shortest_first=epoch < self.shortest_first_epochs,
        )

    def _draw(self, sample: Sample, epoch: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        rng = sample_rng(seed=self.seed, epoch=epoch, sample_id=sample.id)
        frame_numbers = choose_frames(
            sample.num_frames, stride=self.frame_stride, max_frames=self.max_frames, rng=rng
        )
        if not self.augment:
            return frame_numbers, centre_warp(resize_px=self.resize_px, crop_px=self.crop_px)
        return frame_numbers, train_warp(
            rng,
            resize_px=self.resize_px,
            crop_px=self.crop_px,
            max_rotation_deg=self.max_rotation_deg,
            max_rescale_fraction=self.max_rescale_fraction,
            max_shift_fraction=self.max_shift_fraction,
        )


@dataclass(eq=False)
class EvalLoader(_ClipLoader):
    """Every sample exactly once over all ranks: always the same frames, centre crop.

    Attributes:
        num_batches: Batches of this rank; ranks may have different numbers, or none.
        waited_s: Seconds that the consumer has waited for batches.

    Raises:
        ConfigError: A clip alone exceeds `frames_per_batch`.
    """

    _: KW_ONLY
    batch_size: int
    """Most sentences of one batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._warp = centre_warp(resize_px=self.resize_px, crop_px=self.crop_px)
        self._batches = plan_evaluation(
            self._lengths,
            batch_size=self.batch_size,
            frames_per_batch=self.frames_per_batch,
            world_size=self.runtime.world_size,
        )[self.runtime.rank]
        self.num_batches = len(self._batches)
        self._open(max_clips=self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """This rank's share, longest clips first.

        Raises:
            DataError: A clip does not decode; names the sample and the file.
        """
        return self._read(self._batches, self._draw)

    def _draw(self, sample: Sample) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        frame_numbers = choose_frames(
            sample.num_frames, stride=self.frame_stride, max_frames=self.max_frames
        )
        return frame_numbers, self._warp
