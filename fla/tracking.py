"""Metrics go to metrics.jsonl first and to MLflow second; training never waits for the second.

MLflow's import alone takes 2 s and 185 MB, the first use of a new SQLite store 4 s, a call to a
dead server 247 s by its own defaults. So nothing of it happens on the training thread: `log`
appends a line to the journal, and a sender on rank 0 carries the journal to MLflow. Its SQL stores
ignore a point that they have already, so sending a journal twice changes nothing.
"""

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from fla.journal import Point, append_row, cut_torn_line
from fla.run_folder import RunFolder, write_json
from fla.sender import POINTS_PER_CALL, Sender, Status, one_line, without_password
from fla.sigterm import SigtermWatch

log = logging.getLogger(__name__)

# The user's own settings win over these. The sender tries again by itself: MLflow's own seven
# attempts would take 247 s, and the end of a run waits for one of them.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
# The launcher kills a rank 30 s after SIGTERM.
_SIGTERM_GRACE_S = 10.0
_PARAMS_PER_CALL = 100


class Tracker(Protocol):
    """What training and evaluation may ask for. Nothing here raises, and only `close` waits."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics, by names such as `train/tokens_per_s`, as of `step` optimizer steps."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file, or what is in a folder, into `folder` of the run's artifacts."""

    def close(self, status: Status, timeout_s: float = 30.0) -> None:
        """End the run; wait until MLflow has everything, does not answer, or the time is over."""

    def __enter__(self) -> "Tracker": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_tracker(
    *,
    run_folder: RunFolder,
    uri: str,
    experiment: str,
    run_name: str,
    pipeline: str,
    params: Mapping[str, str | int | float | bool],
    tags: Mapping[str, str],
) -> "MlflowTracker":
    """Start recording a run: on rank 0 only, the others take a NullTracker.

    Use the result in a `with` block, which sets the end status. A run folder that has an MLflow run
    goes on with it: on resume call `truncate_journal` before, for a fresh start `set_aside`. On
    SIGTERM the run is marked KILLED and the process ends with exit status 143, even while its main
    thread is stuck in a collective.

    Args:
        uri: MLflow tracking URI; empty: `mlflow.db` in the folder that holds the run folder.
        pipeline: Name of the parent run, found or made in `experiment`; empty: no parent.
        params: Flat, such as `optim.learning_rate`. MLflow never changes one that it has: another
            value on resume goes into the tag `fla.param_drift`.
    """
    home = run_folder.path.parent.resolve()
    description = _RunDescription(
        uri=uri or f"sqlite:///{home}/mlflow.db",
        # A server knows its place; a database's default is whatever folder we are in today.
        artifacts=None if uri.startswith("http") else (home / "mlartifacts").as_uri(),
        experiment=experiment,
        run_name=run_name,
        pipeline=pipeline,
        params={name: without_password(str(value)) for name, value in params.items()},
        tags=dict(tags),
    )
    return MlflowTracker(run_folder, description)


class NullTracker:
    """Every rank but 0: records nothing."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        return

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return

    def close(self, status: Status, timeout_s: float = 30.0) -> None:
        return

    def __enter__(self) -> "NullTracker":
        return self

    def __exit__(self, *error: object) -> None:
        return


class MlflowTracker:
    """Rank 0: writes the journal; its sender carries it to MLflow."""

    def __init__(self, run_folder: RunFolder, description: "_RunDescription") -> None:
        self._journal = run_folder.metrics_jsonl
        cut_torn_line(self._journal)
        self._sender = Sender(
            self._journal,
            lambda: _MlflowRun(description, run_folder.mlflow_run_json),
            where=f"MLflow at {without_password(description.uri)}",
        )
        self._sigterm = SigtermWatch(lambda: self.close("KILLED", _SIGTERM_GRACE_S))

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        try:
            append_row(self._journal, metrics, step=step)
        except OSError as error:
            log.warning("%s: metrics of step %d are lost (%s).", self._journal, step, error)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self._sender.artifacts.append((path, folder))

    def close(self, status: Status, timeout_s: float = 30.0) -> None:
        self._sender.end(status, timeout_s=timeout_s)
        self._sigterm.remove()

    def __enter__(self) -> "MlflowTracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.close("KILLED")
        elif error is None or (isinstance(error, SystemExit) and not error.code):
            self.close("FINISHED")
        else:
            self.close("FAILED")


@dataclass(frozen=True, kw_only=True)
class _RunDescription:
    uri: str
    artifacts: str | None
    experiment: str
    run_name: str
    pipeline: str
    params: dict[str, str]
    tags: dict[str, str]


class _MlflowRun:
    """The room of MLflow: the calls that the sender makes, each safe to repeat.

    MlflowClient throughout: the `mlflow.log_...` functions share one active run per process, which
    may be someone else's.
    """

    def __init__(self, description: _RunDescription, run_json: Path) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        # One line a retry; the sender says it once an outage.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self.is_open = False
        self._client = MlflowClient(tracking_uri=description.uri)
        self._description = description
        self._run_json = run_json
        self._run_id = ""
        self._parent_id = ""

    def open(self) -> None:
        """Find or make experiment, parent and run, and write down which run it is."""
        wanted = self._description
        experiment_id = self._find_or_make_experiment()
        if wanted.pipeline:
            self._parent_id = self._find_or_make_parent(experiment_id)
        self._run_id = self._run_id or self._find_or_make_run(experiment_id)
        write_json(
            self._run_json,
            {
                "run_id": self._run_id,
                "parent_run_id": self._parent_id or None,
                "experiment": wanted.experiment,
                "tracking_uri": without_password(wanted.uri),
            },
        )
        self._write_params_and_tags()
        self.is_open = True

    def log_points(self, points: list[Point]) -> None:
        """Send points; MLflow would store an infinite one as 1.8e308 and ruin the chart."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        rows = [Metric(*point) for point in points if not math.isinf(point.value)]
        for first in range(0, len(rows), POINTS_PER_CALL):
            try:
                self._client.log_batch(self._run_id, rows[first : first + POINTS_PER_CALL])
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                # Trying again would not help, and would hold up what comes after.
                log.warning("MLflow refuses metrics: %s", one_line(error))

    def log_artifact(self, path: Path, folder: str) -> None:
        """Copy a file, or what is in a folder, to the run."""
        if path.is_dir():
            self._client.log_artifacts(self._run_id, str(path), folder or None)
        elif path.exists():
            self._client.log_artifact(self._run_id, str(path), folder or None)
        else:
            log.warning("%s is gone and will not be among MLflow's artifacts.", path)

    def set_status(self, status: Status) -> None:
        """End the run, and its parent as it ended."""
        for run_id in filter(None, (self._run_id, self._parent_id)):
            self._client.set_terminated(run_id, status)

    def _find_or_make_experiment(self) -> str:
        name = self._description.experiment
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, self._description.artifacts))

    def _find_or_make_parent(self, experiment_id: str) -> str:
        name = self._description.pipeline
        # The name is compared here: MLflow's filters cannot quote every one.
        for run in self._client.search_runs([experiment_id], "tags.`fla.role` = 'pipeline'"):
            if run.data.tags["fla.pipeline"] == name:
                self._client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
        tags = {"fla.role": "pipeline", "fla.pipeline": name}
        return str(self._client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)

    def _find_or_make_run(self, experiment_id: str) -> str:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking.context.registry import resolve_tags

        tags = {"mlflow.parentRunId": self._parent_id} if self._parent_id else {}
        if self._run_json.exists():
            before = json.loads(self._run_json.read_text(encoding="utf-8"))["run_id"]
            try:
                info = self._client.get_run(before).info
                if info.experiment_id == experiment_id and info.lifecycle_stage == "active":
                    self._client.update_run(before, status="RUNNING")
                    return str(before)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            log.warning("MLflow no longer has run %s here; a new one goes on.", before)
            tags["fla.resumed_from"] = before
        # User, source file and commit: MlflowClient does not set them by itself.
        made = self._client.create_run(
            experiment_id, tags=resolve_tags(tags), run_name=self._description.run_name
        )
        return str(made.info.run_id)

    def _write_params_and_tags(self) -> None:
        from mlflow.entities import Param, RunTag

        params, tags = self._description.params, dict(self._description.tags)
        there = self._client.get_run(self._run_id).data.params
        drift = {k: v for k, v in params.items() if there.get(k, v) != v}
        if drift:
            log.warning("Other values than when the run began: %s", ", ".join(drift))
            tags["fla.param_drift"] = json.dumps(drift)[:5000]
        new = [Param(k, v) for k, v in params.items() if k not in there]
        for first in range(0, len(new), _PARAMS_PER_CALL):
            self._client.log_batch(self._run_id, params=new[first : first + _PARAMS_PER_CALL])
        self._client.log_batch(self._run_id, tags=[RunTag(k, v) for k, v in tags.items()])
