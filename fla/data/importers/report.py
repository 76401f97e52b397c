"""What an importer did with every row: a report to keep beside the manifests.

A row that was read is either a sample or named here with the rule that dropped it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fla.data.manifest import Sample

NO_VIDEO = "no video"
"""The rule that drops a row whose recording is not there."""

UNREADABLE = "unreadable recording"
"""The rule that drops a row whose recording cannot be read."""


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
class Repaired:
    """A sample whose sentence was UTF-8 read as Latin-1 and no longer is."""

    id: str
    line: int
    before: str
    after: str


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
    """Ids of samples whose sentence also stands in train, repaired or not; empty for train."""
    mojibake: tuple[str, ...]
    """Ids of samples whose sentence is UTF-8 read as Latin-1, and written so."""
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
    repaired: Sequence[Repaired] = ()
    clamped: Sequence[Clamped] = ()
    other_lengths: Sequence[str] = ()
    """Samples that have another number of frames than the annotation says, a sentence each."""
    stamps: Stamps | None = None
    """None where the annotation has no stamps."""
    labels: Path | None = None
    """File that the sentences come from, where that is not the annotation."""
    labels_without_rows: Sequence[str] = ()
    """Names in that file that no row has."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split: `rows_read` is `samples_written` plus the number of `dropped`."""

    annotation: str
    """The file, relative to the source folder where it lies there."""
    labels: str | None
    """File that the sentences come from, where that is not the annotation."""
    labels_without_rows: tuple[str, ...]
    """Names in that file that no row has."""
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
    repaired: tuple[Repaired, ...]
    """Samples whose sentence is not that of the annotation; train's at most."""
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
    remarks: tuple[str, ...]
    """What holds for all splits and is to be known first, a sentence each."""
    splits: dict[str, SplitReport]
    rows_without_split: tuple[str, ...]
    """Names that the annotation has and no split; they became nothing."""
    unknown_exclusions: tuple[str, ...]
    """Ids that the list of rows to leave out has and no row."""
