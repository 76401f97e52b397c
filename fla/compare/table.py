"""The comparison for a terminal of 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence

from fla.compare.comparison import Comparison, Sentence
from fla.compare.scoring import METRICS, ScoredGroup, ScoredRun
from fla.compare.words import format_p, tell_verdicts

WIDTH = 80
NUM_SENTENCES = 3
"""Of each kind; the report has more."""
_NAME = 17
_CELL = 21
_MAX_SETTINGS = 20


def format_table(comparison: Comparison) -> str:
    """What differs, who wins, breakdowns and some sentences."""
    lines: list[str] = []
    for part in (
        _tell_heading(comparison),
        _tell_settings(comparison),
        _tell_scores(comparison.scored),
        _tell_groups("BLEU-4 by length", comparison.by_length, comparison),
        _tell_groups("BLEU-4 by signer", comparison.by_signer, comparison)
        if comparison.by_signer
        else _wrap(comparison.signer_note),
        _tell_sentences(comparison),
    ):
        lines += [*part, ""]
    return "\n".join(lines).rstrip() + "\n"


def _tell_heading(it: Comparison) -> Iterator[str]:
    paired = it.paired
    yield from _wrap(
        f"{paired.split}: {len(paired.ids)} sentences, baseline {it.records[0].name}, protocol "
        f"{paired.protocol}."
    )
    for note in (*paired.notes, *tell_verdicts(it)):
        yield from _wrap(note)


def _tell_settings(it: Comparison) -> Iterator[str]:
    if it.settings_note:
        yield from _wrap(it.settings_note)
    shown = [one for one in it.differences if None not in one.values][:_MAX_SETTINGS]
    verb = "setting differs" if len(it.differences) == 1 else "settings differ"
    yield f"{len(it.differences)} {verb}{':' if shown else '.'}"
    for one in shown:
        values = " | ".join(_cut(value or "empty", 60 // len(one.values)) for value in one.values)
        yield _cut(f"  {one.key:34} {values}", WIDTH)
    if rest := len(it.differences) - len(shown):
        yield f"  and {rest} more, in the report"


def _tell_scores(scored: Sequence[ScoredRun]) -> Iterator[str]:
    yield " " * _NAME + "".join(f"{title:>{_CELL}}" for title in METRICS.values())
    for run in scored:
        cells = (
            f"{getattr(run.scores, key):.2f} [{run.intervals[key].low:.1f} "
            f"{run.intervals[key].high:.1f}]"
            for key in METRICS
        )
        yield f"{_cut(run.name, _NAME - 1):{_NAME}}" + "".join(f"{cell:>{_CELL}}" for cell in cells)
        if run.comparisons is None:
            continue
        differences = (
            f"{run.comparisons[key].other - run.comparisons[key].baseline:+.2f}" for key in METRICS
        )
        yield f"{'  difference':{_NAME}}" + "".join(f"{it:>{_CELL}}" for it in differences)
        for label, name in (("bootstrap", "bootstrap_p"), ("randomisation", "randomisation_p")):
            values = (format_p(getattr(run.comparisons[key], name)) for key in METRICS)
            yield f"  {label:{_NAME - 2}}" + "".join(f"{it:>{_CELL}}" for it in values)
    yield "in brackets: 95 % intervals"


def _tell_groups(title: str, groups: Sequence[ScoredGroup], it: Comparison) -> Iterator[str]:
    cell = min(_CELL, (WIDTH - 32) // len(it.records))
    names = "".join(f"{_cut(record.name, cell - 1):>{cell}}" for record in it.records)
    yield f"{title:22}{'sentences':>10}{names}"
    for group in groups:
        scores = "".join(f"{scores.bleu4:{cell}.2f}" for scores in group.scores)
        yield f"{_cut(group.name, 21):22}{group.num_sentences:10}{scores}"


def _tell_sentences(it: Comparison) -> Iterator[str]:
    for one in it.changed:
        run, changes = it.records[one.run].name, one.changes
        yield from _wrap(
            f"{run}: {len(changes.better)} sentences better than {it.records[0].name} by chrF2, "
            f"{len(changes.worse)} worse, {changes.num_equal} equal."
        )
        for word, some in (("better", one.better), ("worse", one.worse)):
            for sentence in some[:NUM_SENTENCES]:
                yield from _tell_sentence(word, sentence, one.run, it)


def _tell_sentence(word: str, sentence: Sentence, run: int, it: Comparison) -> Iterator[str]:
    index = it.paired.ids.index(sentence.id)
    yield _cut(f"  {word} {sentence.gain:+.1f}  {sentence.id}", WIDTH)
    texts = (
        ("reference", sentence.reference),
        (it.records[0].name, it.paired.hypotheses[0][index]),
        (it.records[run].name, it.paired.hypotheses[run][index]),
    )
    for name, text in texts:
        yield from _wrap(text, first=f"    {_cut(name, 14):15}", then=" " * 19)


def _wrap(text: str, *, first: str = "", then: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=then)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
