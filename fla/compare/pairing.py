"""One split as all compared runs translated it, sample by sample."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fla.compare.records import RunRecord
from fla.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What the runs made of the samples that they share; the first run is the baseline."""

    split: str
    ids: tuple[str, ...]
    """In the baseline's order."""
    references: tuple[str, ...]
    hypotheses: tuple[tuple[str, ...], ...]
    """By run, each in the order of `ids`."""
    protocol: str
    """Name of the convention that all of them are scored by: the baseline's."""
    notes: tuple[str, ...]
    """What a reader must know of the choice, a sentence each."""


def pair_runs(records: Sequence[RunRecord], *, split: str) -> Paired:
    """Bring the translations of the runs together by sample id.

    Args:
        records: At least two; the first is the baseline.
        split: Empty: test where all of them have it, else dev.

    Raises:
        ConfigError: A run has no translations of the split.
        DataError: An id is there twice, no sample is shared, or references differ.
    """
    split = split or _choose_split(records)
    by_run = [_by_id(record, split) for record in records]
    shared = [i for i in by_run[0] if all(i in rows for rows in by_run[1:])]
    if not shared:
        raise DataError(
            f"{records[0].where} and {records[1].where}: of {split}, they share no sample id. "
            "Compare runs that translated the same samples."
        )
    for record, rows in zip(records[1:], by_run[1:], strict=True):
        _check_references(records[0], record, by_run[0], rows, shared)
    protocol, protocol_notes = _choose_protocol(records, split)
    return Paired(
        split=split,
        ids=tuple(shared),
        references=tuple(by_run[0][i][1] for i in shared),
        hypotheses=tuple(tuple(rows[i][0] for i in shared) for rows in by_run),
        protocol=protocol,
        notes=(*_tell_restriction(by_run, len(shared)), *protocol_notes),
    )


def _choose_split(records: Sequence[RunRecord]) -> str:
    for split in ("test", "dev"):
        if all(split in record.decodes for record in records):
            return split
    owners = {
        split: [record.where for record in records if split in record.decodes]
        for split in ("test", "dev")
    }
    bare = next((r for r in records if not r.decodes), None)
    if bare is not None:
        raise ConfigError(
            f"{bare.where}: this run has no translations. Decode a split with "
            "`deepspeed launchers/decode.py export_dir=EXPORT`, or wait for its first evaluation."
        )
    raise ConfigError(
        f"These runs have translated no split in common: test by {_list(owners['test'])}; dev by "
        f"{_list(owners['dev'])}. Decode the missing ones with `launchers/decode.py split=...`."
    )


def _by_id(record: RunRecord, split: str) -> dict[str, tuple[str, str]]:
    """Hypothesis and reference by id, in the order of the file."""
    found = record.decodes.get(split)
    if found is None or not found.rows:
        has = f"It has {', '.join(record.decodes)}" if record.decodes else "It has none at all"
        raise ConfigError(
            f"{record.where}: this run has no translations of {split}. {has}; "
            f"decode it with `launchers/decode.py split={split}`."
        )
    counts = Counter(row.id for row in found.rows)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise DataError(
            f"{found.source}: the id {repeated[0]} is there {counts[repeated[0]]} times. Decode "
            "the split again."
        )
    return {row.id: (row.hypothesis, row.reference) for row in found.rows}


def _check_references(
    baseline: RunRecord,
    other: RunRecord,
    baseline_rows: dict[str, tuple[str, str]],
    other_rows: dict[str, tuple[str, str]],
    shared: Sequence[str],
) -> None:
    different = [i for i in shared if baseline_rows[i][1] != other_rows[i][1]]
    if different:
        example = different[0]
        raise DataError(
            f"{baseline.where} and {other.where}: {len(different)} of {len(shared)} references "
            f"differ, such as {example}: {baseline_rows[example][1]!r} and "
            f"{other_rows[example][1]!r}. Decode both with the same manifest."
        )


def _tell_restriction(by_run: Sequence[dict[str, tuple[str, str]]], num_shared: int) -> list[str]:
    sizes = [len(rows) for rows in by_run]
    if all(size == num_shared for size in sizes):
        return []
    return [
        f"The runs translated {', '.join(map(str, sizes))} samples; the {num_shared} that they "
        "share are compared."
    ]


def _choose_protocol(records: Sequence[RunRecord], split: str) -> tuple[str, list[str]]:
    named = [
        record.decodes[split].protocol or record.config.get("metrics.protocol", "")
        for record in records
    ]
    chosen = next(filter(None, named), "text")
    others = sorted({name for name in named if name and name != chosen})
    if not others:
        return chosen, []
    return chosen, [
        f"Runs were scored by {chosen} and {', '.join(others)}; here all are scored by {chosen}."
    ]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
