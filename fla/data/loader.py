"""Loaders: the plan of an epoch turned into batches of decoded clips, a few batches ahead.

What a batch holds is a function of samples, seed, epoch and step alone. A clip that does not decode
ends the run with its name, unless the run asked for such clips to be left out and listed.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fla.batch import IGNORE_INDEX, Batch, Step, pad_labels
from fla.data.manifest import Sample
from fla.data.memory import plan_queue
from fla.data.pipeline import ClipError, ClipPipeline, ClipRequest
from fla.data.sampling import (
    MicroBatch,
    StepPlan,
    centre_warp,
    choose_frames,
    choose_stride,
    count_chosen_frames,
    plan_epoch,
    plan_evaluation,
    sample_rng,
    train_warp,
)
from fla.data.skipped import SkippedClips
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
    """One frame in so many is decoded, unless `target_fps` says otherwise."""
    target_fps: float
    """Decoded frames a second, whatever the recording's rate; 0: by `frame_stride`."""
    max_frames: int
    """Most frames a clip, after the stride."""
    resize_px: int
    """Side of the square that frames are scaled to."""
    crop_px: int
    """Side of the square that the encoder sees."""
    num_threads: int
    """Decoding threads."""
    prefetch_batches: int
    """Most batches decoded ahead of the consumer."""
    host_memory_gib: float
    """Bound of the host memory that decoded frames take, those that wait and those in work."""
    full_frame_px: int
    """Pixels of the largest frame that DALI decodes at full size in host memory; 0: none."""

    def __post_init__(self) -> None:
        num_frames = np.array([sample.num_frames for sample in self.samples], dtype=np.int64)
        strides = np.array([self._stride(sample) for sample in self.samples], dtype=np.float64)
        self._lengths = count_chosen_frames(num_frames, stride=strides, max_frames=self.max_frames)
        self._max_waiting_frames = plan_queue(
            host_memory_gib=self.host_memory_gib,
            frames_per_batch=self.frames_per_batch,
            resize_px=self.resize_px,
            crop_px=self.crop_px,
            full_frame_px=self.full_frame_px,
            is_on_gpu=self.runtime.dali_device_id is not None,
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
        waiting = deque(micro_batches)
        coming: deque[tuple[Future[Batch], int]] = deque()
        try:
            self._submit(waiting, coming, draw)
            while coming:
                start_s = time.monotonic()
                batch = coming[0][0].result()
                self.waited_s += time.monotonic() - start_s
                coming.popleft()
                # Before the consumer has it: the next ones are decoded meanwhile.
                self._submit(waiting, coming, draw)
                yield batch
        finally:
            for future, _ in coming:
                future.cancel()

    def _submit(
        self,
        waiting: deque[MicroBatch],
        coming: deque[tuple[Future[Batch], int]],
        draw: Draw,
    ) -> None:
        """Send batches to the thread, as many as may be ahead; `coming` has their frames, too."""
        frames_ahead = sum(frames for _, frames in coming)
        while waiting and len(coming) < self.prefetch_batches:
            frames = int(self._lengths[list(waiting[0])].sum())
            if coming and frames_ahead + frames > self._max_waiting_frames:
                return
            coming.append((self._thread.submit(self._decode, waiting.popleft(), draw), frames))
            frames_ahead += frames

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

    def _stride(self, sample: Sample) -> float:
        return choose_stride(sample.fps, frame_stride=self.frame_stride, target_fps=self.target_fps)

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
    skipped: SkippedClips | None
    """Takes clips that do not decode; None: the first one ends the run."""

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
                share = step.ranks[rank]
                taken = tuple(next(batches) for _ in share)
                yield Step(
                    micro_batches=taken,
                    num_tokens=self._count_tokens(step.samples),
                    num_skipped_tokens=0
                    if self.skipped is None
                    else sum(map(self._count_tokens, share)) - sum(map(_count_targets, taken)),
                )

    def _decode(self, indices: MicroBatch, draw: Draw) -> Batch:
        if self.skipped is None:
            return super()._decode(indices, draw)
        left = [index for index in indices if self.samples[index].id not in self.skipped]
        while left:
            try:
                return super()._decode(tuple(left), draw)
            except ClipError as error:
                self.skipped.add(error.sample_id, str(error))
                left = [index for index in left if self.samples[index].id != error.sample_id]
        return self._blank(indices[0], draw)

    def _blank(self, index: int, draw: Draw) -> Batch:
        """A clip of gray frames whose labels do not count: a pass that teaches nothing.

        Under ZeRO-3 all ranks must make the same number of them.
        """
        sample = self.samples[index]
        num_frames = len(draw(sample)[0])
        return Batch(
            sample_ids=(sample.id,),
            references=(sample.sentence,),
            frame_lengths=torch.tensor([num_frames]),
            labels=pad_labels([self.token_ids[index]]),
            frames=torch.zeros(
                num_frames, 3, self.crop_px, self.crop_px, device=self.runtime.device
            ).contiguous(memory_format=torch.channels_last),
            is_blank=True,
        )

    def _count_tokens(self, indices: Sequence[int]) -> int:
        return sum(len(self.token_ids[index]) for index in indices)

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
            sample.num_frames, stride=self._stride(sample), max_frames=self.max_frames, rng=rng
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
            sample.num_frames, stride=self._stride(sample), max_frames=self.max_frames
        )
        return frame_numbers, self._warp


def _count_targets(batch: Batch) -> int:
    return int((batch.targets != IGNORE_INDEX).sum())
