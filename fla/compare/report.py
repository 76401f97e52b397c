"""The comparison as one HTML file that needs nothing else, not even a network."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fla.compare import charts
from fla.compare.comparison import Comparison
from fla.compare.scoring import METRICS, SIGNIFICANT
from fla.compare.template import MACROS, PAGE, STYLE
from fla.compare.words import format_p, tell_verdicts
from fla.metrics.scores import Scores

_SCORE_NAMES = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "chrf2": "chrF2",
    "chrf_pp": "chrF++",
    "bleurt": "BLEURT",
}


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
            score_names=_known_scores(comparison.scored[0].scores),
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


def _known_scores(scores: Scores) -> dict[str, str]:
    """Those that the protocol gives, with their names in print."""
    known = {field.name for field in fields(scores) if getattr(scores, field.name) is not None}
    return {key: title for key, title in _SCORE_NAMES.items() if key in known}
