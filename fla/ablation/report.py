"""Our table beside the paper's: Markdown for people, JSON for programs, charts, and MLflow."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fla.ablation.drawing import draw_svg
from fla.ablation.norms import KINDS, PARTS, Phase, collect_norms
from fla.ablation.plan import Plan
from fla.ablation.scores import CheckedOrdering, Results, ScoredRow, Spread, collect, is_significant
from fla.ablation.tables import FIG2, FIG4
from fla.compare.charts import draw_curves
from fla.compare.words import format_p
from fla.run_folder import RunFolder, write_atomically, write_json

SOURCE = (
    "Chen et al., Factorized Learning Assisted with Large Language Model for Gloss-free Sign "
    "Language Translation, LREC-COLING 2024; PHOENIX14T, test"
)
_SHOWN = {"bleu4": "BLEU-4", "rouge_l": "ROUGE-L"}


def write_report(plan: Plan) -> Path:
    """Write TABLE.md, table.json and, of a figure, figure.svg; and log them to MLflow.

    Args:
        plan: One whose runs are all done.

    Returns:
        The path of TABLE.md.

    Raises:
        DataError: What the runs left does not go together.
    """
    results = collect(plan)
    phases = collect_norms(plan) if plan.table.name == FIG2 else ()
    files = [plan.output / "TABLE.md", plan.output / "table.json"]
    write_atomically(files[0], render_markdown(results, phases))
    write_json(files[1], as_json(results, phases))
    if drawing := _draw(results, phases):
        files.append(plan.output / "figure.svg")
        write_atomically(files[-1], drawing)
    _track(results, files)
    return files[0]


def render_markdown(results: Results, phases: tuple[Phase, ...] = ()) -> str:
    """The table for people, and what it says and does not say."""
    plan = results.plan
    lines = [
        f"# {plan.table.heading}: {plan.table.title}",
        "",
        f"Ours: {results.num_sentences} sentences of test, protocol {results.protocol}, seed"
        f"{'s' if len(plan.seeds) > 1 else ''} {', '.join(map(str, plan.seeds))}; runs in "
        f"{plan.folder}, MLflow experiment {plan.experiment}.",
        "",
        f"The paper's: {SOURCE}.",
        "",
        "| row | BLEU-4 | ROUGE-L | BLEU-4 less the reference's | ROUGE-L less the reference's "
        "| BLEU-4, paper | ROUGE-L, paper | paper's remark |",
        "|---|---|---|---|---|---|---|---|",
        *(_render_row(row, results) for row in results.rows),
        "",
        *_explain(results),
        "",
        "## Orderings",
        "",
        *(f"- {tell_ordering(pair)}" for pair in results.orderings),
    ]
    if phases:
        lines += ["", "## Norms of the last layers", "", *_render_norms(phases)]
    if plan.table.name in (FIG2, FIG4):
        lines += ["", "![The figure](figure.svg)"]
    return "\n".join(lines) + "\n"


def tell_ordering(pair: CheckedOrdering) -> str:
    """Whether a pair of rows is ordered as in the paper."""
    paper = pair.paper
    by = f" by {paper.difference:.2f} BLEU-4" if paper.difference is not None else ""
    if pair.difference == 0:
        here = "here they are equal: it does not agree."
    elif pair.agrees:
        here = f"here, too, by {pair.difference:.2f}: it agrees."
    else:
        here = f"here it is below by {-pair.difference:.2f}: it does not agree."
    return f"{paper.better} above {paper.worse}{by} in the paper; {here}"


def as_json(results: Results, phases: tuple[Phase, ...] = ()) -> dict[str, Any]:
    """The table for programs, with every score and both tests."""
    plan = results.plan
    return {
        "table": plan.table.name,
        "title": plan.table.title,
        "source": SOURCE,
        "reference": plan.table.reference,
        "experiment": plan.experiment,
        "protocol": results.protocol,
        "num_sentences": results.num_sentences,
        "seeds": list(plan.seeds),
        "notes": list(plan.table.notes),
        "rows": [_row_as_json(row) for row in results.rows],
        "orderings": [
            {
                "better": pair.paper.better,
                "worse": pair.paper.worse,
                "paper_difference": pair.paper.difference,
                "difference": pair.difference,
                "agrees": pair.agrees,
            }
            for pair in results.orderings
        ],
        "norms": [_phase_as_json(phase) for phase in phases],
    }


def _render_row(row: ScoredRow, results: Results) -> str:
    is_reference = row.comparisons is None
    cells = [
        f"{row.row.name} (reference)" if is_reference else row.row.name,
        *(_tell_spread(row.spreads[metric]) for metric in _SHOWN),
        *(_tell_test(row, metric, results) for metric in _SHOWN),
        *("" if it is None else f"{it:.2f}" for it in (row.row.bleu4, row.row.rouge_l)),
        row.row.remark,
    ]
    return f"| {' | '.join(cells)} |"


def _tell_spread(spread: Spread) -> str:
    more = "" if spread.deviation is None else f" +- {spread.deviation:.2f}"
    return f"{spread.mean:.2f}{more}"


def _tell_test(row: ScoredRow, metric: str, results: Results) -> str:
    if row.comparisons is None:
        return ""
    reference = next(it for it in results.rows if it.comparisons is None)
    found = row.comparisons[metric]
    difference = row.spreads[metric].mean - reference.spreads[metric].mean
    star = "*" if is_significant(found) else ""
    return f"{difference:+.2f}{star} ({format_p(found.randomisation_p)})"


def _explain(results: Results) -> Iterator[str]:
    num_seeds = len(results.plan.seeds)
    if num_seeds > 1:
        yield f"- +- is the standard deviation over {num_seeds} seeds (N - 1)."
    else:
        yield "- One seed has no standard deviation; --seeds 1 2 3 gives one."
    yield (
        "- p is by approximate randomization of sentences, each with the translations of all "
        "seeds; * where paired bootstrap, too, is below 0.05. It says whether other sentences "
        "would order these models alike, not whether other seeds would, and it is of one pair "
        "alone."
    )
    yield from (f"- {note}" for note in results.plan.table.notes)


def _render_norms(phases: tuple[Phase, ...]) -> Iterator[str]:
    yield (
        "| row | stage | gradient norm, visual encoder | translator "
        "| translator above, share of steps | parameter norm, visual encoder | translator |"
    )
    yield "|---|---|---|---|---|---|---|"
    for phase in phases:
        means = {(kind, part): phase.mean_of(kind, part) for kind in KINDS for part in PARTS}
        above = "" if phase.share_above is None else f"{100 * phase.share_above:.0f} %"
        cells = [*(_tell_mean(means["grad", part]) for part in PARTS), above]
        cells += [_tell_mean(means["param", part]) for part in PARTS]
        yield f"| {phase.row} | {phase.stage} | {' | '.join(cells)} |"
    yield ""
    yield (
        "Means over the recorded steps and over seeds. The translator is Light-T in stage 1 and "
        "the LLM in stage 2."
    )


def _tell_mean(value: float | None) -> str:
    return "frozen" if value is None else f"{value:.4g}"


def _row_as_json(row: ScoredRow) -> dict[str, Any]:
    return {
        "name": row.row.name,
        "runs": [str(run.folder.path) for run in row.runs],
        "paper": {"bleu4": row.row.bleu4, "rouge_l": row.row.rouge_l, "remark": row.row.remark},
        "scores": {name: vars(spread) for name, spread in row.spreads.items()},
        "tests": {name: vars(found) for name, found in (row.comparisons or {}).items()},
    }


def _phase_as_json(phase: Phase) -> dict[str, Any]:
    return {
        "row": phase.row,
        "stage": phase.stage,
        "translator_above": phase.share_above,
        "means": {
            f"{kind}_norm/{part}": phase.mean_of(kind, part) for kind in KINDS for part in PARTS
        },
        "curves": {f"{kind}_norm/{part}": it for (kind, part), it in phase.curves.items()},
    }


def _draw(results: Results, phases: tuple[Phase, ...]) -> str:
    if phases:
        charts = [
            draw_curves(f"{phase.row}, stage {phase.stage}: {title}", curves, x_label="step")
            for kind, title in KINDS.items()
            for phase in phases
            if (curves := _lines_of(phase, kind))
        ]
        return draw_svg(charts, columns=len(phases), legend=dict(enumerate(PARTS.values())))
    if results.plan.table.name == FIG4:
        points = tuple(
            (_epochs_of_stage1(results.plan, row), row.spreads["bleu4"].mean)
            for row in results.rows
        )
        chart = draw_curves("BLEU-4 after stage 2", {0: ("ours", points)}, x_label="epochs")
        return draw_svg([chart], columns=1, legend={0: "ours"})
    return ""


def _epochs_of_stage1(plan: Plan, row: ScoredRow) -> int:
    return plan.run(row.runs[0].needs).config.train.num_epochs


def _lines_of(phase: Phase, kind: str) -> Mapping[int, Any]:
    return {
        number: (title, phase.curves[kind, part])
        for number, (part, title) in enumerate(PARTS.items())
        if (kind, part) in phase.curves
    }


def _track(results: Results, files: list[Path]) -> None:
    """Add the table to the experiment of its runs."""
    # Here, not at the top: nobody else needs it.
    from fla.tracking import open_tracker

    plan = results.plan
    metrics = {
        f"test/{metric}/{_slug(row.row.name)}": row.spreads[metric].mean
        for row in results.rows
        for metric in _SHOWN
    }
    with open_tracker(
        run_folder=RunFolder(plan.output.absolute()),
        uri=plan.runs[-1].config.tracking.uri,
        experiment=plan.experiment,
        run_name=plan.table.heading,
        pipeline="",
        params={},
        tags={
            "stage": "ablation",
            "seeds": json.dumps(plan.seeds),
            "run_folder": str(plan.output.absolute()),
        },
    ) as tracker:
        tracker.log(metrics, step=0)
        for path in files:
            tracker.log_artifact(path)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name.replace("%", "percent")).strip("-")
