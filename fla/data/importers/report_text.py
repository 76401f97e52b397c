"""An import's report in words: what the tool prints, and report.txt."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from fla.data.importers.report import ImportReport, SplitReport


def summarize(report: ImportReport) -> str:
    """A few lines a split, without the names of rows."""
    parts = [f"{report.corpus} from {report.source}", *report.remarks]
    parts += [_summary(name, split) for name, split in report.splits.items()]
    if report.rows_without_split:
        parts.append(f"in no split: {', '.join(report.rows_without_split)}")
    if report.unknown_exclusions:
        parts.append(f"to be excluded, but no row: {', '.join(report.unknown_exclusions)}")
    return "\n\n".join(parts) + "\n"


def describe(report: ImportReport) -> str:
    """The summary, then every row that is not as it was annotated."""
    details = [_details(name, split) for name, split in report.splits.items()]
    return "\n".join([summarize(report), *filter(None, details)])


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
    if split.labels is not None:
        rows["sentences from"] = split.labels
        rows["labels without rows"] = len(split.labels_without_rows)
    if split.other_lengths:
        rows["frames unlike annotated"] = len(split.other_lengths)
    if stamps is not None:
        rows["rows out of order"] = stamps.rows_out_of_order
        rows["overlapping neighbors"] = len(stamps.overlapping)
    if split.repaired:
        rows["mojibake, repaired"] = len(split.repaired)
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
    lines = [
        f"  line {row.line}: {_shown(row.id)}: {row.rule}: {row.reason}" for row in split.dropped
    ]
    text = _listed(f"{name}: rows dropped", lines)
    lines = [
        f"  line {row.line}: {_shown(row.id)}: {_quoted(row.before)} is now {_quoted(row.after)}"
        for row in split.repaired
    ]
    text += _listed(f"{name}: mojibake, repaired", lines)
    lines = [
        f"  line {row.line}: {_shown(row.id)}: {row.start_s} s to {row.end_s} s, "
        f"but the recording has {row.length_s:.3f} s"
        for row in split.clamped
    ]
    text += _listed(f"{name}: clamped to the recording", lines)
    text += _listed(
        f"{name}: frames unlike annotated", [f"  {line}" for line in split.other_lengths]
    )
    text += _listed(
        f"{name}: labels without rows", [f"  {label}" for label in split.labels_without_rows]
    )
    return text + _listed(
        f"{name}: videos without rows", [f"  {video}" for video in split.videos_without_rows]
    )


def _shown(id: str) -> str:
    """An id on one line, whatever is in it."""
    return id if id.isprintable() else _quoted(id)


def _quoted(text: str) -> str:
    """A text in quotes; in ASCII where it has characters that a terminal does not show."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *lines]) + "\n" if lines else ""
