"""How far scores can be trusted: intervals, and tests of the difference between two systems.

sacrebleu's resampling: the paired bootstrap of Koehn (2004), and the approximate randomization of
Riezler and Maxwell (2005). The same seed gives the same numbers; SACREBLEU_SEED sets another one.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from fla.metrics.preparation import prepare_pairs
from fla.metrics.protocols import Protocol
from fla.metrics.scores import Scores, summarize

if TYPE_CHECKING:
    from fla.metrics.counting import Counted

NUM_RESAMPLES = 1000
NUM_SHUFFLES = 10_000
DEFAULT_SEED = 12345


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where 95 % of the bootstrap's scores lie: their mean, less and plus half the width.

    Within 0 and 100.
    """

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A metric of two systems on the same sentences."""

    baseline: float
    other: float
    bootstrap_p: float
    """Chance of such a difference between resamples if there were none; 1 where there is none."""
    randomisation_p: float
    """Chance of such a difference if each sentence could be either system's."""


def read_seed() -> str:
    """The seed of the resampling, as sacrebleu reads it."""
    return os.environ.get("SACREBLEU_SEED", str(DEFAULT_SEED))


def score_with_intervals(
    hypotheses: Sequence[str], references: Sequence[str], *, protocol: Protocol
) -> tuple[Scores, dict[str, Interval]]:
    """What `score` gives, and 95 % intervals of what is counted, of 1000 resamples of sentences.

    Args:
        hypotheses: One translation a sample.
        references: As many, in the same order.
        protocol: The convention.

    Returns:
        The scores, and the intervals of bleu4, rouge_l, chrf2 and chrf_pp.
    """
    from fla.metrics.counting import METRICS, count

    prepared, expected = prepare_pairs(hypotheses, references, protocol)
    counted = count(prepared, expected, protocol, METRICS, NUM_RESAMPLES)
    return _summarize(counted, protocol, len(expected))


def score_on_two_cores(
    hypotheses: Sequence[str], references: Sequence[str], *, protocol: Protocol
) -> tuple[Scores, dict[str, Interval]]:
    """`score_with_intervals`, sooner: ROUGE-L's imports alone take as long as all the rest.

    It is counted in a process of its own, so the program's main module must guard what it does.
    """
    from fla.metrics.counting import METRICS, count

    prepared, expected = prepare_pairs(hypotheses, references, protocol)
    corpus = (prepared, expected, protocol)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        rouge = pool.submit(count, *corpus, ("rouge_l",), NUM_RESAMPLES)
        counted = count(*corpus, {*METRICS} - {"rouge_l"}, NUM_RESAMPLES) | rouge.result()
    return _summarize({name: counted[name] for name in METRICS}, protocol, len(expected))


def _summarize(
    counted: Mapping[str, "Counted"], protocol: Protocol, num_sentences: int
) -> tuple[Scores, dict[str, Interval]]:
    intervals = {name: _bound(it.result) for name, it in counted.items()}
    return summarize(counted, protocol, num_sentences), intervals


def score_by(
    metric: Any, hypotheses: Sequence[str], references: Sequence[str]
) -> tuple[float, Interval, str]:
    """Score, 95 % interval and signature by a metric of sacrebleu's form, on texts as they are."""
    from fla.metrics.counting import count_by

    counted = count_by(metric, hypotheses, references, NUM_RESAMPLES)
    return float(counted.result.score), _bound(counted.result), counted.signature


def _bound(result: Any) -> Interval:
    # sacrebleu's own fields: its public way to them is a printed text of one digit.
    mean, half_width = float(result._mean), float(result._ci)
    return Interval(low=max(0.0, mean - half_width), high=min(100.0, mean + half_width))


def compare_systems(
    baseline: Sequence[str], other: Sequence[str], references: Sequence[str], *, protocol: Protocol
) -> dict[str, Comparison]:
    """Test two systems against each other in bleu4, rouge_l, chrf2 and chrf_pp.

    Args:
        baseline: Its translations.
        other: The other system's, of the same samples in the same order.
        references: As many.
        protocol: The convention. What reduced BLEU leaves out of either system counts as a
            hypothesis without words here: the sentences must be the same for both.
    """
    from fla.metrics.counting import build_metrics
    from fla.metrics.preparation import prepare

    expected = [prepare(reference, protocol) for reference in references]
    # Where nothing is left, as `count` has it.
    kept = [i for i, reference in enumerate(expected) if reference] or [0]
    one, two = (
        [prepare(hypotheses[i], protocol) for i in kept] for hypotheses in (baseline, other)
    )
    return compare_by(build_metrics(protocol), one, two, [expected[i] for i in kept])


def compare_by(
    metrics: Mapping[str, Any],
    baseline: Sequence[str],
    other: Sequence[str],
    references: Sequence[str],
) -> dict[str, Comparison]:
    """Test two systems against each other by metrics of sacrebleu's form, on texts as they are."""
    from sacrebleu.significance import PairedTest

    systems = [("baseline", baseline), ("other", other)]
    tests = []
    for kind, count in (("bs", NUM_RESAMPLES), ("ar", NUM_SHUFFLES)):
        test = PairedTest(systems, metrics, [references], test_type=kind, n_samples=count)
        _, found = test()
        # By the names that sacrebleu prints, in the order given.
        tests.append([found[key] for key in found if key != "System"])
    return {
        name: _join(*bootstrap, *randomisation)
        for name, bootstrap, randomisation in zip(metrics, *tests, strict=True)
    }


def _join(baseline: Any, other: Any, _: Any, randomised: Any) -> Comparison:
    is_equal = baseline.score == other.score
    return Comparison(
        baseline=float(baseline.score),
        other=float(other.score),
        # sacrebleu takes no difference for the rarest one.
        bootstrap_p=1.0 if is_equal else float(other.p_value),
        randomisation_p=1.0 if is_equal else float(randomised.p_value),
    )
