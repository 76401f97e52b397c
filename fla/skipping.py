"""Ranks agree on the training clips that are left out, and rank 0 lists them."""

import logging

from torch import distributed

from fla.data.skipped import SkippedClips
from fla.run_folder import RunFolder, write_atomically
from fla.runtime import Runtime
from fla.tracking import Tracker

log = logging.getLogger(__name__)


def share_skipped(
    skipped: SkippedClips, *, run_folder: RunFolder, tracker: Tracker, runtime: Runtime
) -> None:
    """Tell all ranks what each of them has left out, and write the list; every rank calls it.

    Args:
        skipped: Of this rank; afterwards it holds the same on all ranks.
        run_folder: Gets `skipped_clips.tsv`, an id and a reason a line.
        tracker: Gets the same file.
        runtime: Of this rank.

    Raises:
        DataError: More is left out than the run allows; the list has been written.
    """
    shares: list[dict[str, str]] = [{}] * runtime.world_size
    distributed.all_gather_object(shares, skipped.new)
    found = {id: reason for share in shares for id, reason in share.items()}
    try:
        skipped.merge(found)
    finally:
        if runtime.is_main and found:
            for reason in found.values():
                log.warning("Left out: %s", reason)
            lines = [f"{id}\t{reason}\n" for id, reason in skipped.all.items()]
            write_atomically(run_folder.skipped_tsv, "".join(lines))
            tracker.log_artifact(run_folder.skipped_tsv)
