"""Scores of a translated split, by one named protocol; the signature says which."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fla.metrics.protocols import Protocol

ROUGE_BETA = 1.2
"""Weight of recall in ROUGE-L; 1.2 is the caption metric's that sign language translation uses."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Corpus scores, each from 0 to 100."""

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    rouge_l: float
    chrf2: float
    num_sentences: int
    signature: str
    """Protocol: sacrebleu's own BLEU signature, then how ROUGE-L and chrF were computed."""

    def as_dict(self) -> dict[str, float | int | str]:
        """Plain values, for JSON."""
        return asdict(self)

    def as_metrics(self, split: str) -> dict[str, float]:
        """The six scores by their metric names, such as `dev/bleu4`."""
        return {f"{split}/{k}": v for k, v in asdict(self).items() if isinstance(v, float)}


def score(hypotheses: Sequence[str], references: Sequence[str], *, protocol: Protocol) -> Scores:
    """Score a whole split at once; averages of parts of it would be other numbers.

    Args:
        hypotheses: One translation a sample.
        references: The annotation's own sentences in the same order, never through a tokenizer.
        protocol: The convention.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            f"Need as many hypotheses as references, at least one; got {len(hypotheses)} and "
            f"{len(references)}."
        )
    # Here, not at the top: only the rank that scores pays for the import.
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu = BLEU()
    result = bleu.corpus_score(hypotheses, [references])
    bleu1, bleu2, bleu3, bleu4 = (
        _cumulative_bleu(result.precisions[:order], result.bp) for order in (1, 2, 3, 4)
    )
    return Scores(
        bleu1=bleu1,
        bleu2=bleu2,
        bleu3=bleu3,
        bleu4=bleu4,
        rouge_l=_rouge_l(hypotheses, references),
        chrf2=CHRF().corpus_score(hypotheses, [references]).score,
        num_sentences=len(references),
        signature=(
            f"{protocol.name}.v{protocol.version}|{bleu.get_signature()}|rougeL:beta{ROUGE_BETA}.whitespace.sentence-mean"
            "|chrF2:nc6.nw0.beta2"
        ),
    )


def _cumulative_bleu(precisions: Sequence[float], brevity_penalty: float) -> float:
    # The four orders share their precisions, so one pass over the corpus is enough.
    if min(precisions) == 0:
        return 0.0
    return brevity_penalty * math.exp(sum(map(math.log, precisions)) / len(precisions))


class _WhitespaceTokenizer:
    """rouge_score's own tokenizer keeps only a-z and 0-9: umlauts vanish, Chinese scores 0."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def _rouge_l(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Mean over sentences of the LCS F-measure, in percent, as MS-COCO's caption metric has it."""
    # Here, not at the top: it pulls in nltk, which takes a second.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_WhitespaceTokenizer())
    total = 0.0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        found = scorer.score(reference, hypothesis)["rougeL"]
        if found.fmeasure > 0:
            weighted = found.recall + ROUGE_BETA**2 * found.precision
            total += (1 + ROUGE_BETA**2) * found.precision * found.recall / weighted
    return 100 * total / len(references)
