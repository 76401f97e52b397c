"""Subtitles: the time stamps of those that there are, and files of new ones."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pysubs2

from fla.errors import DataError

SUBTITLE_ENDINGS = {".srt": "srt", ".vtt": "vtt"}
"""Formats by the ending of a file's name."""

# Nobody sees it, and players do not take what it stands in for markup.
_JOINER = "\N{WORD JOINER}"


class Subtitle(NamedTuple):
    """A sentence on the screen."""

    start_s: float
    end_s: float
    text: str


def read_subtitle_times(path: Path) -> list[tuple[float, float]]:
    """Starts and ends of a file's subtitles, in seconds.

    Raises:
        DataError: The file is not UTF-8, or one of its time stamps cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}). Save it as UTF-8.") from error
    kind = SUBTITLE_ENDINGS[path.suffix.lower()]
    events = pysubs2.SSAFile.from_string(text, format_=kind).events
    # A line whose time stamps it cannot read is text of the subtitle before it, for pysubs2.
    arrows = [number for number, line in enumerate(text.splitlines(), 1) if "-->" in line]
    if len(arrows) != len(events):
        raise DataError(
            f"{path}: {len(arrows)} lines have an arrow (-->), the first of them line "
            f"{arrows[0] if arrows else 0}, but {len(events)} have two time stamps as {kind} "
            "writes them. Correct the others."
        )
    return [(event.start / 1000, event.end / 1000) for event in events]


def format_subtitles(subtitles: Iterable[Subtitle], *, kind: str) -> str:
    """A file of subtitles.

    Args:
        subtitles: In the order of their starts.
        kind: srt or vtt.
    """
    escape = _escape_vtt if kind == "vtt" else _escape_srt
    file = pysubs2.SSAFile()
    file.events = [
        pysubs2.SSAEvent(
            start=round(1000 * subtitle.start_s),
            end=round(1000 * subtitle.end_s),
            # An empty line would end the subtitle.
            text=escape(" ".join(subtitle.text.split())),
        )
        for subtitle in subtitles
    ]
    # Braces are what a sentence has, and no tags.
    return file.to_string(kind, keep_ssa_tags=True)


def _escape_vtt(text: str) -> str:
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, name)
    return _break(text, ("\\",))


def _escape_srt(text: str) -> str:
    # The format has no escapes.
    return _break(text, ("\\", "<", "--"))


def _break(text: str, signs: Sequence[str]) -> str:
    for sign in signs:
        text = text.replace(sign, sign + _JOINER)
    return text
