"""Annotations made with ELAN: where those of one tier begin and end."""

from pathlib import Path
from xml.etree import ElementTree

from pympi import Eaf

from fla.errors import DataError


def read_elan_times(path: Path, *, tier: str) -> list[tuple[float, float]]:
    """Starts and ends of a tier's annotations, in seconds.

    Args:
        path: An .eaf file.
        tier: Its name; empty: the only one with annotations.

    Raises:
        DataError: The file is none of ELAN's, or the tier is not there or not clear.
    """
    file = _open(path)
    # Read of each tier what stands in it; those that refer to another have the times of that.
    rows = {name: file.get_annotation_data_for_tier(name) for name in file.get_tier_names()}
    filled = {name: found for name, found in rows.items() if found}
    names = ", ".join(f"{name} ({len(found)})" for name, found in filled.items()) or "none"
    if tier and tier not in rows:
        raise DataError(f"{path} has no tier {tier}. Tiers with annotations: {names}.")
    if not tier and len(filled) != 1:
        raise DataError(
            f"{path} does not have one tier with annotations, but these: {names}. Name the one "
            "whose annotations are sentences with --tier."
        )
    chosen = tier or next(iter(filled))
    times = [row[:2] for row in rows[chosen]]
    if any(None in row for row in times):
        raise DataError(
            f"{path}: tier {chosen} has annotations without a time of their own. Name the tier "
            "that it divides with --tier."
        )
    return [(start / 1000, end / 1000) for start, end in times]


def _open(path: Path) -> Eaf:
    try:
        # pympi tells what is no XML by a bare Exception.
        ElementTree.parse(path)
        # A path named "-" would be standard input to it.
        return Eaf(str(path.absolute()), suppress_version_warning=True)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(
            f"{path} is no file of ELAN ({error}). Open it in ELAN, and save it again."
        ) from error
