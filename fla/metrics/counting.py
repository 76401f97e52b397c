"""The counting behind every score: sacrebleu's BLEU and chrF, and rouge-score's ROUGE-L.

ROUGE-L takes the form of a sacrebleu metric, so that intervals and tests treat all alike.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from sacrebleu.metrics.base import Metric, Score, Signature
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from fla.metrics.protocols import ROUGE_BETA, Protocol

__all__ = [
    "BLEU",
    "METRICS",
    "Counted",
    "RougeL",
    "SentenceMean",
    "build_metrics",
    "count",
    "count_by",
]

METRICS = ("bleu4", "rouge_l", "chrf2", "chrf_pp")
"""What is counted, by its name in scores."""


class Counted(NamedTuple):
    """A metric's result."""

    result: Any
    """sacrebleu's score."""
    signature: str
    """The metric's own."""


def count(
    hypotheses: Sequence[str],
    references: Sequence[str],
    protocol: Protocol,
    names: Collection[str] = METRICS,
    num_resamples: int = 1,
) -> dict[str, Counted]:
    """Count a corpus by the metrics of these names.

    Args:
        hypotheses: As the protocol prepares them; none count as one that is empty, which scores 0.
        references: As many, prepared too.
        protocol: The convention.
        names: Of metrics.
        num_resamples: Of the bootstrap that bounds each result; 1: none.
    """
    hypotheses, references = hypotheses or [""], references or [""]
    return {
        name: count_by(metric, hypotheses, references, num_resamples)
        for name, metric in build_metrics(protocol, names).items()
    }


def count_by(
    metric: Any, hypotheses: Sequence[str], references: Sequence[str], num_resamples: int = 1
) -> Counted:
    """Count a corpus that is not empty by one metric of sacrebleu's form."""
    result = metric.corpus_score(hypotheses, [references], n_bootstrap=num_resamples)
    # As without resampling, which bounds a score and does not change it.
    metric.n_bootstrap = metric.seed = None
    return Counted(result, str(metric.get_signature()))


def build_metrics(protocol: Protocol, names: Collection[str] = METRICS) -> dict[str, Any]:
    """sacrebleu's metrics of a protocol, by name, in the order of `METRICS`."""
    builders: dict[str, Callable[[], Any]] = {
        "bleu4": lambda: BLEU(
            tokenize=protocol.tokenize,
            smooth_method=protocol.smooth,
            effective_order=protocol.effective_order,
            # Texts that end with a period of its own are meant so.
            force=True,
        ),
        "rouge_l": RougeL,
        "chrf2": CHRF,
        "chrf_pp": lambda: CHRF(word_order=2),
    }
    return {name: builders[name]() for name in METRICS if name in names}


class RougeSignature(Signature):
    """Says how ROUGE-L was computed."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(args)
        self.info["rouge"] = f"mscoco.beta{ROUGE_BETA}.blanks.sentence-mean"


class SentenceMean(Metric):
    """A metric that is the mean over sentences, in percent, in the form of sacrebleu's own.

    A sentence's statistics are its score and 1, which add up to those of a corpus.
    """

    title: str

    def score_pair(self, hypothesis: str, reference: str) -> float:
        """Score of one sentence, 1 at best."""
        raise NotImplementedError

    def _preprocess_segment(self, sent: str) -> str:
        return sent

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, str]:
        return {"reference": refs[0]}

    def _compute_segment_statistics(
        self, hypothesis: str, ref_kwargs: dict[str, str]
    ) -> list[float]:
        return [self.score_pair(hypothesis, ref_kwargs["reference"]), 1.0]

    def _compute_score_from_stats(self, stats: Sequence[float]) -> Score:
        return Score(self.title, 100 * float(stats[0]) / float(stats[1]))

    def _aggregate_and_compute(self, stats: Sequence[Sequence[float]]) -> Score:
        # A sum of doubles, in the order of the sentences.
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])


class RougeL(SentenceMean):
    """LCS F-measure of a sentence, as MS-COCO's caption metric has it.

    F = (1 + b^2) P R / (R + b^2 P) with b = 1.2; words are what stands between blanks.
    """

    _SIGNATURE_TYPE = RougeSignature
    title = "ROUGE-L"

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Here, not at the top: it pulls in nltk, which takes 1.5 seconds.
        from rouge_score.rouge_scorer import RougeScorer

        self._scorer = RougeScorer(["rougeL"], tokenizer=_WhitespaceTokenizer())

    def score_pair(self, hypothesis: str, reference: str) -> float:
        """F-measure, from 0 to 1."""
        found = self._scorer.score(reference, hypothesis)["rougeL"]
        if found.fmeasure == 0:
            return 0.0
        weighted = found.recall + ROUGE_BETA**2 * found.precision
        return float((1 + ROUGE_BETA**2) * found.precision * found.recall / weighted)


class _WhitespaceTokenizer:
    """rouge_score's own tokenizer keeps only a-z and 0-9: umlauts vanish, Chinese scores 0."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()
