"""Scores of a translated split, by one named protocol; the signature says which."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from fla.metrics.preparation import prepare, prepare_pairs
from fla.metrics.protocols import Protocol

if TYPE_CHECKING:
    from fla.metrics.counting import Counted

SCORES = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "chrf2": "chrF2",
    "chrf_pp": "chrF++",
}
"""All scores, by their names in code and in print."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Corpus scores, each from 0 to 100."""

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    rouge_l: float
    chrf2: float
    chrf_pp: float
    num_sentences: int
    """That were counted: all, but for what reduced BLEU leaves out; of 0, all scores are 0."""
    signature: str
    """Protocol and version, what is done to a text, and each metric's own signature."""

    def as_dict(self) -> dict[str, float | int | str]:
        """Plain values, for JSON."""
        return asdict(self)

    def as_metrics(self, split: str) -> dict[str, float]:
        """The scores by their metric names, such as `dev/bleu4`."""
        return {f"{split}/{name}": getattr(self, name) for name in SCORES}


@dataclass(frozen=True, kw_only=True)
class SentenceScores:
    """Scores of one sentence, each from 0 to 100."""

    bleu4: float
    """Of the orders that the sentence is long enough for."""
    rouge_l: float
    chrf2: float


def score(hypotheses: Sequence[str], references: Sequence[str], *, protocol: Protocol) -> Scores:
    """Score a whole split at once; averages of parts of it would be other numbers.

    Args:
        hypotheses: One translation a sample.
        references: The annotation's own sentences in the same order, never through a tokenizer.
        protocol: The convention.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            f"Need as many hypotheses as references, at least one; got {len(hypotheses)} and "
            f"{len(references)}."
        )
    # Here, not at the top: only the rank that scores pays for the imports, of 2 seconds.
    from fla.metrics.counting import count

    prepared, expected = prepare_pairs(hypotheses, references, protocol)
    return summarize(count(prepared, expected, protocol), protocol, len(expected))


def summarize(counted: Mapping[str, "Counted"], protocol: Protocol, num_sentences: int) -> Scores:
    """The scores of what was counted, BLEU-1 to 3 from the counts of BLEU-4."""
    from fla.metrics.counting import BLEU

    counts = counted["bleu4"].result
    orders = {
        f"bleu{order}": BLEU.compute_bleu(
            counts.counts[:order],
            counts.totals[:order],
            counts.sys_len,
            counts.ref_len,
            smooth_method=protocol.smooth,
            effective_order=protocol.effective_order,
            max_ngram_order=order,
        ).score
        for order in (1, 2, 3)
    }
    own = [f"{protocol.name}.v{protocol.version}|prep:{protocol.preparation}"]
    return Scores(
        **orders,
        **{name: float(it.result.score) for name, it in counted.items()},
        num_sentences=num_sentences,
        signature=" ".join(own + [f"{SCORES[k]}|{it.signature}" for k, it in counted.items()]),
    )


def score_sentences(
    hypotheses: Sequence[str], references: Sequence[str], *, protocol: Protocol
) -> list[SentenceScores]:
    """Score each sentence by itself, in the order given; reduced BLEU keeps all here.

    Args:
        hypotheses: One translation a sample.
        references: As many.
        protocol: The convention.
    """
    from fla.metrics.counting import build_metrics

    metrics = build_metrics(replace(protocol, effective_order=True))
    pairs = [
        (prepare(hypothesis, protocol), [prepare(reference, protocol)])
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    return [
        SentenceScores(
            bleu4=metrics["bleu4"].sentence_score(*pair).score,
            rouge_l=metrics["rouge_l"].sentence_score(*pair).score,
            chrf2=metrics["chrf2"].sentence_score(*pair).score,
        )
        for pair in pairs
    ]
