"""The rules that every corpus shares: which rows become samples, and why the others do not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from fla.data.importers.options import Options
from fla.data.importers.report import Dropped, Repaired
from fla.data.importers.sentences import find_text_fault, repair_mojibake
from fla.data.manifest import Sample


class Row(Protocol):
    """A row of any annotation."""

    @property
    def id(self) -> str:
        """Name of the sample."""

    @property
    def line(self) -> int:
        """Of the annotation file, or the number of the entry where it has no lines."""


AnyRow = TypeVar("AnyRow", bound=Row)

Fault = tuple[str, str]
"""Short name of the rule that drops a row, and why it applies to this row."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Samples and dropped rows in the order of the rows; each row is in one of the two."""

    samples: list[Sample] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    repaired: list[Repaired] = field(default_factory=list)
    """Samples whose sentence is not that of their row."""


def apply_rules(
    rows: Sequence[AnyRow],
    make: Callable[[AnyRow], Sample | Fault],
    *,
    split: str,
    options: Options,
) -> Outcome:
    """Make samples of a split's rows.

    Args:
        rows: In the order of the annotation.
        make: Makes the sample, by the corpus' own rules; frames may be fewer than allowed.
        split: Our name of it.
        options: What the user asked for.
    """
    # References that scores are compared by stay as published.
    repairs = options.repair_mojibake and split == "train"
    outcome = Outcome()
    first_lines: dict[str, int] = {}
    for row in rows:
        first_line = first_lines.setdefault(row.id, row.line)
        if row.id in options.excluded:
            result: Sample | Fault = ("excluded", options.excluded[row.id])
        elif first_line != row.line:
            result = ("repeated", f"line {first_line} has the same name")
        else:
            result = make(row)
        if isinstance(result, Sample):
            before = result.sentence
            after = repair_mojibake(before) if repairs else before
            result = replace(result, sentence=after)
            result = _find_fault(result, options) or result
        if not isinstance(result, Sample):
            rule, reason = result
            outcome.dropped.append(Dropped(id=row.id, line=row.line, rule=rule, reason=reason))
            continue
        outcome.samples.append(result)
        if after != before:
            outcome.repaired.append(Repaired(id=row.id, line=row.line, before=before, after=after))
    return outcome


def _find_fault(sample: Sample, options: Options) -> Fault | None:
    texts = {"name": sample.id, "video": sample.video, "signer": sample.signer}
    texts["sentence"] = sample.sentence
    for what, text in texts.items():
        fault = find_text_fault(text)
        if fault:
            return "no plain text", f"its {what} {fault}"
    if not sample.sentence.strip():
        return "no sentence", "its sentence is empty"
    if sample.num_frames < options.min_frames:
        return (
            f"fewer than {options.min_frames} frames",
            f"{sample.start_s:g} s to {sample.end_s:g} s holds {sample.num_frames} frames",
        )
    return None
