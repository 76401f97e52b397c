"""Features of a frozen encoder, read from a cache in the place of decoding and encoding.

`cache.json` says what the folder is a cache of, and, when it is whole, which shards hold which
clips. Shards are mapped, not read: the ranks of a machine share their pages, and packing clips into
a batch is the only copy.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fla.data.clips import Clips
from fla.data.feature_key import Facts, describe_differences, hash_facts
from fla.data.feature_shards import DTYPE, ShardIndex, describe_size, index_from, open_shard
from fla.data.manifest import Sample
from fla.data.pipeline import ClipError
from fla.errors import CheckpointError

CACHE_JSON = "cache.json"
FORMAT = "fla-llm-features"
_KEY_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class CacheFolder:
    """Where the features of a split lie, whether they are there or not."""

    path: Path
    facts: Facts

    @property
    def key(self) -> str:
        """Hash of the facts."""
        return hash_facts(self.facts)

    @property
    def json(self) -> Path:
        return self.path / CACHE_JSON

    def read_shards(self) -> tuple[ShardIndex, ...] | None:
        """What the shards hold; None: the cache is not whole, or there is none.

        Raises:
            CheckpointError: cache.json is damaged, or of another cache.
        """
        if not self.json.exists():
            return None
        content = read_cache_json(self.json)
        if content is None:
            raise CheckpointError(
                f"{self.json} is damaged. Delete it, and start again: its shards are used."
            )
        if content["facts"] != dict(self.facts):
            raise CheckpointError(
                f"{self.json} is that of another cache: "
                f"{describe_differences(content['facts'], self.facts)}. Delete {self.path}, and "
                "start again."
            )
        shards = content["shards"]
        return None if shards is None else tuple(map(index_from, shards))


def folder_of(cache_dir: Path, split: str, facts: Facts) -> CacheFolder:
    """Where the features of a split belong: a folder for every key."""
    return CacheFolder(path=cache_dir / f"{split}-{hash_facts(facts)[:_KEY_DIGITS]}", facts=facts)


def read_cache_json(path: Path) -> dict[str, Any] | None:
    """`facts` and `shards` of a cache.json, shards being None while it is built; None: damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        shards = content["shards"]
        if content["format"] != FORMAT or not isinstance(content["facts"], dict):
            return None
        if shards is not None:
            list(map(index_from, shards))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {"facts": content["facts"], "shards": shards}


class _Place(NamedTuple):
    """Of one clip: rows of a shard."""

    shard: int
    begin: int
    end: int


class CachedFeatures:
    """A source of clips for loaders: their features in the place of their frames.

    Args:
        folder: For messages.
        shards: Features and index of each shard.
        num_views: Views of each clip; epoch e sees view e modulo this.
    """

    def __init__(
        self, folder: Path, shards: Sequence[tuple[ShardIndex, Tensor]], *, num_views: int
    ) -> None:
        self._folder = folder
        # Megabytes, where frames would be gigabytes: the loader's number of batches is enough.
        self.max_waiting_frames = sys.maxsize
        self._features = [features for _, features in shards]
        self._places: list[dict[str, _Place]] = [{} for _ in range(num_views)]
        self._left_out: list[dict[str, str]] = [{} for _ in range(num_views)]
        for number, (index, _) in enumerate(shards):
            self._left_out[index.view] |= index.left_out
            end = 0
            for id, length in zip(index.ids, index.lengths, strict=True):
                self._places[index.view][id] = _Place(number, end, end + length)
                end += length

    @property
    def summary(self) -> str:
        """What is there, in a sentence."""
        num_clips = len(set().union(*self._places))
        size = describe_size(sum(features.nbytes for features in self._features))
        num_views = len(self._places)
        views = f" in {num_views} views each" if num_views > 1 else ""
        left_out = set().union(*self._left_out)
        without = f"; {len(left_out)} do not decode and have none" if left_out else ""
        return f"features of {num_clips} clips{views}, {size}, are in {self._folder}{without}."

    def read(self, samples: Sequence[Sample], *, epoch: int) -> Clips:
        """Features of clips, bfloat16, packed.

        Raises:
            ClipError: One did not decode when the cache was made.
        """
        view = epoch % len(self._places)
        places = [self._place(sample.id, view) for sample in samples]
        pieces = [self._features[shard][begin:end] for shard, begin, end in places]
        return Clips(
            lengths=torch.tensor([end - begin for _, begin, end in places]),
            features=torch.cat(pieces),
        )

    def blank(self, num_frames: int) -> Clips:
        """A clip of zeros."""
        width = self._features[0].shape[1]
        features = torch.zeros(num_frames, width, dtype=DTYPE)
        return Clips(lengths=torch.tensor([num_frames]), features=features)

    def close(self) -> None:
        """Let the files go."""
        self._features.clear()

    def _place(self, id: str, view: int) -> _Place:
        if id in self._left_out[view]:
            reason = self._left_out[view][id]
            raise ClipError(id, reason.removeprefix(f"{id}: "))
        return self._places[view][id]


def open_features(
    folder: CacheFolder, *, num_views: int, rank: int, world_size: int
) -> CachedFeatures:
    """Open a whole cache; the ranks share the work of comparing its bytes with the checksums.

    Args:
        folder: Of the cache.
        num_views: At least 1.
        rank: Of this process.
        world_size: Number of ranks.

    Raises:
        CheckpointError: A shard is missing, damaged, or of another cache.
    """
    indexes = folder.read_shards()
    if indexes is None:
        raise CheckpointError(f"{folder.path} is not whole. Make it with tools/cache_features.py.")
    shards = [
        (index, open_shard(folder.path, index, key=folder.key, check=turn % world_size == rank))
        for turn, index in enumerate(indexes)
    ]
    return CachedFeatures(folder.path, shards, num_views=num_views)


def cache_content(facts: Facts, shards: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """What a cache.json holds; shards are None while they are built."""
    return {"format": FORMAT, "key": hash_facts(facts), "facts": dict(facts), "shards": shards}
