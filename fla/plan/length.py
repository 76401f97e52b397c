"""What a run takes in by its manifests: micro-batches, steps, tokens; no video is read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fla.config.schema import DataConfig, Stage2Config
from fla.data.manifest import Manifest, read_manifest
from fla.data.sampling import choose_stride, count_chosen_frames, plan_epoch
from fla.plan.activations import BatchShape
from fla.text.codec import read_codec

_FEATURE_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Sizes of training clips, in order."""

    frames: tuple[int, ...]
    """That the encoder sees."""
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """How long a run is, and what it sees."""

    num_samples: int
    """Of the training split."""
    steps_per_epoch: int
    num_steps: int
    tokens_per_epoch: int
    feature_bytes: int
    """Of the features of train and dev on disk, where they are cached."""
    micro_batches: tuple[BatchShape, ...]
    """Of the first epoch, each shape once."""
    most_micro_batches: int
    """Of a step on one rank."""
    clips: Clips
    """Of the training split."""
    num_recorded_frames: int
    """Of the training clips, before any is chosen."""


def has_splits(config: Stage2Config) -> bool:
    """Whether the manifests and the tokenizer of a run are there."""
    folder = Path(config.data.manifest_dir)
    return all((folder / f"{split}.tsv").is_file() for split in ("train", "dev")) and (
        Path(config.text.tokenizer_dir).is_dir()
    )


def measure_run(config: Stage2Config, *, world_size: int, feature_width: int) -> RunLength:
    """Plan the first epoch as a run does.

    Args:
        config: Of the run.
        world_size: Ranks.
        feature_width: Width of what the adapter reads.

    Raises:
        FlaError: Manifests, tokenizer or batch sizes are not what they should be.
    """
    train, dev = (read_manifest(_path(config, split)) for split in ("train", "dev"))
    codec = read_codec(Path(config.text.tokenizer_dir), language=config.text.language)
    sentences = [sample.sentence for sample in train.samples]
    ids = codec.encode(sentences, max_tokens=config.text.max_tokens)
    num_tokens = np.array([len(sentence) for sentence in ids])
    lengths = _count_frames(train, config.data)
    steps = plan_epoch(
        lengths,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=config.train.micro_batch_size,
        frames_per_batch=config.data.frames_per_batch,
        world_size=world_size,
        seed=config.seed,
        epoch=0,
        num_tokens=num_tokens if config.model.freeze == "all" else None,
    )
    shapes = {
        BatchShape(
            num_clips=len(batch),
            max_frames=int(lengths[list(batch)].max()),
            num_real_frames=int(lengths[list(batch)].sum()),
            max_tokens=int(num_tokens[list(batch)].max()),
            feature_width=feature_width,
        )
        for step in steps
        for rank in step.ranks
        for batch in rank
    }
    num_steps = len(steps) * config.train.num_epochs
    views = max(1, config.features.num_views)
    num_frames = int(lengths.sum()) * views + int(_count_frames(dev, config.data).sum())
    return RunLength(
        num_samples=len(train.samples),
        steps_per_epoch=len(steps),
        num_steps=min(num_steps, config.train.max_steps or num_steps),
        tokens_per_epoch=int(num_tokens.sum()),
        feature_bytes=num_frames * feature_width * _FEATURE_BYTES,
        micro_batches=tuple(shapes),
        most_micro_batches=max(len(step.ranks[0]) for step in steps),
        clips=Clips(frames=tuple(lengths.tolist()), tokens=tuple(num_tokens.tolist())),
        num_recorded_frames=sum(sample.num_frames for sample in train.samples),
    )


def largest_batch(config: Stage2Config, *, feature_width: int) -> BatchShape:
    """The largest micro-batch that the settings allow, where the data is not known.

    One clip may be the longest and all others short; they are padded to it.
    """
    data, num_clips = config.data, config.train.micro_batch_size
    return BatchShape(
        num_clips=num_clips,
        max_frames=max(1, min(data.max_frames, data.frames_per_batch - num_clips + 1)),
        num_real_frames=min(num_clips * data.max_frames, data.frames_per_batch),
        max_tokens=config.text.max_tokens,
        feature_width=feature_width,
    )


def _path(config: Stage2Config, split: str) -> Path:
    return Path(config.data.manifest_dir) / f"{split}.tsv"


def _count_frames(manifest: Manifest, data: DataConfig) -> NDArray[np.int64]:
    samples = manifest.samples
    return count_chosen_frames(
        np.array([sample.num_frames for sample in samples]),
        stride=np.array(
            [
                choose_stride(s.fps, frame_stride=data.frame_stride, target_fps=data.target_fps)
                for s in samples
            ]
        ),
        max_frames=data.max_frames,
    )
