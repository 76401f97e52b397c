"""The comparison as one HTML file that needs nothing else, not even a network."""

from collections.abc import Sequence
from datetime import UTC, datetime

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fla.compare import charts
from fla.compare.comparison import Comparison
from fla.compare.scoring import METRICS, SIGNIFICANT
from fla.compare.template import MACROS, PAGE, STYLE
from fla.compare.words import format_p, tell_verdicts
from fla.metrics.scores import SCORES


def render_report(comparison: Comparison) -> str:
    """The whole page; whatever a run wrote stays text in it."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    outcomes = [_outcome(run.wins["bleu4"]) for run in comparison.scored[1:]]
    sentences = list(tell_verdicts(comparison))
    outcomes += [""] * (len(sentences) - len(outcomes))
    facts = dict.fromkeys(fact for record in comparison.records for fact in record.facts)
    return (
        environment.from_string(MACROS + PAGE)
        .render(
            it=comparison,
            title=_title([record.name for record in comparison.records]),
            style=Markup(STYLE),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            verdicts=list(zip(sentences, outcomes, strict=True)),
            facts=list(facts),
            score_names=SCORES,
            metrics=METRICS,
            significant=SIGNIFICANT,
            outcome=_outcome,
            format_p=format_p,
            width=charts.WIDTH,
            height=charts.HEIGHT,
            left=charts.LEFT,
            right=charts.RIGHT,
            bottom=charts.BOTTOM,
        )
        .lstrip()
    )


def _title(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}, compared"


def _outcome(verdict: int) -> str:
    return {1: "won", -1: "lost", 0: ""}[verdict]
