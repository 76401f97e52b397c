"""Trimming: which tokens of mBART's vocabulary a corpus needs, and a tokenizer of those alone.

Pieces keep their scores and their order. A sentence is cut into the pieces of the highest total
score; where all of them are kept they stay the best, so that text whose pieces were chosen is cut
as before.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import MBartTokenizer


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """All tokens of a tokenizer."""

    pieces: tuple[tuple[str, float], ...]
    """Each with its score, in the order of the ids."""
    control_ids: frozenset[int]
    """`<s>`, `<pad>`, `</s>`, `<unk>`, `<mask>` and the language codes."""
    unknown_id: int
    """Of `<unk>`."""


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary of a folder that `fla.text.codec.read_codec` has accepted."""
    tokenizer = MBartTokenizer.from_pretrained(folder, local_files_only=True)
    rows = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    return Vocabulary(
        pieces=tuple((piece, score) for piece, score in rows),
        control_ids=frozenset(tokenizer.all_special_ids),
        unknown_id=tokenizer.unk_token_id,
    )


def choose_pieces(vocabulary: Vocabulary, used_ids: Collection[int]) -> tuple[int, ...]:
    """Keep what a text uses, and what spells the words that it lacks.

    Args:
        vocabulary: Of the whole tokenizer.
        used_ids: Ids that occur in the text.

    Returns:
        Ids to keep, ascending: the used ones, control tokens, and every piece of one character,
        without which a new word would be unknown.
    """
    # What an unknown character costs hangs on the lowest score of the vocabulary: without that
    # piece, sentences with such a character might be cut in another way.
    lowest = min(range(len(vocabulary.pieces)), key=lambda i: vocabulary.pieces[i][1])
    return tuple(sorted({*used_ids, *choose_characters(vocabulary), lowest}))


def choose_characters(vocabulary: Vocabulary) -> tuple[int, ...]:
    """Keep pieces of one character alone, so that sentences are cut into characters.

    Returns:
        Ids to keep, ascending: those pieces, the word boundary among them, and control tokens.
    """
    characters = {i for i, (piece, _) in enumerate(vocabulary.pieces) if len(piece) == 1}
    return tuple(sorted(characters | vocabulary.control_ids))


def save_tokenizer(folder: Path, pieces: Sequence[tuple[str, float]], *, language: str) -> None:
    """Write a tokenizer of these pieces in Hugging Face format.

    Args:
        folder: Made where it is missing.
        pieces: With their scores, control tokens and all language codes among them.
        language: mBART's code of the language that it speaks at first.
    """
    tokenizer = MBartTokenizer(vocab=list(pieces), src_lang=language, tgt_lang=language)
    tokenizer.save_pretrained(folder)
