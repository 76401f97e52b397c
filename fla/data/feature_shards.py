"""Shards of a feature cache: what lies in which file, and how the files are written and opened.

A shard is a safetensors file with one tensor, the features of its clips one after the other, its
checksum, and an index of the clips. Which clips share a shard does not depend on the number of
ranks, and a shard is there whole or not at all: a build that was killed goes on.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fla.data.manifest import Sample
from fla.data.sampling import MicroBatch, cut_in_order
from fla.data.views import PlainView
from fla.errors import CheckpointError
from fla.weights import Layout, open_tensors, read_metadata, write_tensors

SHARD_BYTES = 256 * 2**20
"""Most bytes of a shard: what a rank holds in memory while it builds, and loses when it dies."""
MIN_SHARDS = 64
"""A cache has as many shards, smaller ones, if it has as many clips: ranks share the work by them,
and the last to end should not be far behind the others."""
DTYPE = torch.bfloat16

_FEATURES, _INDEX, _KEY = "features", "index", "key"
# Of one pass through the encoder, beside the frames.
_CLIPS_PER_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """A shard before it is made."""

    name: str
    view: int
    batches: tuple[MicroBatch, ...]
    """Samples in the order of the shard, as they go through the encoder together."""
    lengths: tuple[tuple[int, ...], ...]
    """Frames of each, exactly."""

    @property
    def num_clips(self) -> int:
        return sum(map(len, self.batches))

    @property
    def num_frames(self) -> int:
        return sum(map(sum, self.lengths))


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What a shard holds."""

    name: str
    view: int
    ids: tuple[str, ...]
    """Of the clips, in the shard's order."""
    lengths: tuple[int, ...]
    """Frames of each clip; the first begins at 0, the next where the one before ends."""
    left_out: dict[str, str]
    """Clips that did not decode: reason by id."""


def plan_shards(
    samples: Sequence[Sample],
    *,
    views: PlainView,
    num_views: int,
    width: int,
    frames_per_batch: int,
) -> list[ShardPlan]:
    """Decide which clips share a shard, and which a pass through the encoder.

    Args:
        samples: Of the split.
        views: Frames of each clip.
        num_views: Views of each clip, at least 1.
        width: D, of a feature.
        frames_per_batch: Most frames of a pass.
    """
    # Clips of a recording follow each other, so that its bytes are in memory for the next one.
    order = sorted(
        range(len(samples)),
        key=lambda index: (samples[index].video, samples[index].start_s, samples[index].id),
    )
    lengths = [
        {index: len(views.draw(samples[index], epoch=view)[0]) for index in order}
        for view in range(num_views)
    ]
    num_frames = sum(sum(of_view.values()) for of_view in lengths)
    most = min(SHARD_BYTES // (width * DTYPE.itemsize), -(-num_frames // MIN_SHARDS))
    plans = []
    for view, of_view in enumerate(lengths):
        for number, share in enumerate(_cut(order, of_view, most)):
            batches = cut_in_order(
                share, of_view, batch_size=_CLIPS_PER_BATCH, frames_per_batch=frames_per_batch
            )
            plans.append(
                ShardPlan(
                    name=f"view_{view:03d}_shard_{number:05d}.safetensors",
                    view=view,
                    batches=batches,
                    lengths=tuple(tuple(of_view[i] for i in batch) for batch in batches),
                )
            )
    return plans


def write_shard(folder: Path, index: ShardIndex, features: Tensor, *, key: str) -> None:
    """Write a shard whole, or not at all.

    Args:
        folder: Of the cache.
        index: What it holds.
        features: `(frames of all clips, D)`, bfloat16.
        key: Of the cache.

    Raises:
        DiskError: The disk is full, or not to be written to.
    """
    write_tensors(
        folder / index.name,
        {_FEATURES: Layout(tuple(features.shape), features.dtype)},
        [(_FEATURES, features)],
        metadata={_KEY: key, _INDEX: json.dumps(asdict(index), ensure_ascii=False)},
    )


def read_index(folder: Path, name: str, *, key: str) -> ShardIndex:
    """What a shard says that it holds.

    Raises:
        CheckpointError: It is missing, damaged, or of another cache.
    """
    path = folder / name
    try:
        metadata = read_metadata(path)
        index = index_from(json.loads(metadata[_INDEX]))
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise _unusable(path, "is missing" if not path.exists() else "is damaged") from error
    if metadata.get(_KEY) != key:
        raise _unusable(path, "is of another cache")
    return index


def open_shard(folder: Path, index: ShardIndex, *, key: str, check: bool) -> Tensor:
    """The features of a shard as a view of the file's pages; not to be written to.

    Args:
        folder: Of the cache.
        index: What the shard should hold.
        key: Of the cache.
        check: Compare all bytes with the checksum, too.

    Returns:
        `(frames of all clips, D)`.

    Raises:
        CheckpointError: It is missing, damaged, or of another cache.
    """
    path = folder / index.name
    if read_index(folder, index.name, key=key) != index:
        raise _unusable(path, "holds other clips than cache.json says")
    try:
        tensors = open_tensors(path)
        features = tensors.tensor(_FEATURES)
        if check:
            tensors.check()
    except (CheckpointError, KeyError) as error:
        raise _unusable(path, "is damaged") from error
    if features.dim() != 2 or len(features) != sum(index.lengths) or features.dtype != DTYPE:
        raise _unusable(path, "is damaged")
    return features


def index_from(content: dict[str, object]) -> ShardIndex:
    """A shard's index as JSON has it.

    Raises:
        KeyError, TypeError, ValueError: It is no such index.
    """
    index = ShardIndex(**content)  # type: ignore[arg-type]
    whole = ShardIndex(
        name=str(index.name),
        view=int(index.view),
        ids=tuple(map(str, index.ids)),
        lengths=tuple(map(int, index.lengths)),
        left_out=dict(index.left_out),
    )
    if len(whole.ids) != len(whole.lengths):
        raise ValueError(f"{len(whole.ids)} ids have {len(whole.lengths)} lengths.")
    return whole


def describe_size(num_bytes: int) -> str:
    """Bytes as people say them."""
    gib, mib = num_bytes / 2**30, num_bytes / 2**20
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{mib:.3g} MiB"


def _cut(order: Sequence[int], lengths: dict[int, int], most: int) -> list[list[int]]:
    """Parts of at most so many frames, and at least one clip."""
    parts: list[list[int]] = []
    num_frames = 0
    for index in order:
        if not parts or num_frames + lengths[index] > most:
            parts.append([])
            num_frames = 0
        parts[-1].append(index)
        num_frames += lengths[index]
    return parts


def _unusable(path: Path, what: str) -> CheckpointError:
    advice = "Delete cache.json beside it" if what == "is missing" else "Delete it and cache.json"
    return CheckpointError(
        f"{path} {what}. {advice}, and start again: what is missing is encoded anew."
    )
