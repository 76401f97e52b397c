"""Where a hypothesis departs from its reference: by words, and by characters in Chinese."""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal, NamedTuple

Kind = Literal["same", "added", "missing"]

# Chinese, Japanese and full-width characters, which no blanks part.
_WIDE = r"\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"(\s*)([{_WIDE}]|[^\W{_WIDE}]+(?:['\u2019-][^\W{_WIDE}]+)*|[^\s{_WIDE}])")


class Piece(NamedTuple):
    """Neighboring words of one kind."""

    gap: str
    """Blank before it, or nothing."""
    text: str
    kind: Kind
    """In both; in the hypothesis alone; in the reference alone."""


class _Token(NamedTuple):
    has_blank: bool
    text: str


def mark(reference: str, hypothesis: str) -> tuple[Piece, ...]:
    """A hypothesis with what it lacks and what it adds, in reading order."""
    old, new = _cut(reference), _cut(hypothesis)
    marked = _compare(old, new)
    pieces: list[Piece] = []
    for kind, group in groupby(marked, key=lambda pair: pair[0]):
        tokens = [token for _, token in group]
        text = "".join(" " * token.has_blank + token.text for token in tokens).lstrip()
        pieces.append(Piece(_gap(pieces, tokens[0]), text, kind))
    return tuple(pieces)


def count_words(text: str) -> int:
    """Words, or characters where no blanks part them; punctuation does not count."""
    return sum(any(map(str.isalnum, token.text)) for token in _cut(text))


def is_wide(text: str) -> bool:
    """Whether a text is written without blanks, as Chinese is."""
    return re.search(f"[{_WIDE}]", text) is not None


def _compare(old: list[_Token], new: list[_Token]) -> Iterator[tuple[Kind, _Token]]:
    matcher = SequenceMatcher(
        None, [token.text for token in old], [token.text for token in new], autojunk=False
    )
    for action, old_begin, old_end, new_begin, new_end in matcher.get_opcodes():
        if action == "equal":
            yield from (("same", token) for token in new[new_begin:new_end])
            continue
        yield from (("missing", token) for token in old[old_begin:old_end])
        yield from (("added", token) for token in new[new_begin:new_end])


def _cut(text: str) -> list[_Token]:
    return [_Token(bool(blank), token) for blank, token in _TOKEN.findall(text)]


def _gap(before: list[Piece], first: _Token) -> str:
    if not before or is_wide(before[-1].text[-1]) or is_wide(first.text[0]):
        return " " if before and first.has_blank else ""
    # A word that takes the place of others would cling to them.
    clings = first.text[0].isalnum() and before[-1].kind == "missing"
    return " " if first.has_blank or clings else ""
