"""Figure 2: gradient and parameter norms of the last layers, as the runs recorded them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from fla.ablation.plan import Plan, Run
from fla.compare.from_folder import gather_curves
from fla.compare.records import Curve
from fla.errors import DataError
from fla.journal import read_points

PARTS = {"visual": "visual encoder", "translator": "translator"}
"""Parts whose last layers are compared, by their names in metrics and in print; the translator is
Light-T in stage 1 and the LLM in stage 2."""
KINDS = {"grad": "gradient norm", "param": "parameter norm"}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stage of a row, with its curves averaged over seeds."""

    row: str
    stage: int
    curves: dict[tuple[str, str], Curve]
    """By kind and part; a part that is frozen has none."""

    @property
    def share_above(self) -> float | None:
        """Share of the recorded steps at which the translator's gradient norm is the larger one.

        Within 0 and 1; None: the visual encoder is frozen.
        """
        visual = dict(self.curves.get(("grad", "visual"), ()))
        translator = dict(self.curves.get(("grad", "translator"), ()))
        steps = visual.keys() & translator.keys()
        return mean(translator[step] > visual[step] for step in steps) if steps else None

    def mean_of(self, kind: str, part: str) -> float | None:
        """Mean over the recorded steps; None: the part is frozen."""
        curve = self.curves.get((kind, part))
        return mean(value for _, value in curve) if curve else None


def collect_norms(plan: Plan) -> tuple[Phase, ...]:
    """The norms of every row, stage by stage.

    Raises:
        DataError: A run has recorded none.
    """
    return tuple(
        _read_phase(row.name, [*runs])
        for row in plan.table.rows
        for runs in zip(
            *(_runs_of(plan, plan.result(row, seed)) for seed in plan.seeds), strict=True
        )
    )


def _runs_of(plan: Plan, last: Run) -> Iterator[Run]:
    if last.needs:
        yield plan.run(last.needs)
    yield last


def _read_phase(row: str, runs: Sequence[Run]) -> Phase:
    by_seed = [gather_curves(read_points(run.folder.metrics_jsonl)[0]) for run in runs]
    names = {(kind, part): f"train/{kind}_norm/{part}" for kind in KINDS for part in PARTS}
    curves = {
        key: _average([curves[name] for curves in by_seed])
        for key, name in names.items()
        if all(name in curves for curves in by_seed)
    }
    if not curves:
        raise DataError(
            f"{runs[0].folder.metrics_jsonl}: there are no norms of last layers. Remove the run "
            "folder, and it is trained again."
        )
    return Phase(row=row, stage=runs[0].stage, curves=curves)


def _average(curves: Iterable[Curve]) -> Curve:
    """The mean at the steps that all seeds have."""
    by_seed = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*(set(curve) for curve in by_seed)))
    return tuple((step, mean(curve[step] for curve in by_seed)) for step in shared)
