"""The end of every import: manifests and report are made and written."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, pairwise
from pathlib import Path

from fla.data.importers.options import Options
from fla.data.importers.report import (
    NO_VIDEO,
    Durations,
    ImportedSplit,
    ImportReport,
    Sentences,
    SplitReport,
)
from fla.data.importers.report_text import describe
from fla.data.importers.sentences import is_mojibake
from fla.data.manifest import Sample, fingerprint, write_manifest
from fla.errors import DataError

_REPAIRS = (
    "Sentences of train that are UTF-8 read as Latin-1 are repaired and listed; references of dev "
    "and test are as published."
)


def finish_import(
    corpus: str,
    splits: Mapping[str, ImportedSplit],
    *,
    options: Options,
    source: Path,
    output: Path,
    rows_without_split: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> ImportReport:
    """Write manifests and report: train.tsv, dev.tsv, test.tsv, report.json and report.txt.

    Args:
        corpus: Its name, for the report.
        splits: By our name, train first.
        options: What the user asked for.
        source: The folder that was imported and that the samples' videos are relative to, absolute.
        output: Where to write; exists.
        rows_without_split: Names that the annotation has and no split.
        remarks: What holds for all splits and is to be known first, a sentence each.

    Raises:
        DataError: a split has no row, or none that became a sample, or two have the same one.
            Nothing has been written then.
    """
    faults = [fault for name, split in splits.items() for fault in _faults(name, split)]
    faults += _shared(splits)
    if faults:
        raise DataError("\n".join(faults))
    train = {sample.sentence for sample in splits["train"].samples}
    # What dev and test have as published may be what train had before it was repaired.
    train |= {sentence.before for sentence in splits["train"].repaired}
    report = ImportReport(
        corpus=corpus,
        source=str(source),
        remarks=(*remarks, *([_REPAIRS] if options.repair_mojibake else [])),
        splits={
            name: _describe_split(split, source, set() if name == "train" else train)
            for name, split in splits.items()
        },
        rows_without_split=tuple(rows_without_split),
        unknown_exclusions=tuple(sorted(options.excluded.keys() - _ids(splits))),
    )
    for name, split in splits.items():
        write_manifest(output / f"{name}.tsv", split.samples, root=source)
    _write_report(output, report)
    return report


def _faults(name: str, split: ImportedSplit) -> list[str]:
    if split.samples:
        return []
    if not split.dropped:
        return [f"{split.annotation}: has no row of {name}. Download it again."]
    rules = Counter(row.rule for row in split.dropped)
    by_rule = ", ".join(f"{count} {rule}" for rule, count in sorted(rules.items()))
    first = split.dropped[0]
    return [
        f"{split.annotation}: none of its {len(split.dropped)} rows became a sample ({by_rule}); "
        f"the first is {first.id}: {first.reason.rstrip('.')}. Check that videos and annotation "
        "are of the same split."
    ]


def _shared(splits: Mapping[str, ImportedSplit]) -> list[str]:
    """A sentence for each two splits that have the same clips, whatever their names."""
    clips = {
        name: {(s.video, s.start_s, s.end_s): s.id for s in split.samples}
        for name, split in splits.items()
    }
    faults = []
    for one, other in combinations(splits, 2):
        both = [id for clip, id in clips[other].items() if clip in clips[one]]
        if both:
            faults.append(
                f"{splits[other].annotation}: {len(both)} clips of {other} are also in {one}, such "
                f"as {both[0]}. Name each split's own file, or remove them from one."
            )
    return faults


def _ids(splits: Mapping[str, ImportedSplit]) -> set[str]:
    return {
        row.id
        for split in splits.values()
        for rows in (split.samples, split.dropped)
        for row in rows
    }


def _describe_split(split: ImportedSplit, source: Path, train_sentences: set[str]) -> SplitReport:
    return SplitReport(
        annotation=_inside(source, split.annotation),
        labels=_inside(source, split.labels) if split.labels else None,
        labels_without_rows=tuple(split.labels_without_rows),
        rows_read=len(split.samples) + len(split.dropped),
        published=split.published,
        samples_written=len(split.samples),
        frames=sum(sample.num_frames for sample in split.samples),
        recordings=len({sample.video for sample in split.samples}),
        dropped=tuple(split.dropped),
        rows_without_video=tuple(row.id for row in split.dropped if row.rule == NO_VIDEO),
        videos_without_rows=tuple(split.videos_without_rows),
        repaired=tuple(split.repaired),
        clamped=tuple(split.clamped),
        other_lengths=tuple(split.other_lengths),
        durations=_describe_durations(split.samples),
        stamps=split.stamps,
        sentences=_describe_sentences(split.samples, train_sentences),
        fingerprint=fingerprint(split.samples),
    )


def _inside(source: Path, path: Path) -> str:
    return (path.relative_to(source) if path.is_relative_to(source) else path).as_posix()


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


def _write_report(folder: Path, report: ImportReport) -> None:
    # report.json has everything, report.txt is for reading.
    text = json.dumps(asdict(report), indent=2, ensure_ascii=False)
    for name, content in (("report.json", f"{text}\n"), ("report.txt", describe(report))):
        # A name on disk need not be UTF-8; JSON reads the escape that is written for it.
        (folder / name).write_text(content, encoding="utf-8", errors="backslashreplace")
