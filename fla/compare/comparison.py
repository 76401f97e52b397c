"""The whole comparison as a value: what the terminal's table and the report show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fla.compare.charts import IntervalChart, LineChart, draw_curves, draw_intervals
from fla.compare.clips import Clips, find_manifest, gather_clips
from fla.compare.marking import Piece, mark
from fla.compare.pairing import Paired, pair_runs
from fla.compare.records import RunRecord, with_unique_names
from fla.compare.scoring import (
    METRICS,
    Change,
    Changes,
    ScoredGroup,
    ScoredRun,
    find_changes,
    group_by_length,
    group_by_signer,
    score_groups,
    score_runs,
)
from fla.compare.settings import Difference, find_differences

NUM_SENTENCES = 10
"""Sentences that got better, and that got worse, which a report shows of each run."""
MAIN_CURVES = {
    "train/loss_nats_per_token": "training loss (nats per token)",
    "dev/bleu4": "dev BLEU-4",
    "dev/rouge_l": "dev ROUGE-L",
    "dev/chrf2": "dev chrF2",
}
"""Those that are shown first, by metric."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one run made of a sentence."""

    run: int
    score: float
    """chrF2."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sample whose translation changed."""

    id: str
    signer: str
    reference: str
    gain: float
    attempts: tuple[Attempt, ...]
    """Of every run."""
    is_repeated: bool
    """Its clip is shown further up."""


@dataclass(frozen=True, kw_only=True)
class ChangedSentences:
    """Those of a run that changed most."""

    run: int
    changes: Changes
    better: tuple[Sentence, ...]
    worse: tuple[Sentence, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, compared; the first is the baseline."""

    records: tuple[RunRecord, ...]
    """With the names that tables use."""
    paired: Paired
    scored: tuple[ScoredRun, ...]
    differences: tuple[Difference, ...]
    settings_note: str
    """Which runs say nothing of their settings; empty: all do."""
    intervals: tuple[IntervalChart, ...]
    curves: tuple[LineChart, ...]
    more_curves: tuple[LineChart, ...]
    by_length: tuple[ScoredGroup, ...]
    by_signer: tuple[ScoredGroup, ...]
    signer_note: str
    """Why there is no breakdown by signer; empty: there is one."""
    changed: tuple[ChangedSentences, ...]
    clips: Clips


def compare_runs(records: Sequence[RunRecord], *, split: str) -> Comparison:
    """Compare runs on the samples that they share.

    Args:
        records: At least two; the first is the baseline.
        split: Empty: test where all of them have it, else dev.

    Raises:
        FlaError: As `pair_runs` says.
    """
    names = with_unique_names(records)
    records = [replace(one, name=name) for one, name in zip(records, names, strict=True)]
    paired = pair_runs(records, split=split)
    scored = score_runs(names, paired)
    manifest = find_manifest(records, split=paired.split, ids=paired.ids)
    signers = {sample.id: sample.signer for sample in manifest.samples} if manifest else {}
    by_signer = group_by_signer([signers.get(i, "") for i in paired.ids])
    changed = _choose_sentences(scored, paired, signers)
    main, more = _draw_all_curves(records)
    return Comparison(
        records=tuple(records),
        paired=paired,
        scored=scored,
        differences=find_differences([_settings(one, paired.split) for one in records]),
        settings_note=_tell_unknown_settings(records),
        intervals=_draw_all_intervals(scored),
        curves=main,
        more_curves=more,
        by_length=score_groups(group_by_length(paired.references), paired),
        by_signer=score_groups(by_signer, paired),
        signer_note=_tell_signers(bool(by_signer), has_manifest=manifest is not None),
        changed=changed,
        clips=gather_clips(manifest, _most_important(changed)),
    )


def _settings(record: RunRecord, split: str) -> dict[str, str]:
    decoding = record.decoding.get(split, {})
    return {**record.config, **{f"decode.{key}": value for key, value in decoding.items()}}


def _tell_unknown_settings(records: Sequence[RunRecord]) -> str:
    unknown = [record.name for record in records if not record.config]
    return f"Settings are not known of {', '.join(unknown)}." if unknown else ""


def _tell_signers(has_groups: bool, *, has_manifest: bool) -> str:
    if has_groups:
        return ""
    if has_manifest:
        return "The manifest does not say who signs."
    return "Who signs is not known: the manifest of these samples is not on this machine."


def _draw_all_intervals(scored: Sequence[ScoredRun]) -> tuple[IntervalChart, ...]:
    return tuple(
        draw_intervals(
            title,
            [
                (
                    run.name,
                    run.intervals[key].low,
                    getattr(run.scores, key),
                    run.intervals[key].high,
                )
                for run in scored
            ],
        )
        for key, title in METRICS.items()
    )


def _draw_all_curves(
    records: Sequence[RunRecord],
) -> tuple[tuple[LineChart, ...], tuple[LineChart, ...]]:
    """Those of MAIN_CURVES, and all others."""
    keys = dict.fromkeys(key for record in records for key in record.curves)
    charts: dict[str, LineChart] = {}
    for key in [*MAIN_CURVES, *sorted(keys)]:
        curves = {
            number: (record.name, record.curves[key])
            for number, record in enumerate(records)
            # A single point, such as a test score, is no curve.
            if len(record.curves.get(key, ())) > 1
        }
        if curves and key not in charts:
            charts[key] = draw_curves(MAIN_CURVES.get(key, key), curves, x_label="step")
    return (
        tuple(chart for key, chart in charts.items() if key in MAIN_CURVES),
        tuple(chart for key, chart in charts.items() if key not in MAIN_CURVES),
    )


def _choose_sentences(
    scored: Sequence[ScoredRun], paired: Paired, signers: Mapping[str, str]
) -> tuple[ChangedSentences, ...]:
    shown: set[str] = set()

    def describe(change: Change) -> Sentence:
        reference, sample_id = paired.references[change.index], paired.ids[change.index]
        is_repeated = sample_id in shown
        shown.add(sample_id)
        return Sentence(
            id=sample_id,
            signer=signers.get(sample_id, ""),
            reference=reference,
            gain=change.gain,
            attempts=tuple(
                Attempt(
                    run=number,
                    score=run.sentence_scores[change.index],
                    pieces=mark(reference, paired.hypotheses[number][change.index]),
                )
                for number, run in enumerate(scored)
            ),
            is_repeated=is_repeated,
        )

    chosen = []
    for number, run in enumerate(scored[1:], start=1):
        changes = find_changes(scored[0], run)
        chosen.append(
            ChangedSentences(
                run=number,
                changes=changes,
                better=tuple(map(describe, changes.better[:NUM_SENTENCES])),
                worse=tuple(map(describe, changes.worse[:NUM_SENTENCES])),
            )
        )
    return tuple(chosen)


def _most_important(changed: Sequence[ChangedSentences]) -> list[str]:
    """Ids of the shown sentences, the most changed of every list first, each once."""
    lists = [some for one in changed for some in (one.better, one.worse)]
    ranked = [some[rank].id for rank in range(NUM_SENTENCES) for some in lists if rank < len(some)]
    return list(dict.fromkeys(ranked))
