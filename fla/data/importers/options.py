"""What a user may ask of every importer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fla.data.importers.tables import read_table
from fla.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Asked for on the command line; the same for all corpora."""

    labels: Mapping[str, Path] = field(default_factory=dict)
    """Label files in place of the annotation's sentences, by our name of the split; a split that
    is not named keeps its annotation."""
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Why a row is to be left out, by its id."""
    min_frames: int = 1
    """Clips of fewer frames are left out; at least 1."""
    repair_mojibake: bool = False
    """Whether train sentences that are UTF-8 read as Latin-1 are repaired; never dev or test."""


def read_exclusions(path: Path) -> dict[str, str]:
    """Read a list of ids to leave out: a TSV file whose first line is `id<TAB>reason`.

    Returns:
        The reasons by id.

    Raises:
        DataError: not such a file, or a row without id or reason or with the id of another.
        OSError: the file cannot be read.
    """
    reasons: dict[str, str] = {}
    lines: dict[str, int] = {}
    table = read_table(
        path,
        columns=("id", "reason"),
        delimiter="\t",
        advice="Let its first line be id, a tab, reason.",
    )
    for line, row in table:
        id, reason = row["id"], row["reason"].strip()
        if not id or not reason:
            raise DataError(
                f"{path}:{line}: {'reason' if id else 'id'} is empty. Name the row to leave out "
                "and say why."
            )
        if id in reasons:
            raise DataError(f"{path}:{line}: the id {id} is that of line {lines[id]}. Remove one.")
        reasons[id], lines[id] = reason, line
    return reasons
