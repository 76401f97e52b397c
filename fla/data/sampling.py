"""Which frames, which step, which rank, which crop: pure decisions, made without opening a video.

Every decision is a function of its arguments. A rank computes the whole epoch's plan and takes its
own part, so nothing is ever sent between ranks, and a run that resumes makes the same plan again.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fla.errors import ConfigError

# Steps are of like clips, and not of like sentences, too: with them the demo's stage 1 ended at a
# BLEU-4 of 37 and 41 instead of 46 (two seeds).
# Sorting over a part of the split only keeps a step's company changing from epoch to epoch; few
# samples would leave the ranks of a step with unequal lengths.
WINDOW_BATCHES = 16
WINDOW_SAMPLES = 512
# Lengths are blurred by this fraction before sorting, so that equals do not always meet.
LENGTH_JITTER = 0.1
# Keeps the draws of the plan apart from those of the clips.
_PLAN, _CLIP = 0, 1
# A rate such as 29.97 / 9.99 must not gain or lose a frame by its last bit.
_ROUNDING = 1e-9

MicroBatch = tuple[int, ...]
"""Indices of samples that go through one forward pass together."""


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One optimizer step: which rank sees which samples, in which micro-batches."""

    ranks: tuple[tuple[MicroBatch, ...], ...]
    """`[rank][micro-batch]`; every rank has the same number of micro-batches, none is empty."""

    @property
    def samples(self) -> tuple[int, ...]:
        """Sample indices of the whole step, over all ranks and micro-batches."""
        return tuple(index for rank in self.ranks for batch in rank for index in batch)


def choose_stride(fps: float, *, frame_stride: int, target_fps: float) -> float:
    """Step between the frames of a clip that the encoder sees, in frames of the file.

    Args:
        fps: Frame rate of the clip.
        frame_stride: The step where no rate is asked for; FLa-LLM uses 4 (table 6).
        target_fps: Chosen frames a second, whatever the clip's rate; a clip with fewer gives all
            that it has. 0: go by `frame_stride`.
    """
    return max(1.0, fps / target_fps) if target_fps else float(frame_stride)


def choose_frames(
    num_frames: int, *, stride: float, max_frames: int, rng: np.random.Generator | None = None
) -> NDArray[np.int32]:
    """Pick the frames of one clip that the encoder will see, in time order.

    Every `stride`-th frame, rounded down; where that is more than `max_frames`, one frame of each
    of `max_frames` equal segments instead, so that a long clip is thinned and not cut off.

    Args:
        num_frames: Frames of the sample in the file.
        stride: As `choose_stride` gives it.
        max_frames: Upper bound for the result, in frames after `stride`.
        rng: Draws the first frame and the frame within a segment, for training.
            None always picks the first and the middle one, for evaluation.

    Returns:
        Frame numbers counted from the sample's first frame, int32, `(T,)`, 1 <= T <= max_frames.

    Raises:
        ValueError: one of the three numbers is below 1.
    """
    if min(num_frames, stride, max_frames) < 1:
        raise ValueError(
            f"num_frames ({num_frames}), stride ({stride}) and max_frames ({max_frames}) "
            "must be at least 1."
        )
    # A phase beyond the clip would leave no frame at all.
    phase = 0 if rng is None else int(rng.integers(min(math.ceil(stride), num_frames)))
    frames = phase + np.floor(np.arange(_count_strides(num_frames, stride)) * stride + _ROUNDING)
    frames = frames[frames < num_frames]
    if len(frames) <= max_frames:
        return frames.astype(np.int32)
    edges = np.arange(max_frames + 1, dtype=np.int64) * num_frames // max_frames
    first, width = edges[:-1], np.diff(edges)
    within = width // 2 if rng is None else rng.integers(width)
    return (first + within).astype(np.int32)


def count_chosen_frames(
    num_frames: NDArray[np.integer], *, stride: float | NDArray[np.float64], max_frames: int
) -> NDArray[np.int64]:
    """Most frames that `choose_frames` can pick, whatever it draws; exact without an rng.

    Args:
        num_frames: Frames of each sample in its file, `(N,)`.
        stride: As in `choose_frames`: one, or one a sample `(N,)`.
        max_frames: As in `choose_frames`.

    Returns:
        int64, `(N,)`: the lengths that plans are made of.
    """
    counts: NDArray[np.float64] = _count_strides(num_frames.astype(np.float64), stride)
    return np.minimum(counts, max_frames).astype(np.int64)


def sample_rng(*, seed: int, epoch: int, sample_id: str) -> np.random.Generator:
    """The draws of one sample in one epoch: the same on every rank of any number of ranks."""
    # Python's own hash() of a string differs from process to process.
    digest = hashlib.sha256(sample_id.encode()).digest()
    return np.random.default_rng([seed, epoch, _CLIP, int.from_bytes(digest[:16], "big")])


def plan_epoch(
    lengths: NDArray[np.integer],
    *,
    global_batch_size: int,
    micro_batch_size: int,
    frames_per_batch: int,
    world_size: int,
    seed: int,
    epoch: int,
    shortest_first: bool = False,
    num_tokens: NDArray[np.integer] | None = None,
) -> list[StepPlan]:
    """Decide every step of one epoch for every rank.

    Which samples share a step, and the order of the steps, do not depend on `world_size`; without
    `num_tokens`, nor does which share a micro-batch: more ranks change the speed, not the result.

    Args:
        lengths: Chosen frames of each sample, `(N,)`, each at least 1.
        global_batch_size: Samples of every step, over all ranks; N modulo this many samples,
            drawn anew each epoch, sit out.
        micro_batch_size: Most samples of a micro-batch.
        frames_per_batch: Most frames of a micro-batch, all its clips together.
        world_size: Number of ranks.
        seed: Seed of the run.
        epoch: Counts from 0.
        shortest_first: Steps come in order of their clips' length, not in a random one.
        num_tokens: Target tokens of each sample, `(N,)`, where no batch normalization is trained:
            what a rank has of a step is cut into micro-batches of like sentences, so that less of
            them is padding. None: no sample's micro-batch depends on the number of ranks.

    Returns:
        N // global_batch_size steps.

    Raises:
        ConfigError: the batch sizes do not divide, one clip alone exceeds `frames_per_batch`, or
            there are fewer samples than `global_batch_size`.
        ValueError: a length is below 1.
    """
    _check_lengths(lengths, frames_per_batch=frames_per_batch)
    if global_batch_size % (micro_batch_size * world_size):
        raise ConfigError(
            f"train.global_batch_size ({global_batch_size}) must be a multiple of "
            f"train.micro_batch_size x world size ({micro_batch_size} x {world_size})."
        )
    if len(lengths) < global_batch_size:
        raise ConfigError(
            f"train.global_batch_size ({global_batch_size}) is more than the {len(lengths)} "
            "samples of the training split. Lower it."
        )
    rng = np.random.default_rng([seed, epoch, _PLAN])
    steps = _global_batches(lengths, global_batch_size, rng, shortest_first=shortest_first)
    limits = {
        "micro_batch_size": micro_batch_size,
        "frames_per_batch": frames_per_batch,
        "world_size": world_size,
    }
    if num_tokens is None:
        return [_plan_step(batch, lengths, **limits) for batch in steps]
    return [_plan_step_of_like_sentences(batch, lengths, num_tokens, **limits) for batch in steps]


def plan_evaluation(
    lengths: NDArray[np.integer], *, batch_size: int, frames_per_batch: int, world_size: int
) -> tuple[tuple[MicroBatch, ...], ...]:
    """Share out a split so that each sample is seen exactly once.

    The batches are the same for any number of ranks: what a clip is batched with moves the last bit
    of its numbers, and in bfloat16 sometimes a word.

    Args:
        lengths: Chosen frames of each sample, `(N,)`, each at least 1.
        batch_size: Most samples of a batch.
        frames_per_batch: Most frames of a batch, all its clips together.
        world_size: Number of ranks.

    Returns:
        `[rank][batch]`. Long clips come first, so that memory runs out at once or never. Each
        batch goes to the rank with the fewest frames so far; with fewer batches than ranks some
        have none.

    Raises:
        ConfigError: one clip alone exceeds `frames_per_batch`.
        ValueError: a length is below 1.
    """
    _check_lengths(lengths, frames_per_batch=frames_per_batch)
    longest_first = np.argsort(-lengths, kind="stable").tolist()
    batches = cut_in_order(
        longest_first, lengths, batch_size=batch_size, frames_per_batch=frames_per_batch
    )
    shares: list[list[MicroBatch]] = [[] for _ in range(world_size)]
    frames = [0] * world_size
    for batch in batches:
        rank = frames.index(min(frames))
        shares[rank].append(batch)
        frames[rank] += sum(int(lengths[index]) for index in batch)
    return tuple(map(tuple, shares))


def cut_in_order(
    share: Sequence[int],
    lengths: NDArray[np.integer] | Mapping[int, int],
    *,
    batch_size: int,
    frames_per_batch: int,
) -> tuple[MicroBatch, ...]:
    """Batches of samples in their order, each as full as it may be.

    Args:
        share: Sample indices.
        lengths: Frames of each sample; one alone does not exceed `frames_per_batch`.
        batch_size: Most samples of a batch.
        frames_per_batch: Most frames of a batch, all its clips together.
    """
    batches: list[list[int]] = []
    frames = 0
    for index in share:
        length = int(lengths[index])
        if not batches or len(batches[-1]) == batch_size or frames + length > frames_per_batch:
            batches.append([])
            frames = 0
        batches[-1].append(index)
        frames += length
    return tuple(map(tuple, batches))


def centre_warp(*, resize_px: int, crop_px: int) -> NDArray[np.float32]:
    """The crop of evaluation: the middle of the frame, on whole pixels.

    Args:
        resize_px: Side of the square frame.
        crop_px: Side of the square that the encoder sees.

    Returns:
        As in `train_warp`.
    """
    offset = (resize_px - crop_px) // 2
    return np.array([[1, 0, offset], [0, 1, offset]], dtype=np.float32)


def train_warp(
    rng: np.random.Generator,
    *,
    resize_px: int,
    crop_px: int,
    max_rotation_deg: float,
    max_rescale_fraction: float,
    max_shift_fraction: float,
) -> NDArray[np.float32]:
    """One clip's crop in training: a random place, and each with probability 1/2 a rotation
    about the frame's centre, a change of scale and a shift (GFSLT-VLP).

    Args:
        rng: Draws; one call a clip, so that all frames of it move together.
        resize_px: Side of the square frame.
        crop_px: Side of the square that the encoder sees.
        max_rotation_deg: Largest angle, in degrees, either way.
        max_rescale_fraction: Scale is drawn from 1 minus to 1 plus this.
        max_shift_fraction: Largest shift along each axis, as a fraction of `resize_px`.

    Returns:
        float32, `(2, 3)`: maps a place (x, y, 1) of the crop to a place of the frame, both in
        pixels from the top left corner, so that the first pixel's centre is (0.5, 0.5).
    """
    offset = rng.integers(resize_px - crop_px + 1, size=2)
    # All is drawn every time, so that switching one off leaves the other draws as they were.
    rotates, rescales, shifts = rng.random(3) < 0.5
    angle = math.radians(rng.uniform(-max_rotation_deg, max_rotation_deg)) * rotates
    scale = 1 + rng.uniform(-max_rescale_fraction, max_rescale_fraction) * rescales
    shift = rng.uniform(-max_shift_fraction, max_shift_fraction, size=2) * resize_px * shifts

    # Undo the scaling and turn about the centre: a larger signer is a smaller step in the frame.
    linear = (
        np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / scale
    )
    centre = np.full(2, resize_px / 2)
    translation = centre + shift + linear @ (offset - centre)
    return np.column_stack([linear, translation]).astype(np.float32)


def _count_strides(num_frames: Any, stride: Any) -> Any:
    """How many steps begin within a clip; arrays or numbers."""
    return np.ceil(num_frames / stride - _ROUNDING)


def _check_lengths(lengths: NDArray[np.integer], *, frames_per_batch: int) -> None:
    if len(lengths) == 0:
        return
    if lengths.min() < 1:
        raise ValueError(f"every clip has at least 1 frame, got {lengths.min()}.")
    if lengths.max() > frames_per_batch:
        raise ConfigError(
            f"data.frames_per_batch ({frames_per_batch}) is less than the {lengths.max()} frames "
            "of the longest clip. Raise it, or lower data.max_frames."
        )


def _global_batches(
    lengths: NDArray[np.integer], size: int, rng: np.random.Generator, *, shortest_first: bool
) -> list[list[int]]:
    # Choose who sits out before sorting; afterwards it would mostly be the longest clips.
    order = rng.permutation(len(lengths))[: len(lengths) // size * size]
    blurred = lengths * rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, size=len(lengths))
    if shortest_first:
        in_order: list[list[int]] = order[np.argsort(blurred[order])].reshape(-1, size).tolist()
        return in_order
    batches: list[list[int]] = []
    width = max(WINDOW_BATCHES, -(-WINDOW_SAMPLES // size)) * size
    for start in range(0, len(order), width):
        window = order[start : start + width]
        window = window[np.argsort(blurred[window], kind="stable")]
        batches.extend(window.reshape(-1, size).tolist())
    return [batches[place] for place in rng.permutation(len(batches))]


def _plan_step(
    batch: Sequence[int],
    lengths: NDArray[np.integer],
    *,
    micro_batch_size: int,
    frames_per_batch: int,
    world_size: int,
) -> StepPlan:
    # The same micro-batches for every number of ranks, since BatchNorm's statistics are of a
    # micro-batch; then whole ones are dealt out.
    fewest = len(batch) // micro_batch_size
    for num_batches in range(fewest, len(batch) + 1, fewest):
        dealt = _deal(batch, lengths, num_hands=num_batches, max_samples=micro_batch_size)
        frames = np.array([int(lengths[hand].sum()) for hand in dealt])
        if frames.max() <= frames_per_batch:
            ranks = _deal(
                range(num_batches), frames, num_hands=world_size,
                max_samples=num_batches // world_size,
            )  # fmt: skip
            return StepPlan(ranks=tuple(tuple(tuple(dealt[b]) for b in rank) for rank in ranks))
    raise AssertionError("one clip a micro-batch always fits: _check_lengths has seen to it.")


def _plan_step_of_like_sentences(
    batch: Sequence[int],
    lengths: NDArray[np.integer],
    num_tokens: NDArray[np.integer],
    *,
    micro_batch_size: int,
    frames_per_batch: int,
    world_size: int,
) -> StepPlan:
    # Dealt out first: micro-batches of like sentences differ in frames, and ranks would wait.
    share = len(batch) // world_size
    hands = _deal(batch, lengths, num_hands=world_size, max_samples=share)
    longest_first = [sorted(hand, key=lambda index: (-num_tokens[index], index)) for hand in hands]
    for num_batches in range(share // micro_batch_size, share + 1):
        ranks = [_cut(hand, num_batches) for hand in longest_first]
        if max(lengths[list(it)].sum() for rank in ranks for it in rank) <= frames_per_batch:
            return StepPlan(ranks=tuple(ranks))
    raise AssertionError("one clip a micro-batch always fits: _check_lengths has seen to it.")


def _cut(hand: Sequence[int], num_batches: int) -> tuple[MicroBatch, ...]:
    edges = [len(hand) * k // num_batches for k in range(num_batches + 1)]
    return tuple(tuple(hand[start:end]) for start, end in pairwise(edges))


def _deal(
    batch: Sequence[int], lengths: NDArray[np.integer], *, num_hands: int, max_samples: int
) -> list[list[int]]:
    """Longest clip first, each to the hand with the fewest frames that still has room.

    A hand without a clip has the fewest frames, so with a clip for each none stays empty.
    """
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    frames = [0] * num_hands
    for index in sorted(batch, key=lambda index: (-int(lengths[index]), index)):
        open_hands = [hand for hand in range(num_hands) if len(hands[hand]) < max_samples]
        hand = min(open_hands, key=frames.__getitem__)
        hands[hand].append(index)
        frames[hand] += int(lengths[index])
    return hands
