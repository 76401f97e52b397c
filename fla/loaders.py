"""The loaders of a stage: frames decoded, features encoded ahead of the model, or from a cache."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fla.ahead import Ahead, AheadEvalLoader, AheadTrainLoader
from fla.batch import Batch
from fla.caching import CacheBuilder
from fla.config.schema import DataConfig, Stage1Config, Stage2Config
from fla.data.clips import ClipSource, DecodedClips
from fla.data.loader import EvalLoader, TrainLoader
from fla.data.skipped import SkippedClips
from fla.data.views import DrawnViews, PlainView
from fla.evaluate import Batches
from fla.runtime import Runtime
from fla.shard_encoder import Encoder
from fla.split import Split
from fla.train import Loader


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """What gives a stage its batches."""

    train: Loader
    dev: Batches
    prepare: Callable[[Batch], Batch]
    """Brings what they give to the device and into the model's form."""
    skipped: SkippedClips | None
    """Takes the training clips that are left out; None: the first one ends the run."""


@contextmanager
def open_loaders(
    config: Stage1Config | Stage2Config,
    runtime: Runtime,
    *,
    train: Split,
    dev: Split,
    encoder: Encoder | None,
) -> Iterator[Loaders]:
    """Start the loaders, and build what caches they lack; they end with the block.

    Args:
        config: Of the stage.
        runtime: Of this rank.
        train: To train on.
        dev: To evaluate on.
        encoder: A frozen one whose features the model reads; None: it reads frames.

    Raises:
        FlaError: Something that the user can fix.
    """
    sources = _cached_sources(config, runtime, train=train, dev=dev, encoder=encoder)
    if sources is None:
        sources = (
            _decoded(config, runtime, train, config.train.micro_batch_size, drawn_views(config)),
            _decoded(config, runtime, dev, config.beam.batch_size, plain_view(config.data)),
        )
        encode_online = encoder
    else:
        encode_online = None
    skipped = (
        SkippedClips(len(train.samples), max_fraction=config.data.max_skipped_fraction)
        if config.data.on_decode_error == "skip"
        else None
    )
    with (
        closing(_train_loader(config, runtime, train, sources[0], skipped)) as train_loader,
        closing(_eval_loader(config, runtime, dev, sources[1])) as dev_loader,
    ):
        if encode_online is None:
            yield Loaders(
                train=train_loader,
                dev=dev_loader,
                prepare=lambda batch: batch.to(runtime.device),
                skipped=skipped,
            )
            return
        encode = encode_online
        with closing(
            Ahead(lambda batch: encode(batch.to(runtime.device)), device=runtime.device)
        ) as ahead:
            yield Loaders(
                train=AheadTrainLoader(train_loader, ahead),
                dev=AheadEvalLoader(dev_loader, ahead),
                prepare=_as_it_is,
                skipped=skipped,
            )


def plain_view(data: DataConfig) -> PlainView:
    """What evaluation sees of a clip."""
    return PlainView(
        frame_stride=data.frame_stride,
        target_fps=data.target_fps,
        max_frames=data.max_frames,
        resize_px=data.resize_px,
        crop_px=data.crop_px,
    )


def drawn_views(config: Stage1Config | Stage2Config) -> DrawnViews:
    """What training sees of a clip."""
    data = config.data
    return DrawnViews(
        frame_stride=data.frame_stride,
        target_fps=data.target_fps,
        max_frames=data.max_frames,
        resize_px=data.resize_px,
        crop_px=data.crop_px,
        seed=config.seed,
        augment=data.augment,
        max_rotation_deg=data.max_rotation_deg,
        max_rescale_fraction=data.max_rescale_fraction,
        max_shift_fraction=data.max_shift_fraction,
    )


def cache_builder(
    config: Stage2Config,
    runtime: Runtime,
    split: Split,
    encoder: Encoder,
    *,
    kind: Literal["train", "evaluation"],
) -> CacheBuilder:
    """What makes, or finds, the features of a split as training or as evaluation sees it."""
    has_views = kind == "train" and config.features.num_views > 0
    return CacheBuilder(
        split=split,
        views=drawn_views(config) if has_views else plain_view(config.data),
        num_views=config.features.num_views if has_views else 0,
        encoder=encoder,
        input_features=config.model.input_features,
        cache_dir=Path(config.features.cache_dir or Path(config.run_dir).parent / "features"),
        data=config.data,
        leaves_out=kind == "train" and config.data.on_decode_error == "skip",
        runtime=runtime,
    )


def _cached_sources(
    config: Stage1Config | Stage2Config,
    runtime: Runtime,
    *,
    train: Split,
    dev: Split,
    encoder: Encoder | None,
) -> tuple[ClipSource, ClipSource] | None:
    if encoder is None or not isinstance(config, Stage2Config) or config.features.mode == "online":
        return None
    return (
        cache_builder(config, runtime, train, encoder, kind="train").open(),
        cache_builder(config, runtime, dev, encoder, kind="evaluation").open(),
    )


def _decoded(
    config: Stage1Config | Stage2Config,
    runtime: Runtime,
    split: Split,
    max_clips: int,
    views: PlainView,
) -> ClipSource:
    data = config.data
    return DecodedClips(
        root=split.root,
        views=views,
        runtime=runtime,
        max_clips=max_clips,
        frames_per_batch=data.frames_per_batch,
        num_threads=data.num_threads,
        # The other half is the other loader's: what is ready for training waits for dev's end.
        host_memory_gib=data.host_memory_gib / 2,
        full_frame_px=split.full_frame_px,
    )


def _train_loader(
    config: Stage1Config | Stage2Config,
    runtime: Runtime,
    split: Split,
    source: ClipSource,
    skipped: SkippedClips | None,
) -> TrainLoader:
    return TrainLoader(
        split.samples,
        source=source,
        lengths=plain_view(config.data).lengths(split.samples),
        token_ids=split.token_ids,
        runtime=runtime,
        seed=config.seed,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=config.train.micro_batch_size,
        frames_per_batch=config.data.frames_per_batch,
        shortest_first_epochs=config.train.shortest_first_epochs,
        # The statistics of batch normalization are of a micro-batch.
        like_sentences=isinstance(config, Stage2Config) and config.model.freeze == "all",
        prefetch_batches=config.data.prefetch_batches,
        skipped=skipped,
    )


def _eval_loader(
    config: Stage1Config | Stage2Config, runtime: Runtime, split: Split, source: ClipSource
) -> EvalLoader:
    return EvalLoader(
        split.samples,
        source=source,
        lengths=plain_view(config.data).lengths(split.samples),
        token_ids=split.token_ids,
        runtime=runtime,
        batch_size=config.beam.batch_size,
        frames_per_batch=config.data.frames_per_batch,
        prefetch_batches=config.data.prefetch_batches,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
