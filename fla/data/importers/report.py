"""What an importer did with every row: a report to keep beside the manifests.

A row that was read is either a sample or named here with the rule that dropped it.
"""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from fla.data.manifest import Sample, fingerprint, write_manifest
from fla.errors import DataError

NO_VIDEO = "no video"
"""The rule that drops a row whose recording is not there."""


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
    histogram: dict[str, int]
    """Samples by duration: `"2-4"` counts those of 2 s <= duration < 4 s; doubling steps."""


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
    length_histogram: dict[str, int]
    """Samples by length of the sentence in characters, as in `Durations.histogram`."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a complete download holds."""

    num_rows: int
    num_frames: int | None = None
    note: str = ""
    """Other numbers in circulation, and whose they are."""


@dataclass(frozen=True, kw_only=True)
class ImportedSplit:
    """What an importer made of a split; samples and dropped rows are all that were read."""

    annotation: Path
    samples: Sequence[Sample]
    dropped: Sequence[Dropped]
    videos_without_rows: Sequence[str]
    """Recordings that no row names, relative to the source folder."""
    published: Published
    clamped: Sequence[Clamped] = ()
    other_lengths: Sequence[str] = ()
    """Samples that have another number of images than the annotation says, a sentence each."""
    stamps: Stamps | None = None
    """None where the annotation has no stamps."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split: `rows_read` is `samples_written` plus the number of `dropped`."""

    annotation: str
    """The file, relative to the source folder where it lies there."""
    rows_read: int
    published: Published
    samples_written: int
    frames: int
    """Of all samples together; overlaps count twice."""
    recordings: int
    """Recordings that at least one sample comes from."""
    dropped: tuple[Dropped, ...]
    rows_without_video: tuple[str, ...]
    """Ids of rows whose recording is not there; `dropped` has them too."""
    videos_without_rows: tuple[str, ...]
    """Recordings that no row names, relative to the source folder."""
    clamped: tuple[Clamped, ...]
    other_lengths: tuple[str, ...]
    durations: Durations
    stamps: Stamps | None
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
    rows_without_split: tuple[str, ...]
    """Names that the annotation has and no split; they became nothing."""

    def summary(self) -> str:
        """A few lines a split, without the names of rows."""
        parts = [f"{self.corpus} from {self.source}"]
        parts += [_summary(name, split) for name, split in self.splits.items()]
        if self.rows_without_split:
            parts.append(f"in no split: {', '.join(self.rows_without_split)}")
        return "\n\n".join(parts) + "\n"


def finish_import(
    corpus: str,
    splits: Mapping[str, ImportedSplit],
    *,
    source: Path,
    output: Path,
    rows_without_split: Sequence[str] = (),
) -> ImportReport:
    """Write manifests and report: train.tsv, dev.tsv, test.tsv, report.json and report.txt.

    Args:
        corpus: Its name, for the report.
        splits: By our name, train first.
        source: The folder that was imported and that the samples' videos are relative to, absolute.
        output: Where to write; exists.
        rows_without_split: Names that the annotation has and no split.

    Raises:
        DataError: a split has no row, or none that became a sample. Nothing has been written then.
    """
    for name, split in splits.items():
        if not split.samples and not split.dropped:
            raise DataError(f"{split.annotation}: has no row of {name}. Download it again.")
        if not split.samples:
            raise DataError(
                f"{split.annotation}: none of its {len(split.dropped)} rows became a sample; the "
                f"first is {split.dropped[0].id}: {split.dropped[0].reason}. Check that videos "
                "and annotation are of the same split."
            )
    train = {sample.sentence for sample in splits["train"].samples}
    report = ImportReport(
        corpus=corpus,
        source=str(source),
        splits={
            name: _describe_split(split, source, set() if name == "train" else train)
            for name, split in splits.items()
        },
        rows_without_split=tuple(rows_without_split),
    )
    for name, split in splits.items():
        write_manifest(output / f"{name}.tsv", split.samples, root=source)
    _write_report(output, report)
    return report


def _describe_split(split: ImportedSplit, source: Path, train_sentences: set[str]) -> SplitReport:
    annotation = split.annotation
    is_inside = annotation.is_relative_to(source)
    return SplitReport(
        annotation=(annotation.relative_to(source) if is_inside else annotation).as_posix(),
        rows_read=len(split.samples) + len(split.dropped),
        published=split.published,
        samples_written=len(split.samples),
        frames=sum(sample.num_frames for sample in split.samples),
        recordings=len({sample.video for sample in split.samples}),
        dropped=tuple(split.dropped),
        rows_without_video=tuple(row.id for row in split.dropped if row.rule == NO_VIDEO),
        videos_without_rows=tuple(split.videos_without_rows),
        clamped=tuple(split.clamped),
        other_lengths=tuple(split.other_lengths),
        durations=_describe_durations(split.samples),
        stamps=split.stamps,
        sentences=_describe_sentences(split.samples, train_sentences),
        fingerprint=fingerprint(split.samples),
    )


def _describe_durations(samples: Sequence[Sample]) -> Durations:
    # Rounded, since stamps have two decimals.
    durations = [sample.end_s - sample.start_s for sample in samples]
    return Durations(
        hours=round(sum(durations) / 3600, 4),
        min_s=round(min(durations), 3),
        median_s=round(statistics.median(durations), 3),
        max_s=round(max(durations), 3),
        histogram=_histogram(durations),
    )


def _describe_sentences(samples: Sequence[Sample], train_sentences: set[str]) -> Sentences:
    return Sentences(
        duplicates=len(samples) - len({sample.sentence for sample in samples}),
        shared_with_train=tuple(s.id for s in samples if s.sentence in train_sentences),
        mojibake=tuple(s.id for s in samples if is_mojibake(s.sentence)),
        length_histogram=_histogram([len(sample.sentence) for sample in samples]),
    )


def _histogram(values: Sequence[float]) -> dict[str, int]:
    """Counts between 0, 1, 2, 4, 8 and so on, as far as there are values."""
    edges = [0.0, 1.0]
    while edges[-1] <= max(values):
        edges.append(2 * edges[-1])
    return {
        f"{low:g}-{high:g}": sum(low <= value < high for value in values)
        for low, high in pairwise(edges)
    }


def is_mojibake(sentence: str) -> bool:
    """Whether a sentence is UTF-8 that somebody read as Latin-1 and saved as UTF-8 again."""
    if sentence.isascii():
        return False
    try:
        sentence.encode("latin-1").decode()
    except UnicodeError:
        return False
    return True


def _write_report(folder: Path, report: ImportReport) -> None:
    # report.json has everything, report.txt is for reading.
    text = json.dumps(asdict(report), indent=2, ensure_ascii=False)
    (folder / "report.json").write_text(f"{text}\n", encoding="utf-8")
    details = [_details(name, split) for name, split in report.splits.items()]
    parts = [report.summary(), *filter(None, details)]
    (folder / "report.txt").write_text("\n".join(parts), encoding="utf-8")


def _summary(name: str, split: SplitReport) -> str:
    rules = Counter(row.rule for row in split.dropped)
    durations, stamps, sentences, whole = (
        split.durations, split.stamps, split.sentences, split.published
    )  # fmt: skip
    by_rule = "".join(f", {count} {rule}" for rule, count in sorted(rules.items()))
    note = f"; {whole.note}" if whole.note else ""
    frames = f" (a complete download: {whole.num_frames})" if whole.num_frames else ""
    rows = {
        "rows read": f"{split.rows_read} (a complete download: {whole.num_rows}{note})",
        "samples written": f"{split.samples_written} from {split.recordings} recordings",
        "frames": f"{split.frames}{frames}",
        "hours": f"{durations.hours:.2f}",
        "duration": f"{durations.min_s:.2f} s min, {durations.median_s:.2f} s median, "
        f"{durations.max_s:.2f} s max",
        "samples by seconds": _in_line(durations.histogram),
        "samples by characters": _in_line(sentences.length_histogram),
        "rows dropped": f"{len(split.dropped)}{by_rule}",
        "rows without video": len(split.rows_without_video),
        "videos without rows": len(split.videos_without_rows),
        "clamped to the recording": len(split.clamped),
    }
    if split.other_lengths:
        rows["images unlike annotated"] = len(split.other_lengths)
    if stamps is not None:
        rows["rows out of order"] = stamps.rows_out_of_order
        rows["overlapping neighbors"] = len(stamps.overlapping)
    rows |= {
        "duplicate sentences": sentences.duplicates,
        "sentence also in train": len(sentences.shared_with_train),
        "mojibake, left as it is": len(sentences.mojibake),
        "fingerprint": f"{split.fingerprint['num_samples']} samples, "
        f"ids {str(split.fingerprint['ids_sha256'])[:12]}, "
        f"references {str(split.fingerprint['references_sha256'])[:12]}",
    }
    return "\n".join([name, *(f"  {label:<26}{value}" for label, value in rows.items())])


def _in_line(histogram: Mapping[str, int]) -> str:
    return ", ".join(f"{between}: {count}" for between, count in histogram.items() if count)


def _details(name: str, split: SplitReport) -> str:
    lines = [f"  line {row.line}: {row.id}: {row.rule}: {row.reason}" for row in split.dropped]
    text = _listed(f"{name}: rows dropped", lines)
    lines = [
        f"  line {row.line}: {row.id}: {row.start_s} s to {row.end_s} s, "
        f"but the recording has {row.length_s:.3f} s"
        for row in split.clamped
    ]
    text += _listed(f"{name}: clamped to the recording", lines)
    text += _listed(
        f"{name}: images unlike annotated", [f"  {line}" for line in split.other_lengths]
    )
    return text + _listed(
        f"{name}: videos without rows", [f"  {video}" for video in split.videos_without_rows]
    )


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *lines]) + "\n" if lines else ""
