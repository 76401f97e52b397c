"""One rank's part of a feature cache: clips are decoded, encoded, and written in shards."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fla.batch import Batch
from fla.config.schema import DataConfig
from fla.data.clips import DecodedClips
from fla.data.feature_shards import DTYPE, ShardIndex, ShardPlan, write_shard
from fla.data.features import CacheFolder
from fla.data.loader import ClipLoader
from fla.data.skipped import SkippedClips
from fla.data.views import PlainView
from fla.progress import Progress
from fla.runtime import Runtime
from fla.split import Split

log = logging.getLogger(__name__)


class Encoder(Protocol):
    """A frozen encoder."""

    def __call__(self, batch: Batch) -> Batch:
        """The same batch with features, bfloat16, in the place of its frames."""
        ...

    def digest(self) -> str:
        """SHA-256 of its weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShardEncoder:
    """Makes shards of a cache."""

    split: Split
    views: PlainView
    encoder: Encoder
    width: int
    """D, of a feature."""
    data: DataConfig
    """Says how to decode."""
    leaves_out: bool
    """Whether clips that do not decode are left out and listed, or end the build."""
    runtime: Runtime

    def write(self, folder: CacheFolder, plans: Sequence[ShardPlan]) -> None:
        """Encode and write shards.

        Args:
            folder: Of the cache; the shards are not in it yet.
            plans: What this rank is to make.

        Raises:
            DataError: A clip does not decode, or more than may be left out.
            DiskError: The disk is full, or not to be written to.
        """
        progress = Progress(
            f"encode {self.split.name}", total=sum(plan.num_clips for plan in plans), unit="clips",
            is_shown=self.runtime.is_main,
        )  # fmt: skip
        work = [(batch, plan.view) for plan in plans for batch in plan.batches]
        loader = self._open_loader(max_clips=max((len(batch) for batch, _ in work), default=1))
        with closing(loader), progress, closing(loader.read(work)) as batches:
            for plan in plans:
                index, features = self._encode(plan, batches, loader.skipped, progress)
                write_shard(folder.path, index, features, key=folder.key)

    def _open_loader(self, max_clips: int) -> ClipLoader:
        samples, data = self.split.samples, self.data
        return ClipLoader(
            samples,
            source=DecodedClips(
                root=self.split.root,
                views=self.views,
                runtime=self.runtime,
                max_clips=max_clips,
                frames_per_batch=data.frames_per_batch,
                num_threads=data.num_threads,
                host_memory_gib=data.host_memory_gib,
                full_frame_px=self.split.full_frame_px,
            ),
            lengths=self.views.lengths(samples),
            token_ids=self.split.token_ids,
            runtime=self.runtime,
            frames_per_batch=data.frames_per_batch,
            prefetch_batches=data.prefetch_batches,
            skipped=SkippedClips(len(samples), max_fraction=data.max_skipped_fraction)
            if self.leaves_out
            else None,
        )

    def _encode(
        self,
        plan: ShardPlan,
        batches: Iterator[Batch],
        skipped: SkippedClips | None,
        progress: Progress,
    ) -> tuple[ShardIndex, Tensor]:
        features = torch.empty(plan.num_frames, self.width, dtype=DTYPE)
        ids: list[str] = []
        lengths: list[int] = []
        for planned in plan.batches:
            batch = next(batches)
            if not batch.is_blank:
                begin = sum(lengths)
                ids += batch.sample_ids
                lengths += batch.frame_lengths.tolist()
                encoded = self.encoder(batch.to(self.runtime.device)).features
                assert encoded is not None
                features[begin : sum(lengths)].copy_(encoded)
            progress.advance(len(planned))
        left_out = self._left_out(plan, ids, skipped)
        index = ShardIndex(
            name=plan.name,
            view=plan.view,
            ids=tuple(ids),
            lengths=tuple(lengths),
            left_out=left_out,
        )
        return index, features[: sum(lengths)]

    def _left_out(
        self, plan: ShardPlan, ids: Sequence[str], skipped: SkippedClips | None
    ) -> dict[str, str]:
        if skipped is None:
            return {}
        for reason in skipped.new.values():
            log.warning("Left out: %s", reason)
        skipped.merge(skipped.new)
        planned = [self.split.samples[number].id for batch in plan.batches for number in batch]
        return {id: skipped.all[id] for id in planned if id not in set(ids)}
