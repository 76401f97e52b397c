"""A run as MLflow has it, and runs by what a user calls them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fla.compare.from_folder import gather_curves, read_folder
from fla.compare.records import Decodes, MlflowPlace, RunRecord
from fla.errors import ConfigError, first_line
from fla.mlflow_reader import MlflowReader, StoredRun
from fla.run_folder import DecodedRow

RUNS = Path("runs")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_EXPRESSION = re.compile(r"[=<>]|\b(I?LIKE|IN|IS)\b", re.IGNORECASE)
_SPLITS = ("train", "dev", "test")
_FACTS = {"stage": "stage", "dataset": "data set", "git.commit": "commit"}


def find_runs(words: Sequence[str], *, uri: str) -> list[RunRecord]:
    """Read the runs that a user names.

    Args:
        words: Run folders, MLflow run ids and MLflow filters.
        uri: MLflow tracking URI; empty: the `mlflow.db` beside the run folders that are named,
            else the only one below `runs/`.

    Raises:
        FlaError: A word names no run or several, or its run cannot be read.
    """
    folders = [Path(word) for word in words if Path(word).is_dir()]
    readers: list[MlflowReader] = []
    records = []
    for word in words:
        if Path(word).is_dir():
            records.append(read_folder(Path(word), uri=uri))
            continue
        if not (_RUN_ID.fullmatch(word) or _EXPRESSION.search(word)):
            raise ConfigError(
                f"{word}: there is no such run folder, and this is neither a run id of MLflow nor "
                "a search such as \"tags.stage = 'stage2'\"."
            )
        if not readers:
            readers.append(MlflowReader(uri or _find_store(folders)))
        found = readers[0].find(word) if _RUN_ID.fullmatch(word) else readers[0].search(word)
        records.append(_read_run(readers[0], found))
    return records


def log_report(report: Path, records: Iterable[RunRecord]) -> list[str]:
    """Copy a report to the MLflow runs of those that it compares.

    Returns:
        A sentence for each that MLflow did not take.
    """
    faults = []
    for record in records:
        if record.mlflow is None:
            continue
        try:
            reader = MlflowReader(record.mlflow.uri)
            reader.add_artifact(record.mlflow.run_id, report, "comparisons")
        except ConfigError as error:
            faults.append(f"The report was not logged to {record.name}: {error}")
    return faults


def _read_run(reader: MlflowReader, found: StoredRun) -> RunRecord:
    folder = Path(found.tags.get("run_folder", ""))
    # The folder has all of it, where this is its machine and no other run took its place.
    if found.tags.get("run_folder") and (folder / "mlflow_run.json").is_file():
        record = read_folder(folder, uri=reader.uri)
        if record.mlflow is not None and record.mlflow.run_id == found.run_id:
            return record
    decodes = {split: it for split in _SPLITS if (it := _read_decodes(reader, found, split))}
    manifest_dir = found.params.get("data.manifest_dir", "")
    facts = {title: found.tags[tag] for tag, title in _FACTS.items() if tag in found.tags}
    if "commit" in facts:
        facts["commit"] = facts["commit"][:10]
    return RunRecord(
        name=found.name,
        where=found.run_id,
        config=found.params,
        curves=gather_curves(reader.read_points(found.run_id, found.metric_names)),
        decodes=decodes,
        manifest_dirs=(Path(manifest_dir),) if manifest_dir else (),
        facts=facts,
        mlflow=MlflowPlace(uri=reader.uri, run_id=found.run_id),
    )


def _read_decodes(reader: MlflowReader, found: StoredRun, split: str) -> Decodes | None:
    path = f"translations/{split}.json"
    table = reader.read_json(found.run_id, path)
    if table is None:
        return None
    columns = table.get("columns", [])
    if not {"id", "reference", "hypothesis"} <= set(columns):
        raise ConfigError(
            f"{found.run_id}: its artifact {path} has the columns {', '.join(columns) or 'none'}, "
            "and needs id, reference and hypothesis. Decode the split again."
        )
    try:
        rows = [dict(zip(columns, row, strict=True)) for row in table["data"]]
        texts = [DecodedRow(*(str(row[name]) for name in DecodedRow._fields)) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{found.run_id}: its artifact {path} is no table ({first_line(error)}). Decode the "
            "split again."
        ) from error
    return Decodes(
        rows=tuple(texts),
        source=f"{path} of {found.run_id}",
        protocol=found.tags.get("protocol", ""),
    )


def _find_store(folders: Sequence[Path]) -> str:
    beside = [folder.resolve().parent / "mlflow.db" for folder in folders]
    there = list(dict.fromkeys(path for path in beside if path.is_file()))
    there = there or sorted(path.resolve() for path in RUNS.glob("**/mlflow.db"))
    if len(there) != 1:
        found = f"there are {', '.join(map(str, there))}" if there else f"none is below {RUNS}/"
        raise ConfigError(
            f"Which MLflow store has these runs? Name it with --tracking-uri; {found}."
        )
    return f"sqlite:///{there[0]}"
