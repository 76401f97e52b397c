"""What a protocol does to a text before it is counted."""

import unicodedata
from collections.abc import Sequence

from fla.metrics.protocols import Protocol

# The word list of reduced BLEU, from the code of Tarres et al., "Sign Language Translation from
# Instructional Videos" (2023), MIT licence, (c) 2023 Image Processing Group - BarcelonaTECH - UPC:
# the 145 most frequent words of How2Sign that say little about its topics.
_FREQUENT = """
the to and you a of that is it in your going this so on i have can with are just we be want for do
if or up it's as you're like get one i'm now what little out then make here go but not about we're
when they all there my will at how some right back really use very down don't that's because our way
from them take more put an into sure bit also these would know off lot over time which thing other
where again any actually has come there's through by her much their those they're he might me you'll
could you've than was let's should we'll i've his end able doesn't many every we've each does been
him i'll yourself am had she were while its who he's why already either us whatever did she's can't
cause what's
""".split()
# The list has each word once more, as a sentence begins with it; one of them with a slip.
_CAPITALISED = [f"{word[0].upper()}{word[1:]}".replace("Was", "Cas") for word in _FREQUENT]
FREQUENT_WORDS = (*_FREQUENT, *_CAPITALISED)
"""The 290 entries, in their order."""
_LEFT_OUT = frozenset(FREQUENT_WORDS)
# All of ASCII but the apostrophe.
_PUNCTUATION = str.maketrans("", "", r"""!"#$%&\()*+,-./:;<=>?@[\]^_`{|}~""")


def prepare(text: str, protocol: Protocol) -> str:
    """A text as the protocol counts it."""
    if protocol.nfkc:
        text = unicodedata.normalize("NFKC", text)
    if protocol.lowercase:
        text = text.lower()
    if protocol.reduced:
        text = " ".join(reduce_words(text))
    if protocol.characters:
        text = " ".join("".join(text.split()))
    if protocol.period and not text.endswith(" ."):
        text = f"{text} ."
    return text


def prepare_pairs(
    hypotheses: Sequence[str], references: Sequence[str], protocol: Protocol
) -> tuple[list[str], list[str]]:
    """Hypotheses and references as the protocol counts them.

    Reduced BLEU leaves out pairs of whose reference, or of whose hypothesis, nothing is left, as
    its authors do; every other protocol keeps all.
    """
    pairs = [
        (prepare(hypothesis, protocol), prepare(reference, protocol))
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    if protocol.reduced:
        # As published: a hypothesis all of whose words are frequent counts, one without words
        # does not.
        pairs = [
            (reduced, reference)
            for (reduced, reference), hypothesis in zip(pairs, hypotheses, strict=True)
            if reference and (reduced or not reduce_words(hypothesis))
        ]
    return [hypothesis for hypothesis, _ in pairs], [reference for _, reference in pairs]


def reduce_words(text: str) -> list[str]:
    """The words that reduced BLEU counts: without punctuation, and not those on the list.

    Case counts: `THE` is on no list, and stays.
    """
    words = text.translate(_PUNCTUATION).split(" ")
    return [word for word in words if word not in _LEFT_OUT]
