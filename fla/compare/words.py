"""Numbers and verdicts in words, the same for the terminal and for the report."""

from collections.abc import Iterator

from fla.compare.comparison import Comparison
from fla.compare.scoring import METRICS, SIGNIFICANT, ScoredRun


def format_p(value: float) -> str:
    """A p-value as papers print it."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def tell_verdicts(comparison: Comparison) -> Iterator[str]:
    """Who beats the baseline, in a sentence a run."""
    baseline = comparison.scored[0].name
    for run in comparison.scored[1:]:
        yield _tell_verdict(run, baseline)
    if len(comparison.scored) > 2:
        yield "Each p-value is of one pair alone: with several runs, expect smaller ones by chance."


def tell_test(run: ScoredRun, metric: str) -> str:
    """By how much a run differs from the baseline, and how sure that is."""
    assert run.comparisons is not None
    found = run.comparisons[metric]
    return (
        f"{found.other - found.baseline:+.2f} {METRICS[metric]} ({format_p(found.bootstrap_p)} by "
        f"paired bootstrap, {format_p(found.randomisation_p)} by approximate randomisation)"
    )


def _tell_verdict(run: ScoredRun, baseline: str) -> str:
    verdict = run.wins["bleu4"]
    if verdict == 0:
        return (
            f"{run.name} and {baseline} cannot be told apart at {SIGNIFICANT:g}: "
            f"{tell_test(run, 'bleu4')}."
        )
    relation = "is better than" if verdict > 0 else "is worse than"
    return f"{run.name} {relation} {baseline}: {tell_test(run, 'bleu4')}."
