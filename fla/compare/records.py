"""What is known of a run that is compared, wherever it was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fla.run_folder import DecodedRow

Curve = tuple[tuple[int, float], ...]
"""Step and value, by rising steps."""


@dataclass(frozen=True, kw_only=True)
class Decodes:
    """A split as a run translated it."""

    rows: tuple[DecodedRow, ...]
    source: str
    """File or artifact, as errors name it."""
    protocol: str
    """Name of the convention that it was scored by; empty: it says none."""


@dataclass(frozen=True, kw_only=True)
class MlflowPlace:
    """Where a run lies in MLflow."""

    uri: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as it is compared."""

    name: str
    """What tables call it."""
    where: str
    """Path of its folder, or its id in MLflow: tells runs of one name apart."""
    config: Mapping[str, str]
    """Settings by their full keys; none where the run says nothing of them."""
    decoding: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """How each split was decoded, by full keys such as beam.num_beams."""
    curves: Mapping[str, Curve]
    """By metric: train/loss_nats_per_token, dev/bleu4 ..."""
    decodes: Mapping[str, Decodes]
    """By split."""
    manifest_dirs: tuple[Path, ...] = ()
    """Where the manifests of its splits may lie, the likeliest first."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else the heading says: stage, data set, commit."""
    mlflow: MlflowPlace | None = None


def with_unique_names(records: Sequence[RunRecord]) -> list[str]:
    """Names of runs, with what tells them apart where two have one name."""
    names = [record.name for record in records]
    if len(set(names)) == len(names):
        return names
    longer = [_with_place(record) for record in records]
    if len(set(longer)) == len(longer):
        return longer
    return [f"{name} ({number})" for number, name in enumerate(longer, start=1)]


def _with_place(record: RunRecord) -> str:
    place = Path(record.where)
    return f"{place.parent.name}/{record.name}" if place.parent.name else f"{record.name} {place}"
