"""Coverage: what a trimmed vocabulary makes of sentences, beside the whole one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fla.text.codec import TextCodec, normalize_sentence

# Longer than any sentence: here nothing is cut off or refused for its length.
_ANY_LENGTH = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What a tokenizer makes of the sentences of a split."""

    num_pieces: int
    """Tokens without `</s>` and language code; `<unk>` counts as one."""
    num_distinct_pieces: int
    """Different ones among them."""
    num_unknown: int
    """`<unk>` among them."""

    @property
    def unknown_fraction(self) -> float:
        """Part of the pieces that is `<unk>`, in [0, 1]."""
        return self.num_unknown / max(1, self.num_pieces)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The sentences of a split under the whole and the trimmed tokenizer."""

    num_sentences: int
    num_words: int
    """Words are what spaces separate."""
    whole: Cut
    trimmed: Cut
    num_changed: int
    """Sentences that the two cut differently."""
    unknown_characters: str
    """Those that the trimmed one has no piece for, in sentences with `<unk>`; sorted, each once."""

    def as_json(self) -> dict[str, Any]:
        """Counts as plain values, and the fractions that follow from them."""
        fractions = {
            "unknown_fraction": self.trimmed.unknown_fraction,
            "unknown_fraction_whole": self.whole.unknown_fraction,
            "pieces_per_word": self.trimmed.num_pieces / max(1, self.num_words),
            "pieces_per_word_whole": self.whole.num_pieces / max(1, self.num_words),
        }
        return {**asdict(self), **fractions}


def encode_pieces(codec: TextCodec, sentences: Sequence[str]) -> list[list[int]]:
    """Ids of each sentence without those at its end; errors as of `TextCodec.encode`."""
    num_ends = len(codec.end_ids)
    return [ids[:-num_ends] for ids in codec.encode(sentences, max_tokens=_ANY_LENGTH)]


def measure_coverage(
    sentences: Sequence[str],
    *,
    whole: TextCodec,
    trimmed: TextCodec,
    old_ids: Sequence[int],
    unknown_id: int,
    characters: frozenset[str],
) -> Coverage:
    """Encode sentences with both tokenizers and compare.

    Args:
        sentences: Of a split.
        whole: Codec before trimming.
        trimmed: Codec after it.
        old_ids: Id of `whole` for each id of `trimmed`.
        unknown_id: Of `<unk>` in `whole`.
        characters: Those that `trimmed` has as pieces.

    Raises:
        DataError: A sentence spells out a control token.
    """
    before = encode_pieces(whole, sentences)
    after = [[old_ids[i] for i in ids] for ids in encode_pieces(trimmed, sentences)]
    words = [normalize_sentence(sentence).split() for sentence in sentences]
    in_doubt = (w for w, ids in zip(words, after, strict=True) if unknown_id in ids)
    return Coverage(
        num_sentences=len(sentences),
        num_words=sum(map(len, words)),
        whole=_count(before, unknown_id),
        trimmed=_count(after, unknown_id),
        num_changed=sum(b != a for b, a in zip(before, after, strict=True)),
        unknown_characters="".join(sorted({c for w in in_doubt for c in "".join(w)} - characters)),
    )


def coverage_table(splits: Mapping[str, Coverage]) -> str:
    """A line a split, for people; arrows lead from the whole to the trimmed tokenizer."""
    head = f"{'split':<6}{'sentences':>10}{'words':>10}{'pieces a word':>20}{'unknown':>22}"
    rows = [f"{head}{'cut differently':>17}"]
    for name, split in splits.items():
        values = split.as_json()
        words = f"{values['pieces_per_word_whole']:.3f} -> {values['pieces_per_word']:.3f}"
        unknown = f"{split.whole.unknown_fraction:.3%} -> {split.trimmed.unknown_fraction:.3%}"
        rows.append(
            f"{name:<6}{split.num_sentences:>10,}{split.num_words:>10,}{words:>20}{unknown:>22}"
            f"{split.num_changed:>17,}"
        )
    return "\n".join(rows)


def _count(pieces: Sequence[Sequence[int]], unknown_id: int) -> Cut:
    return Cut(
        num_pieces=sum(map(len, pieces)),
        num_distinct_pieces=len({i for ids in pieces for i in ids}),
        num_unknown=sum(ids.count(unknown_id) for ids in pieces),
    )
