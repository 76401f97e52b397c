"""The key of a feature cache: every fact that decides a feature, in words, and a hash of them.

Sentences are no such fact: other labels for the same clips keep their cache.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from fla.data.clips import PIXEL_RULE
from fla.data.feature_shards import DTYPE
from fla.data.manifest import Sample, fingerprint
from fla.data.stamps import stamp_recordings
from fla.data.views import PlainView

FORMAT_VERSION = 1

Facts = Mapping[str, str | int | float | bool]
"""By name; a name with a dot is a key of the configuration."""

_IN_WORDS = {
    "encoder": "other encoder weights",
    "samples": "other samples, or other clips for them",
    "recordings": "recordings that have changed since",
    "pixels": "other rules for decoding",
    "dtype": "numbers of another type",
    "format_version": "another format",
}
_NUM_VIEWS = "features.num_views"


def gather_facts(
    samples: Sequence[Sample],
    *,
    root: Path,
    views: PlainView,
    num_views: int,
    encoder_digest: str,
    input_features: str,
) -> Facts:
    """Everything that decides the features of a split.

    Args:
        samples: Of the split, after any dealing of videos.
        root: Folder that their videos are relative to; size and time of each are looked up.
        views: Frames and crops.
        num_views: Views of each clip; 0: the plain one.
        encoder_digest: Of the encoder's weights.
        input_features: Which of the encoder's features.
    """
    return {
        "format_version": FORMAT_VERSION,
        "encoder": encoder_digest,
        "model.input_features": input_features,
        "dtype": str(DTYPE).removeprefix("torch."),
        "pixels": PIXEL_RULE,
        "samples": _hash_samples(samples),
        "recordings": _hash_recordings({sample.video for sample in samples}, root),
        _NUM_VIEWS: num_views,
        **{_key_of(field.name): getattr(views, field.name) for field in fields(views)},
    }


def hash_facts(facts: Facts) -> str:
    """SHA-256, as hexadecimal: the key."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def describe_differences(theirs: Facts, ours: Facts) -> str:
    """Which facts of another cache differ from ours, such as "data.frame_stride was 4 and is 3"."""
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    # A plain view has no seed: nothing that is only on one side needs to be told.
    on_both = [name for name in names if name in theirs and name in ours] or names
    return ", ".join(
        _IN_WORDS.get(name, f"{name} was {theirs.get(name)} and is {ours.get(name)}")
        for name in on_both
    )


def _key_of(field: str) -> str:
    return field if field == "seed" else f"data.{field}"


def _hash_samples(samples: Sequence[Sample]) -> str:
    rows = (
        f"{s.id}\t{s.video}\t{s.start_s!r}\t{s.end_s!r}\t{s.fps!r}\t{s.num_frames}"
        for s in sorted(samples, key=lambda sample: sample.id)
    )
    return _hash_lines([str(fingerprint(samples)["ids_sha256"]), *rows])


def _hash_recordings(videos: Iterable[str], root: Path) -> str:
    stamps = stamp_recordings(sorted(videos), root)
    return _hash_lines(f"{video}\t{stamp}" for video, stamp in stamps.items())


def _hash_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
