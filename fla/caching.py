"""Make feature caches: the frozen encoder runs once over a split, on all ranks, shard by shard.

A build that was stopped goes on: a shard that is there is not made again. `cache.json` is written
first, to say what is being built, and last, with the index of all shards: only then is it whole.
"""

import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from fla.arrival import see_what_main_sees, wait_for_files
from fla.batch import Batch, pad_labels
from fla.config.schema import DataConfig
from fla.data.feature_key import describe_differences, gather_facts
from fla.data.feature_shards import (
    DTYPE,
    ShardPlan,
    describe_size,
    plan_shards,
    read_index,
)
from fla.data.features import (
    CACHE_JSON,
    CachedFeatures,
    CacheFolder,
    cache_content,
    folder_of,
    open_features,
    read_cache_json,
)
from fla.data.views import PlainView
from fla.errors import CheckpointError, DataError
from fla.lock import hold_lock
from fla.run_folder import write_json
from fla.runtime import Runtime, ask_main
from fla.shard_encoder import Encoder, ShardEncoder
from fla.split import Split

log = logging.getLogger(__name__)

_LOCK = "lock"
# A rank may have a shard left when the others are done, however long one takes.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class CacheBuilder:
    """Makes the cache of one split, or finds it."""

    split: Split
    views: PlainView
    num_views: int
    """Of each clip; 0: the plain one."""
    encoder: Encoder
    input_features: str
    """Which of the encoder's features these are."""
    cache_dir: Path
    data: DataConfig
    """Says how to decode."""
    leaves_out: bool
    """Whether clips that do not decode are left out and listed, or end the build."""
    runtime: Runtime

    def open(self) -> CachedFeatures:
        """Build what is missing, and open the cache; every rank calls it.

        Raises:
            DataError: A clip does not decode, or the disk has too little room.
            CheckpointError: What is there is damaged or of another cache, or cannot be written.
        """
        runtime = self.runtime
        with ExitStack() as held:
            folder, is_whole = ask_main(runtime, self._find)
            if not is_whole:
                self._build(folder, held)
        see_what_main_sees(folder.path, runtime)
        features = open_features(
            folder,
            num_views=max(1, self.num_views),
            rank=runtime.rank,
            world_size=runtime.world_size,
        )
        end = " There was nothing left to encode." if is_whole else ""
        log.info("%s: %s%s", self._name, features.summary, end)
        return features

    @property
    def _name(self) -> str:
        return self.split.name

    @cached_property
    def _plans(self) -> list[ShardPlan]:
        return plan_shards(
            self.split.samples,
            views=self.views,
            num_views=max(1, self.num_views),
            width=self._width,
            frames_per_batch=self.data.frames_per_batch,
        )

    @cached_property
    def _width(self) -> int:
        """D: what the encoder makes of a gray frame tells it."""
        size = self.views.crop_px
        batch = Batch(
            sample_ids=("",),
            references=("",),
            frame_lengths=torch.tensor([1]),
            labels=pad_labels([[0]]),
            frames=torch.zeros(1, 3, size, size),
        )
        features = self.encoder(batch.to(self.runtime.device)).features
        assert features is not None
        return features.shape[1]

    def _find(self) -> tuple[CacheFolder, bool]:
        """The folder, and whether all is in it; says which others are of no use."""
        facts = gather_facts(
            self.split.samples,
            root=self.split.root,
            views=self.views,
            num_views=self.num_views,
            encoder_digest=self.encoder.digest(),
            input_features=self.input_features,
        )
        folder = folder_of(self.cache_dir, self._name, facts)
        for path in sorted(self.cache_dir.glob(f"{self._name}-*/{CACHE_JSON}")):
            other = read_cache_json(path)
            if path != folder.json and other is not None:
                log.info(
                    "%s is of no use here: %s. Delete it, unless another run has use for it.",
                    path.parent,
                    describe_differences(other["facts"], facts),
                )
        return folder, folder.read_shards() is not None

    def _build(self, folder: CacheFolder, held: ExitStack) -> None:
        plans = self._plans
        missing = set(ask_main(self.runtime, lambda: self._prepare(folder, held)))
        rank, world_size = self.runtime.rank, self.runtime.world_size
        waiting = [plan for plan in plans if plan.name in missing]
        shards = ShardEncoder(
            split=self.split,
            views=self.views,
            encoder=self.encoder,
            width=self._width,
            data=self.data,
            leaves_out=self.leaves_out,
            runtime=self.runtime,
        )
        shards.write(folder, waiting[rank::world_size])
        _wait_for_all()
        ask_main(self.runtime, lambda: self._finish(folder))

    def _prepare(self, folder: CacheFolder, held: ExitStack) -> list[str]:
        """Names of the shards to make; says what they will take, and leaves the folder locked."""
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            busy = DataError(
                f"{folder.path}: another run is encoding there. Start again when it has ended."
            )
            held.enter_context(hold_lock(folder.path / _LOCK, otherwise=busy))
            # What a killed build was writing.
            for unfinished in folder.path.glob(".*.safetensors.*"):
                unfinished.unlink()
            missing = [plan for plan in self._plans if not self._is_made(folder, plan)]
            if len(missing) < len(self._plans):
                log.info(
                    "%s is not whole: building goes on, %d of %d shards are there.",
                    folder.path, len(self._plans) - len(missing), len(self._plans),
                )  # fmt: skip
            self._check_space(folder.path, missing)
            write_json(folder.json, cache_content(folder.facts, None))
        except OSError as error:
            raise _unwritable(folder.path, error) from error
        return [plan.name for plan in missing]

    def _is_made(self, folder: CacheFolder, plan: ShardPlan) -> bool:
        if not (folder.path / plan.name).exists():
            return False
        try:
            index = read_index(folder.path, plan.name, key=folder.key)
        except CheckpointError as error:
            log.warning("%s", error)
            return False
        ids = {self.split.samples[number].id for batch in plan.batches for number in batch}
        # Other batches a pass make the same shard of it.
        return {*index.ids, *index.left_out} == ids and index.view == plan.view

    def _check_space(self, folder: Path, missing: Sequence[ShardPlan]) -> None:
        num_frames = sum(plan.num_frames for plan in missing)
        needed = num_frames * self._width * DTYPE.itemsize
        log.info(
            "%s: %d clips with %d frames are to be encoded, %s on disk, in %s.",
            self._name, sum(plan.num_clips for plan in missing), num_frames,
            describe_size(needed), folder,
        )  # fmt: skip
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise DataError(
                f"{folder}: the features of {self._name} need {describe_size(needed)}, and "
                f"{describe_size(free)} are free. Make room, or name another features.cache_dir."
            )

    def _finish(self, folder: CacheFolder) -> None:
        wait_for_files(folder.path, {plan.name: None for plan in self._plans})
        shards = [read_index(folder.path, plan.name, key=folder.key) for plan in self._plans]
        try:
            write_json(
                folder.json, cache_content(folder.facts, [asdict(shard) for shard in shards])
            )
        except OSError as error:
            raise _unwritable(folder.path, error) from error


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{folder}: the features cannot be written ({error.strerror}). Make room, or name another "
        "features.cache_dir."
    )


def _wait_for_all() -> None:
    # The usual group gives up after minutes.
    group: Any = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    distributed.barrier(group)
    distributed.destroy_process_group(group)
