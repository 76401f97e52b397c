"""Annotations made with ELAN: where those of one tier begin and end."""

from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from pympi import Eaf

from fla.errors import DataError


def read_elan_times(path: Path, *, tier: str, video: Path) -> list[tuple[float, float]]:
    """Starts and ends of a tier's annotations, in seconds of a video.

    Args:
        path: An .eaf file.
        tier: Its name; empty: the only one with annotations.
        video: One of those that are annotated. Where ELAN was told to begin later in it, so do
            the annotations.

    Raises:
        DataError: The file is none of ELAN's, or the tier, or what is the video's beginning, is
            not there or not clear.
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
    origin = _find_origin(file, path, video)
    return [((start + origin) / 1000, (end + origin) / 1000) for start, end in times]


def _find_origin(file: Eaf, path: Path, video: Path) -> int:
    """The moment of the video, in milliseconds, at which the time of the annotations begins."""
    try:
        origins = {
            unquote(media["MEDIA_URL"]).rsplit("/", 1)[-1]: int(media.get("TIME_ORIGIN") or 0)
            for media in file.get_linked_files()
        }
    except (KeyError, ValueError) as error:
        raise _broken(path, error) from error
    # A video that was renamed may be any of them.
    possible = {origins[video.name]} if video.name in origins else {*origins.values()} or {0}
    if len(possible) > 1:
        raise DataError(
            f"{path} begins at different moments of {', '.join(origins)}, and none of these is "
            f"called {video.name}. Give the video the name that it has there."
        )
    return possible.pop()


def _open(path: Path) -> Eaf:
    try:
        # pympi tells what is no XML by a bare Exception.
        ElementTree.parse(path)
        # A path named "-" would be standard input to it.
        return Eaf(str(path.absolute()), suppress_version_warning=True)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is no file of ELAN ({error}). Open it in ELAN, and save it again.")
