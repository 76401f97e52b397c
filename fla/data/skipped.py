"""Clips of the training split that are left out because they do not decode, on all ranks alike."""

import threading
from collections.abc import Mapping

from fla.errors import DataError


class SkippedClips:
    """What has been left out so far, and the bound at which a run ends.

    A rank adds what it could not decode. Ranks exchange what is new now and then and merge it, so
    that from then on none of them tries it again.

    Args:
        num_samples: Of the split.
        max_fraction: Largest fraction of the split that may be left out.
    """

    def __init__(self, num_samples: int, *, max_fraction: float) -> None:
        self._num_samples = num_samples
        self._max_fraction = max_fraction
        self._reasons: dict[str, str] = {}
        self._new: dict[str, str] = {}
        # The loader's thread adds, the training loop takes.
        self._lock = threading.Lock()

    def __contains__(self, sample_id: str) -> bool:
        with self._lock:
            return sample_id in self._reasons or sample_id in self._new

    def add(self, sample_id: str, reason: str) -> None:
        """Leave a clip out from now on; `reason` is the sentence of its error."""
        with self._lock:
            self._new[sample_id] = reason

    @property
    def new(self) -> dict[str, str]:
        """What this rank has added and not merged yet: reason by id."""
        with self._lock:
            return dict(self._new)

    @property
    def all(self) -> dict[str, str]:
        """What has been merged: reason by id, sorted by id."""
        with self._lock:
            return dict(sorted(self._reasons.items()))

    def merge(self, found: Mapping[str, str]) -> None:
        """Take over what all ranks have found, this one's own included.

        Raises:
            DataError: more than `max_fraction` of the split is left out now.
        """
        with self._lock:
            self._reasons |= {id: why for id, why in found.items() if id not in self._reasons}
            self._new = {id: why for id, why in self._new.items() if id not in found}
            count, total = len(self._reasons), self._num_samples
        if count > self._max_fraction * total:
            raise DataError(
                f"{count} of {total} training clips do not decode, more than "
                f"data.max_skipped_fraction ({self._max_fraction:g}) allows; the last is "
                f"{list(found.values())[-1]} `python tools/check_data.py` finds them all."
            )
