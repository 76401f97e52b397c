"""What an importer did with every row: a report to keep beside the manifests.

A row that was read is either a sample or named here with the rule that dropped it.
"""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fla.data.manifest import Sample


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A row that did not become a sample."""

    id: str
    line: int
    """Line of the annotation file, counted from 1."""
    rule: str
    """Short name of the rule, the same for all rows that it dropped."""
    reason: str
    """Why the rule applies to this row, with its values."""


@dataclass(frozen=True, kw_only=True)
class Clamped:
    """A sample whose range was cut to its recording."""

    id: str
    line: int
    start_s: float
    """As annotated."""
    end_s: float
    """As annotated."""
    length_s: float
    """Length of the recording: the range is cut to 0 <= t < length_s."""


@dataclass(frozen=True, kw_only=True)
class Durations:
    """How long a split's samples are, after clamping."""

    hours: float
    """All samples together; overlaps count twice."""
    min_s: float
    median_s: float
    max_s: float


@dataclass(frozen=True, kw_only=True)
class Stamps:
    """How the annotated ranges lie, whether their rows became samples or not."""

    rows_out_of_order: int
    """Rows that start before the row above them of the same recording."""
    overlapping: tuple[tuple[str, str], ...]
    """Neighbors in time within one recording, the second of which starts before the first ends."""


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """What a split's references repeat, compared letter for letter."""

    duplicates: int
    """Samples whose sentence an earlier sample of the split has."""
    shared_with_train: tuple[str, ...]
    """Ids of samples whose sentence also stands in train; empty for train itself."""
    mojibake: tuple[str, ...]
    """Ids of samples whose sentence is UTF-8 read as Latin-1; written as it is."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split: `rows_read` is `samples_written` plus the number of `dropped`."""

    annotation: str
    """The file, relative to the source folder."""
    rows_read: int
    samples_written: int
    recordings: int
    """Recordings that at least one sample comes from."""
    dropped: tuple[Dropped, ...]
    rows_without_video: tuple[str, ...]
    """Ids of rows whose recording is not there; `dropped` has them too."""
    videos_without_rows: tuple[str, ...]
    """Recordings that no row names, relative to the source folder."""
    clamped: tuple[Clamped, ...]
    durations: Durations
    stamps: Stamps
    sentences: Sentences
    fingerprint: dict[str, int | str]
    """Of the samples written: see `fla.data.manifest.fingerprint`."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of a whole download."""

    corpus: str
    source: str
    """The folder that was imported, absolute."""
    splits: dict[str, SplitReport]

    def summary(self) -> str:
        """A few lines a split, without the names of rows."""
        parts = [f"{self.corpus} from {self.source}"]
        parts += [_summary(name, split) for name, split in self.splits.items()]
        return "\n\n".join(parts) + "\n"


def describe_durations(samples: Sequence[Sample]) -> Durations:
    """Sum up at least one sample; rounded, since the stamps have two decimals."""
    durations = [sample.end_s - sample.start_s for sample in samples]
    return Durations(
        hours=round(sum(durations) / 3600, 4),
        min_s=round(min(durations), 3),
        median_s=round(statistics.median(durations), 3),
        max_s=round(max(durations), 3),
    )


def describe_sentences(samples: Sequence[Sample], train: Sequence[Sample]) -> Sentences:
    """Compare a split's sentences with each other and with train's; no `train` for train itself."""
    in_train = {sample.sentence for sample in train}
    return Sentences(
        duplicates=len(samples) - len({sample.sentence for sample in samples}),
        shared_with_train=tuple(s.id for s in samples if s.sentence in in_train),
        mojibake=tuple(s.id for s in samples if is_mojibake(s.sentence)),
    )


def is_mojibake(sentence: str) -> bool:
    """Whether a sentence is UTF-8 that somebody read as Latin-1 and saved as UTF-8 again."""
    if sentence.isascii():
        return False
    try:
        sentence.encode("latin-1").decode()
    except UnicodeError:
        return False
    return True


def write_report(folder: Path, report: ImportReport) -> None:
    """Write `report.json` with everything and `report.txt` for reading; the folder exists."""
    text = json.dumps(asdict(report), indent=2, ensure_ascii=False)
    (folder / "report.json").write_text(f"{text}\n", encoding="utf-8")
    details = [_details(name, split) for name, split in report.splits.items()]
    parts = [report.summary(), *filter(None, details)]
    (folder / "report.txt").write_text("\n".join(parts), encoding="utf-8")


def _summary(name: str, split: SplitReport) -> str:
    rules = Counter(row.rule for row in split.dropped)
    durations, stamps, sentences = split.durations, split.stamps, split.sentences
    by_rule = "".join(f", {count} {rule}" for rule, count in sorted(rules.items()))
    rows = {
        "rows read": split.rows_read,
        "samples written": f"{split.samples_written} from {split.recordings} recordings",
        "hours": f"{durations.hours:.2f}",
        "duration": f"{durations.min_s:.2f} s min, {durations.median_s:.2f} s median, "
        f"{durations.max_s:.2f} s max",
        "rows dropped": f"{len(split.dropped)}{by_rule}",
        "rows without video": len(split.rows_without_video),
        "videos without rows": len(split.videos_without_rows),
        "clamped to the recording": len(split.clamped),
        "rows out of order": stamps.rows_out_of_order,
        "overlapping neighbors": len(stamps.overlapping),
        "duplicate sentences": sentences.duplicates,
        "sentence also in train": len(sentences.shared_with_train),
        "mojibake, left as it is": len(sentences.mojibake),
        "fingerprint": f"{split.fingerprint['num_samples']} samples, "
        f"ids {str(split.fingerprint['ids_sha256'])[:12]}, "
        f"references {str(split.fingerprint['references_sha256'])[:12]}",
    }
    return "\n".join([name, *(f"  {label:<26}{value}" for label, value in rows.items())])


def _details(name: str, split: SplitReport) -> str:
    lines = [f"  line {row.line}: {row.id}: {row.rule}: {row.reason}" for row in split.dropped]
    text = _listed(f"{name}: rows dropped", lines)
    lines = [
        f"  line {row.line}: {row.id}: {row.start_s} s to {row.end_s} s, "
        f"but the recording has {row.length_s:.3f} s"
        for row in split.clamped
    ]
    text += _listed(f"{name}: clamped to the recording", lines)
    return text + _listed(
        f"{name}: videos without rows", [f"  {video}" for video in split.videos_without_rows]
    )


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *lines]) + "\n" if lines else ""
