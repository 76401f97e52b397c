"""Scores of runs side by side: intervals, tests against the baseline, groups, single sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fla.compare.marking import count_words, is_wide
from fla.compare.pairing import Paired
from fla.metrics.protocols import Protocol, find_protocol
from fla.metrics.scores import SCORES, Scores, score, score_sentences
from fla.metrics.significance import Comparison, Interval, compare_systems, score_with_intervals

METRICS = {name: SCORES[name] for name in ("bleu4", "rouge_l", "chrf2")}
"""Metrics that are tested, by their names in code and in print."""
SIGNIFICANT = 0.05
"""Above it, a difference is taken for chance."""
NUM_LENGTHS = 4
MAX_SIGNERS = 12
"""Those with the most sentences have a group of their own."""
# Sentence scores of two runs that differ by less are equal: rounding.
_EQUAL = 0.005


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """A run's scores over all samples."""

    name: str
    scores: Scores
    intervals: Mapping[str, Interval]
    """Of 95 %, by metric."""
    comparisons: Mapping[str, Comparison] | None
    """With the baseline, by metric; None: it is the baseline."""
    sentence_scores: tuple[float, ...]
    """chrF2 of each sentence, which is steadier on one sentence than BLEU."""

    @property
    def wins(self) -> Mapping[str, int]:
        """By metric: 1 where it beats the baseline, -1 where it loses to it, 0: by chance."""
        return {name: _verdict(it) for name, it in (self.comparisons or {}).items()}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some of the samples."""

    name: str
    indices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """What the runs score on a group."""

    name: str
    num_sentences: int
    scores: tuple[Scores, ...]
    """By run."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """How one sentence of a run compares with the baseline's."""

    index: int
    gain: float
    """chrF2 of the run less the baseline's."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What became of the sentences in a run, against the baseline."""

    better: tuple[Change, ...]
    """The most improved first."""
    worse: tuple[Change, ...]
    """The most impaired first."""
    num_equal: int


def score_runs(names: Sequence[str], paired: Paired) -> tuple[ScoredRun, ...]:
    """Score every run over all samples, and test it against the first one."""
    protocol = find_protocol(paired.protocol)
    references, baseline = paired.references, paired.hypotheses[0]
    scored = []
    for number, (name, hypotheses) in enumerate(zip(names, paired.hypotheses, strict=True)):
        scores, intervals = score_with_intervals(hypotheses, references, protocol=protocol)
        run = ScoredRun(
            name=name,
            scores=scores,
            intervals=intervals,
            comparisons=compare_systems(baseline, hypotheses, references, protocol=protocol)
            if number
            else None,
            sentence_scores=tuple(
                one.chrf2 for one in score_sentences(hypotheses, references, protocol=protocol)
            ),
        )
        scored.append(run)
    return tuple(scored)


def score_groups(groups: Sequence[Group], paired: Paired) -> tuple[ScoredGroup, ...]:
    """Score every run on each group as a corpus of its own."""
    protocol = find_protocol(paired.protocol)
    return tuple(
        ScoredGroup(
            name=group.name,
            num_sentences=len(group.indices),
            scores=tuple(
                _score_some(hypotheses, paired.references, group.indices, protocol)
                for hypotheses in paired.hypotheses
            ),
        )
        for group in groups
    )


def group_by_length(references: Sequence[str]) -> tuple[Group, ...]:
    """Groups of about equal size by the length of the reference, the short ones first."""
    lengths = [count_words(reference) for reference in references]
    unit = "characters" if 2 * sum(map(is_wide, references)) > len(references) else "words"
    ranked = sorted(lengths)
    bounds = sorted({ranked[len(ranked) * k // NUM_LENGTHS - 1] for k in range(1, NUM_LENGTHS + 1)})
    groups, least = [], ranked[0]
    for most in bounds:
        inside = tuple(i for i, length in enumerate(lengths) if least <= length <= most)
        if not inside:
            continue
        found = {lengths[i] for i in inside}
        name = f"{min(found)} to {max(found)}" if len(found) > 1 else str(max(found))
        shown_unit = unit.removesuffix("s") if most == 1 else unit
        groups.append(Group(name=f"{name} {shown_unit}", indices=inside))
        least = most + 1
    return tuple(groups)


def group_by_signer(signers: Sequence[str]) -> tuple[Group, ...]:
    """A group a signer, those with the most sentences first; empty where none is named.

    Args:
        signers: By sample; an empty string where nobody knows.
    """
    by_signer: dict[str, list[int]] = {}
    for index, signer in enumerate(signers):
        by_signer.setdefault(signer, []).append(index)
    unknown = by_signer.pop("", [])
    ranked = sorted(by_signer.items(), key=lambda item: -len(item[1]))
    if not ranked:
        return ()
    rest = [index for _, indices in ranked[MAX_SIGNERS:] for index in indices]
    groups = [(f"signer {name}", indices) for name, indices in ranked[:MAX_SIGNERS]]
    groups += [(f"{len(ranked) - MAX_SIGNERS} other signers", sorted(rest)), ("unknown", unknown)]
    return tuple(Group(name=name, indices=tuple(some)) for name, some in groups if some)


def find_changes(baseline: ScoredRun, other: ScoredRun) -> Changes:
    """Sort the sentences by what became of them."""
    gains = [
        Change(index=index, gain=new - old)
        for index, (old, new) in enumerate(
            zip(baseline.sentence_scores, other.sentence_scores, strict=True)
        )
    ]
    better = sorted((it for it in gains if it.gain > _EQUAL), key=lambda it: -it.gain)
    worse = sorted((it for it in gains if it.gain < -_EQUAL), key=lambda it: it.gain)
    return Changes(
        better=tuple(better),
        worse=tuple(worse),
        num_equal=len(gains) - len(better) - len(worse),
    )


def _verdict(comparison: Comparison) -> int:
    # Both tests must agree; they ask the same question in two ways.
    if max(comparison.bootstrap_p, comparison.randomisation_p) >= SIGNIFICANT:
        return 0
    return 1 if comparison.other > comparison.baseline else -1


def _score_some(
    hypotheses: Sequence[str],
    references: Sequence[str],
    indices: Sequence[int],
    protocol: Protocol,
) -> Scores:
    return score(
        [hypotheses[i] for i in indices], [references[i] for i in indices], protocol=protocol
    )
