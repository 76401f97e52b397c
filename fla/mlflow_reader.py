"""Reading what MLflow has of runs, and adding a file to one: for comparisons, when all is over."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fla.errors import ConfigError
from fla.journal import Point
from fla.mlflow_settings import apply_quiet_settings
from fla.sender import one_line, without_password

MAX_LISTED = 5
"""Runs that an ambiguous search names."""
_SQLITE = "sqlite:///"


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as MLflow has it."""

    run_id: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metric_names: tuple[str, ...]


class MlflowReader:
    """One MLflow store.

    Args:
        uri: Tracking URI.

    Raises:
        ConfigError: It names a database file that is not there, which MLflow would make, or no
            store that answers.
    """

    def __init__(self, uri: str) -> None:
        if Path(uri).is_file():
            raise ConfigError(
                f"{uri}: this is a file. Name the store as {_SQLITE}{Path(uri).absolute()}."
            )
        if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
            raise ConfigError(
                f"{uri}: there is no such database. Name the store of the runs with --tracking-uri."
            )
        apply_quiet_settings()
        from mlflow import MlflowClient

        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self.uri = uri
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)
        except Exception as error:
            # MLflow's own, the database's, the network's.
            raise self._fault(error) from None

    def find(self, run_id: str) -> StoredRun:
        """The run of an id.

        Raises:
            ConfigError: There is none, or the store does not answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            return _describe(self._client.get_run(run_id))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise self._fault(error) from None
        raise ConfigError(
            f"{run_id}: MLflow at {without_password(self.uri)} has no run of this id. Look it up "
            "in MLflow, or name another store with --tracking-uri."
        )

    def search(self, expression: str) -> StoredRun:
        """The one run that an MLflow filter matches; parents of pipelines do not count.

        Raises:
            ConfigError: None matches, several do, or the expression is not one.
        """
        from mlflow.exceptions import MlflowException

        try:
            experiments = [one.experiment_id for one in self._client.search_experiments()]
            found = self._client.search_runs(experiments, expression, max_results=100)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise self._fault(error) from None
            raise ConfigError(
                f"{expression}: MLflow does not understand this search ({one_line(error)}). Write "
                "it as \"tags.stage = 'stage2' and params.seed = '1'\"."
            ) from None
        runs = [_describe(run) for run in found if run.data.tags.get("fla.role") != "pipeline"]
        if len(runs) == 1:
            return runs[0]
        where = f"{expression}: in MLflow at {without_password(self.uri)}"
        if not runs:
            raise ConfigError(f"{where}, no run matches. Search for something else.")
        listed = ", ".join(f"{run.name} ({run.run_id})" for run in runs[:MAX_LISTED])
        more = " and more" if len(runs) > MAX_LISTED else ""
        raise ConfigError(f"{where}, {len(runs)} runs match: {listed}{more}. Name one by its id.")

    def read_points(self, run_id: str, names: Iterable[str]) -> list[Point]:
        """All points of some metrics, oldest first.

        Raises:
            ConfigError: The store does not answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            metrics = [
                metric for name in names for metric in self._client.get_metric_history(run_id, name)
            ]
        except MlflowException as error:
            raise self._fault(error) from None
        points = [Point(it.key, it.value, it.timestamp, it.step) for it in metrics]
        return sorted(points, key=lambda point: point.timestamp_ms)

    def read_json(self, run_id: str, path: str) -> dict[str, Any] | None:
        """A JSON file among a run's artifacts; None: there is none.

        Raises:
            ConfigError: The store does not answer, or the file is no JSON.
        """
        from mlflow.exceptions import MlflowException

        folder, _, _ = path.rpartition("/")
        try:
            there = self._client.list_artifacts(run_id, folder or None)
            if path not in {item.path for item in there}:
                return None
            with TemporaryDirectory() as temporary:
                copy = self._client.download_artifacts(run_id, path, temporary)
                content = json.loads(Path(copy).read_text(encoding="utf-8"))
        except (MlflowException, OSError, ValueError) as error:
            raise self._fault(error) from None
        return content if isinstance(content, dict) else None

    def add_artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Copy a file into a folder of a run's artifacts.

        Raises:
            ConfigError: The store does not take it.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_artifact(run_id, str(path), folder)
        except (MlflowException, OSError) as error:
            raise self._fault(error) from None

    def _fault(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"MLflow at {without_password(self.uri)} does not answer as it should "
            f"({one_line(error)}). Start its server, or name another store with --tracking-uri."
        )


def _describe(run: Any) -> StoredRun:
    return StoredRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        params=run.data.params,
        tags=run.data.tags,
        metric_names=tuple(run.data.metrics),
    )
