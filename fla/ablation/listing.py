"""A plan in words: its runs, how far each is, and what each is told."""

from fla.ablation.execute import training_words
from fla.ablation.plan import Plan, Run
from fla.ablation.state import describe_state, is_done


def describe_plan(plan: Plan) -> str:
    """A paragraph a run, in the order in which they are run."""
    num_done = sum(map(is_done, plan.runs))
    lines = [
        f"{plan.table.heading}: {plan.table.title}",
        f"{len(plan.runs)} runs for {len(plan.table.rows)} rows and {len(plan.seeds)} seed(s) in "
        f"{plan.folder}; {num_done} done.",
        *plan.table.notes,
    ]
    for run in plan.runs:
        lines += ["", f"{run.name}: {describe_state(run)}{_tell_place(run, plan)}"]
        lines.append("    " + " ".join(training_words(run)))
    return "\n".join(lines) + "\n"


def _tell_place(run: Run, plan: Plan) -> str:
    rows = [f'"{row}"' for (row, _), name in plan.results.items() if name == run.name]
    after = f", after {run.needs}" if run.needs else ""
    return f"{after}; its scores: {', '.join(rows)}" if rows else after
