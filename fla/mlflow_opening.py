"""Finding or making the run in MLflow that a run folder belongs to; each call is safe to repeat."""

import json
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fla.errors import ConfigError
from fla.run_folder import write_json
from fla.sender import Status, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

log = logging.getLogger(__name__)

_PARAMS_PER_CALL = 100
_KEY_TAG = "fla.key"


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """What a training run is to be in MLflow."""

    uri: str
    """Tracking URI."""
    artifacts: str | None
    """Where a new experiment keeps artifacts; None: its server knows."""
    experiment: str
    run_name: str
    pipeline: str
    """Name of the parent run; empty: none."""
    params: dict[str, str]
    tags: dict[str, str]
    key: str = ""
    """Tag by which a run is found whose making MLflow did not confirm."""
    ended: Status | None = None
    """What training ended as; None: it goes on, or was killed."""


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run in MLflow that things may be added to."""

    run_id: str
    parent_id: str = ""
    """Of its pipeline; empty: none."""
    status: str = ""
    """When it was found."""


def make_store(uri: str) -> None:
    """Make a SQLite store that is missing, whole or not at all.

    A process that dies while MLflow makes its tables would leave a store that nobody can open.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    # Another name at each attempt: MLflow would go on with the file that it has open.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        MlflowClient(tracking_uri=f"sqlite:///{beside}").search_experiments()
        _give_name(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def open_training_run(
    client: "MlflowClient", description: RunDescription, *, run_json: Path
) -> OpenRun:
    """Find or make experiment, parent and run, which goes on from now on."""
    run = _find_or_make_both(client, description, run_json)
    if run.status != "RUNNING":
        client.update_run(run.run_id, status="RUNNING")
    if run.parent_id:
        client.update_run(run.parent_id, status="RUNNING")
    _describe(client, run, description, run_json)
    return run


def find_training_run(
    client: "MlflowClient", description: RunDescription, *, run_json: Path
) -> OpenRun:
    """Find or make experiment, parent and run, and leave the status of what there is.

    Raises:
        ConfigError: MLflow has the experiment among those that were deleted.
    """
    run = _find_or_make_both(client, description, run_json)
    _describe(client, run, description, run_json)
    return run


def open_ended_run(client: "MlflowClient", *, run_json: Path) -> OpenRun:
    """Find the run of a folder, and leave its status as it is.

    Raises:
        ConfigError: MLflow no longer has it.
    """
    run_id = str(json.loads(run_json.read_text(encoding="utf-8"))["run_id"])
    if client.get_run(run_id).info.lifecycle_stage != "active":
        raise ConfigError(f"{run_json}: MLflow's run {run_id} was deleted. Restore it there.")
    return OpenRun(run_id=run_id)


def _give_name(made: Path, path: Path) -> None:
    try:
        os.link(made, path)
    except FileExistsError:
        # Another run was first.
        return
    except OSError:
        # A file system without hard links.
        made.rename(path)


def _find_or_make_both(
    client: "MlflowClient", description: RunDescription, run_json: Path
) -> OpenRun:
    experiment_id = _find_or_make_experiment(client, description)
    parent_id = ""
    if description.pipeline:
        parent_id = _find_or_make_parent(client, description.pipeline, experiment_id)
    info = _find_or_make_run(client, description, experiment_id, parent_id, run_json)
    return OpenRun(run_id=str(info.run_id), parent_id=parent_id, status=str(info.status))


def _describe(
    client: "MlflowClient", run: OpenRun, description: RunDescription, run_json: Path
) -> None:
    """Write down which run it is, then tell MLflow what it is."""
    write_json(
        run_json,
        {
            "run_id": run.run_id,
            "parent_run_id": run.parent_id or None,
            "experiment": description.experiment,
            "tracking_uri": without_password(description.uri),
        },
    )
    _write_params_and_tags(client, description, run.run_id)


def _find_or_make_experiment(client: "MlflowClient", description: RunDescription) -> str:
    from mlflow.exceptions import MlflowException

    name = description.experiment
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, description.artifacts))
        except MlflowException as error:
            # Another run was first.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return _find_or_make_experiment(client, description)
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"tracking.experiment ({name}) was deleted in MLflow. Restore it there: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(found.experiment_id)


def _find_or_make_parent(client: "MlflowClient", name: str, experiment_id: str) -> str:
    # The name is compared here: MLflow's filters cannot quote every one.
    for run in client.search_runs([experiment_id], "tags.`fla.role` = 'pipeline'"):
        if run.data.tags["fla.pipeline"] == name:
            return str(run.info.run_id)
    tags = {"fla.role": "pipeline", "fla.pipeline": name}
    return str(client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)


def _find_or_make_run(
    client: "MlflowClient",
    description: RunDescription,
    experiment_id: str,
    parent_id: str,
    run_json: Path,
) -> "RunInfo":
    from mlflow.exceptions import MlflowException
    from mlflow.tracking.context.registry import resolve_tags

    tags = {"mlflow.parentRunId": parent_id} if parent_id else {}
    if run_json.exists():
        before = json.loads(run_json.read_text(encoding="utf-8"))["run_id"]
        try:
            info = client.get_run(before).info
            if info.experiment_id == experiment_id and info.lifecycle_stage == "active":
                return info
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        log.warning("MLflow no longer has run %s here; a new one goes on.", before)
        tags["fla.resumed_from"] = before
    if description.key:
        tags[_KEY_TAG] = description.key
        for run in client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{description.key}'"):
            return run.info
    # User, source file and commit: MlflowClient does not set them by itself.
    made = client.create_run(experiment_id, tags=resolve_tags(tags), run_name=description.run_name)
    return made.info


def _write_params_and_tags(
    client: "MlflowClient", description: RunDescription, run_id: str
) -> None:
    from mlflow.entities import Param, RunTag

    params, tags = description.params, dict(description.tags)
    there = client.get_run(run_id).data.params
    drift = {k: v for k, v in params.items() if there.get(k, v) != v}
    if drift:
        log.warning("Other values than when the run began: %s", ", ".join(drift))
        tags["fla.param_drift"] = json.dumps(drift)[:5000]
    new = [Param(k, v) for k, v in params.items() if k not in there]
    for first in range(0, len(new), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=new[first : first + _PARAMS_PER_CALL])
    client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
