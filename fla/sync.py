"""A run folder sent to MLflow as a whole: what training could not deliver arrives afterwards."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fla.continuation import DONE
from fla.errors import ConfigError, FlaError
from fla.journal import read_points
from fla.mlflow_opening import RunDescription, find_training_run
from fla.mlflow_run import MlflowRun
from fla.run_folder import RunFolder, read_best
from fla.saved_config import artifact_home, read_saved_config, tracking_uri
from fla.sender import one_line, without_password


@dataclass(frozen=True, kw_only=True)
class Synced:
    """What of a run is in MLflow now."""

    uri: str
    """Without a password."""
    run_id: str
    num_points: int
    num_files: int


def sync_run(path: Path, *, uri: str) -> Synced:
    """Send journal, records, translations and export of a run; what is there already stays.

    The run is made where MLflow has none. Its status is set where training has ended, and else left
    as it is.

    Args:
        path: Run folder of a stage.
        uri: MLflow tracking URI; empty: that of the run's settings.

    Raises:
        ConfigError: The folder is not of a training run.
        FlaError: MLflow does not take it.
    """
    folder = RunFolder(path.absolute())
    named = uri or read_saved_config(folder).get("tracking.uri", "")
    # A run's own store knows its place; another one has another.
    uri = tracking_uri(folder, named=named)
    artifacts = artifact_home(folder, uri=uri)
    description = replace(_read_description(folder), uri=uri, artifacts=artifacts)
    shown = without_password(description.uri)
    points, _ = read_points(folder.metrics_jsonl)
    files = [*_files(folder)]
    try:
        destination = MlflowRun(
            description.uri,
            partial(find_training_run, description=description, run_json=folder.mlflow_run_json),
        )
        destination.open()
        destination.log_points(points)
        for file, kind in files:
            destination.log_artifact(file, kind)
        for split, decodes in _translations(folder):
            destination.log_translations(decodes, split)
        if (folder.export / "config.json").is_file():
            destination.log_export(folder.export)
        status = "FINISHED" if (folder.path / DONE).is_file() else description.ended
        # Saying it again would move the run's end.
        if status and status != destination.status:
            destination.set_status(status)
    except FlaError:
        raise
    except Exception as error:
        # Whatever MLflow, its database or the network throws.
        raise FlaError(
            f"{path}: MLflow at {shown} does not take it ({one_line(error)}). Start or mend the "
            "server and try again: what has arrived is not sent twice."
        ) from error
    run_id = json.loads(folder.mlflow_run_json.read_text(encoding="utf-8"))["run_id"]
    return Synced(uri=shown, run_id=run_id, num_points=len(points), num_files=len(files))


def _read_description(folder: RunFolder) -> RunDescription:
    if not folder.tracking_json.is_file():
        raise ConfigError(
            f"{folder.path}: there is no tracking.json, so this is no folder of a training run. "
            "Name one, such as runs/demo/stage2."
        )
    return RunDescription(**json.loads(folder.tracking_json.read_text(encoding="utf-8")))


def _files(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """Files to copy, with their folders among the artifacts, as training sends them."""
    for path in (
        folder.config_yaml,
        folder.deepspeed_json,
        folder.provenance_json,
        folder.skipped_tsv,
    ):
        if path.is_file():
            yield path, ""
    for path in sorted(folder.decodes.glob("step_*.tsv")):
        yield path, "decodes"


def _translations(folder: RunFolder) -> Iterator[tuple[str, Path]]:
    for split, tag in (("dev", read_best(folder)), ("dev", "export"), ("test", "export")):
        path = folder.decodes_tsv(tag or "", split)
        if path.is_file():
            yield split, path
