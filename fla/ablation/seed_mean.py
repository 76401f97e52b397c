"""A metric averaged over seeds, in sacrebleu's form, so that its paired tests keep seeds together.

A sample is a reference and what the models of all seeds made of it. Resampling and swapping take or
leave a sample with all its seeds: translations of one sentence by several seeds are no independent
observations, and a test on the seeds' outputs put end to end would find too much.

Legend:
- S = seeds
- K = numbers that the metric counts of a sentence
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fla.metrics.preparation import prepare
from fla.metrics.protocols import Protocol
from fla.metrics.significance import Comparison, compare_by

METRICS = ("bleu4", "rouge_l")
"""What the paper's tables have."""
# Between the seeds' texts of a sample.
_BREAK = "\n"


@dataclass(frozen=True)
class MeanScore:
    """What sacrebleu asks of a score."""

    name: str
    score: float


class SeedMean:
    """The mean over seeds of a metric's corpus scores.

    Args:
        metric: Of sacrebleu's form.
        num_seeds: S.
    """

    def __init__(self, metric: Any, num_seeds: int) -> None:
        self._metric = metric
        self._num_seeds = num_seeds

    def get_signature(self) -> Any:
        return self._metric.get_signature()

    # The following are what sacrebleu's tests call of a metric.

    def _extract_corpus_statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """S x K numbers a sample, those of the first seed first."""
        by_seed = zip(*(text.split(_BREAK) for text in hypotheses), strict=True)
        counted = [self._metric._extract_corpus_statistics(texts, references) for texts in by_seed]
        return [[*chain.from_iterable(sample)] for sample in zip(*counted, strict=True)]

    def _aggregate_and_compute(self, stats: Sequence[Sequence[float]]) -> MeanScore:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])

    def _compute_score_from_stats(self, stats: Sequence[float]) -> MeanScore:
        width = len(stats) // self._num_seeds
        scores = [
            self._metric._compute_score_from_stats(list(stats[first : first + width]))
            for first in range(0, len(stats), width)
        ]
        return MeanScore(scores[0].name, sum(it.score for it in scores) / self._num_seeds)


def compare_over_seeds(
    baseline: Sequence[Sequence[str]],
    other: Sequence[Sequence[str]],
    references: Sequence[str],
    *,
    protocol: Protocol,
) -> Mapping[str, Comparison]:
    """Test two settings against each other in the mean over seeds of BLEU-4 and of ROUGE-L.

    With one seed these are the project's usual paired tests. They say whether other sentences
    would order these very models alike; how much another seed would change is the standard
    deviation's to say.

    Args:
        baseline: By seed, its translations.
        other: The other setting's, of the same samples; as many seeds.
        references: Of the samples.
        protocol: The convention.

    Returns:
        By metric: bleu4, rouge_l.
    """
    from fla.metrics.counting import build_metrics

    expected = [prepare(reference, protocol) for reference in references]
    # As `fla.metrics.significance` has it: reduced BLEU may leave nothing of a reference.
    kept = [index for index, reference in enumerate(expected) if reference] or [0]

    def join(by_seed: Sequence[Sequence[str]]) -> list[str]:
        prepared = [[_prepare_line(texts[i], protocol) for i in kept] for texts in by_seed]
        return [_BREAK.join(sample) for sample in zip(*prepared, strict=True)]

    metrics = {
        name: SeedMean(metric, len(baseline))
        for name, metric in build_metrics(protocol, METRICS).items()
    }
    return compare_by(metrics, join(baseline), join(other), [expected[i] for i in kept])


def _prepare_line(text: str, protocol: Protocol) -> str:
    return prepare(text, protocol).replace(_BREAK, " ")
