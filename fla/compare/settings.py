"""Settings of runs side by side: only the keys in which they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Where a run is written and recorded differs always, and says nothing of the model.
_PLACES = ("run_dir", "resume", "tracking.uri", "tracking.experiment", "tracking.pipeline")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key and what each run has there."""

    key: str
    values: tuple[str | None, ...]
    """One a run; None: the run has no such key."""


def find_differences(configs: Sequence[Mapping[str, str]]) -> tuple[Difference, ...]:
    """The keys in which runs differ; those that at least two of them have come first.

    Args:
        configs: By run, in order. A run of which nothing is known is no difference.
    """
    known = [config for config in configs if config]
    keys = dict.fromkeys(key for config in configs for key in config if key not in _PLACES)
    different = [
        Difference(key=key, values=tuple(config.get(key) for config in configs))
        for key in keys
        if len({config.get(key) for config in known}) > 1
    ]
    return tuple(
        sorted(different, key=lambda it: sum(value is not None for value in it.values) < 2)
    )
