"""What the runs of a table scored: by seed, mean, standard deviation, tests, and orderings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from fla.ablation.plan import TEST, Plan, Run
from fla.ablation.seed_mean import compare_over_seeds
from fla.ablation.state import read_scores
from fla.ablation.tables import Ordering, Row
from fla.errors import DataError
from fla.metrics.protocols import Protocol, find_protocol
from fla.metrics.scores import SCORES
from fla.metrics.significance import Comparison
from fla.run_folder import read_decodes
from fla.translation_table import protocol_of

SIGNIFICANT = 0.05
"""Above it, a difference is taken for chance."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A score over seeds, within 0 and 100."""

    values: tuple[float, ...]
    """By seed."""
    mean: float
    deviation: float | None
    """Standard deviation of the sample, by N - 1; None: one seed has none."""


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """A row of our table."""

    row: Row
    runs: tuple[Run, ...]
    """By seed."""
    spreads: Mapping[str, Spread]
    """By the names of `fla.metrics.scores.SCORES`."""
    comparisons: Mapping[str, Comparison] | None
    """With the reference row, bleu4 and rouge_l; None: it is the reference."""


@dataclass(frozen=True, kw_only=True)
class CheckedOrdering:
    """A pair of rows that the paper orders, and ours."""

    paper: Ordering
    difference: float
    """Of our mean BLEU-4, of the paper's better row less the other's."""

    @property
    def agrees(self) -> bool:
        return self.difference > 0


@dataclass(frozen=True, kw_only=True)
class Results:
    """Our table."""

    plan: Plan
    rows: tuple[ScoredRow, ...]
    orderings: tuple[CheckedOrdering, ...]
    protocol: str
    num_sentences: int


@dataclass(frozen=True, kw_only=True)
class _Split:
    """The test split as all runs of a row translated it."""

    references: tuple[str, ...]
    hypotheses: tuple[tuple[str, ...], ...]
    """By seed."""


def collect(plan: Plan) -> Results:
    """Read the scores and translations of a plan whose runs are all done, and test them.

    Raises:
        DataError: Translations are of other sentences, against other references, or scored by
            another convention.
    """
    first = plan.result(plan.table.rows[0], plan.seeds[0])
    ids, protocol = _read_ids(first)
    splits = {row.name: _read_row(plan, row, ids, protocol) for row in plan.table.rows}
    reference = splits[plan.table.reference]
    for row in plan.table.rows:
        if splits[row.name].references != reference.references:
            raise DataError(
                f"{plan.result(row, plan.seeds[0]).folder.path}: its sentences are not those of "
                f'"{plan.table.reference}". The manifests have changed between the two: choose '
                "another folder with --dir."
            )
    rows = tuple(
        ScoredRow(
            row=row,
            runs=tuple(plan.result(row, seed) for seed in plan.seeds),
            spreads=_spread([read_scores(plan.result(row, seed)) for seed in plan.seeds]),
            comparisons=None
            if row.name == plan.table.reference
            else compare_over_seeds(
                reference.hypotheses,
                splits[row.name].hypotheses,
                reference.references,
                protocol=protocol,
            ),
        )
        for row in plan.table.rows
    )
    means = {it.row.name: it.spreads["bleu4"].mean for it in rows}
    return Results(
        plan=plan,
        rows=rows,
        orderings=tuple(
            CheckedOrdering(paper=pair, difference=means[pair.better] - means[pair.worse])
            for pair in plan.table.orderings
        ),
        protocol=protocol.name,
        num_sentences=len(ids),
    )


def is_significant(comparison: Comparison) -> bool:
    """Whether both tests take a difference for more than chance."""
    return max(comparison.bootstrap_p, comparison.randomisation_p) < SIGNIFICANT


def _spread(entries: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    by_name = {name: tuple(entry[name] for entry in entries) for name in SCORES}
    return {
        name: Spread(
            values=values,
            mean=mean(values),
            deviation=stdev(values) if len(values) > 1 else None,
        )
        for name, values in by_name.items()
    }


def _read_ids(run: Run) -> tuple[tuple[str, ...], Protocol]:
    path = run.folder.decodes_tsv("export", TEST)
    rows, signature = read_decodes(path)
    return tuple(row.id for row in rows), find_protocol(protocol_of(signature) or "text")


def _read_row(plan: Plan, row: Row, ids: Sequence[str], protocol: Protocol) -> _Split:
    runs = [plan.result(row, seed) for seed in plan.seeds]
    found = [_read_run(run, ids, protocol) for run in runs]
    if any(references != found[0][0] for references, _ in found):
        raise DataError(f"{runs[0].folder.path}: the seeds have other references. Decode again.")
    return _Split(references=found[0][0], hypotheses=tuple(texts for _, texts in found))


def _read_run(
    run: Run, ids: Sequence[str], protocol: Protocol
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """References and hypotheses in the order of the ids."""
    path = run.folder.decodes_tsv("export", TEST)
    rows, signature = read_decodes(path)
    by_id = {row.id: row for row in rows}
    name = protocol_of(signature) or "text"
    if by_id.keys() != set(ids) or name != protocol.name:
        raise DataError(
            f"{path}: these are {len(by_id)} sentences scored by {name}; the table's first row has "
            f"{len(ids)}, scored by {protocol.name}. Remove the file, and it is made again."
        )
    ordered = [by_id[key] for key in ids]
    return tuple(row.reference for row in ordered), tuple(row.hypothesis for row in ordered)
