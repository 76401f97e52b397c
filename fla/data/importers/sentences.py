"""Texts that are not what somebody wrote, or that no manifest can hold."""

import csv
import re

# NUL ends a text for many programs; surrogates stand for bytes that were not UTF-8.
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


def is_mojibake(sentence: str) -> bool:
    """Whether a sentence is UTF-8 that somebody read as Latin-1 and saved as UTF-8 again."""
    return repair_mojibake(sentence) != sentence


def repair_mojibake(sentence: str) -> str:
    """The sentence as it was before somebody read its UTF-8 as Latin-1; others as they are."""
    try:
        return sentence.encode("latin-1").decode()
    except UnicodeError:
        return sentence


def find_text_fault(text: str) -> str | None:
    """Why no manifest can hold a text, as the end of a sentence."""
    # Readers of tables refuse more in one value.
    if len(text) > csv.field_size_limit():
        return f"has {len(text)} characters, more than {csv.field_size_limit()}"
    bad = _UNWRITABLE.search(text)
    return f"has U+{ord(bad[0]):04X} at character {bad.start() + 1}" if bad else None
