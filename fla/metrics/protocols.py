"""Named scoring protocols: what is done to a text before it is counted, and how it is counted.

The same outputs score between 13 and 16 BLEU-4 by convention alone, so every number belongs to one
of these, and its signature says which.
"""

from dataclasses import dataclass

from fla.errors import ConfigError

ROUGE_BETA = 1.2
"""Weight of recall in ROUGE-L: MS-COCO's caption metric, which sign language translation uses."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One convention, as a value. What it does to a text is done to both sides alike."""

    name: str
    version: int = 1
    """Rises when the same texts would get another score."""
    description: str
    """Who scores like this, in a line."""
    nfkc: bool = False
    """Write full-width punctuation and digits as half-width ones (Unicode NFKC)."""
    lowercase: bool = False
    period: bool = False
    """End every sentence with a period of its own, ` .`."""
    characters: bool = False
    """Take every character for a word; what blanks there were is left out."""
    reduced: bool = False
    """Leave out punctuation and frequent words: see `preparation.reduce_words`."""
    tokenize: str = "13a"
    """sacrebleu's tokenizer, for BLEU."""
    smooth: str = "exp"
    """sacrebleu's smoothing of BLEU."""
    effective_order: bool = False

    @property
    def preparation(self) -> str:
        """What is done to a text, for signatures: words joined by `+`."""
        steps = {
            "nfkc": self.nfkc,
            "lowercase": self.lowercase,
            "reduced": self.reduced,
            "characters": self.characters,
            "period": self.period,
        }
        return "+".join(name for name, is_taken in steps.items() if is_taken) or "none"


_ALL = (
    Protocol(name="text", description="any language with blanks between words, as it is"),
    Protocol(
        name="phoenix14t",
        description="PHOENIX14T, gloss-free papers since GFSLT-VLP: lower case, no period",
        lowercase=True,
    ),
    Protocol(
        name="phoenix14t-period",
        description="PHOENIX14T, papers after NSLT and Sign Language Transformers: ` .` on each",
        lowercase=True,
        period=True,
        # raw_corpus_bleu of the sacrebleu of that time.
        tokenize="none",
        smooth="floor",
        effective_order=True,
    ),
    Protocol(
        name="csl-daily-char",
        description="CSL-Daily: characters are words, punctuation as it is written",
        characters=True,
    ),
    Protocol(
        name="csl-daily-char-nfkc",
        description="CSL-Daily: characters are words, full- and half-width punctuation alike",
        nfkc=True,
        characters=True,
    ),
    Protocol(
        name="how2sign",
        description="How2Sign: case and punctuation count",
    ),
    Protocol(
        name="how2sign-rbleu",
        description="How2Sign, reduced BLEU of Tarres et al. 2023: words that carry meaning",
        reduced=True,
    ),
)

PROTOCOLS = {protocol.name: protocol for protocol in _ALL}
"""All protocols, by name."""


def find_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in PROTOCOLS:
        raise ConfigError(
            f"protocol ({name}): there is no such protocol. Use one of {', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[name]
