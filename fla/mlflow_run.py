"""What the sender adds to a run in MLflow; each call is safe to repeat.

MlflowClient throughout: the `mlflow.log_...` functions share one active run per process, which
may be someone else's.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fla.errors import FlaError
from fla.journal import Point
from fla.mlflow_opening import OpenRun, make_store
from fla.mlflow_settings import apply_quiet_settings
from fla.sender import POINTS_PER_CALL, Status, one_line
from fla.translation_table import build_table

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

TRANSLATIONS = "translations"
"""Folder of the artifacts that has a table a split, in every run."""
# By it MLflow's page knows which artifacts are tables.
_TABLES_TAG = "mlflow.loggedArtifacts"


class MlflowRun:
    """The destination of a sender.

    Args:
        uri: Tracking URI.
        open_run: Finds or makes the run.
    """

    def __init__(self, uri: str, open_run: "Callable[[MlflowClient], OpenRun]") -> None:
        apply_quiet_settings()
        from mlflow import MlflowClient

        # A line, and a traceback, a retry; the sender says it once an outage.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self.is_open = False
        make_store(uri)
        self._client = MlflowClient(tracking_uri=uri)
        self._open_run = open_run
        self._run = OpenRun(run_id="")

    def open(self) -> None:
        """Find or make the run."""
        self._run = self._open_run(self._client)
        self.is_open = True

    @property
    def status(self) -> str:
        """What the run was when it was opened."""
        return self._run.status

    def log_points(self, points: list[Point]) -> None:
        """Send points; MLflow would store an infinite one as 1.8e308 and ruin the chart."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        rows = [Metric(*point) for point in points if not math.isinf(point.value)]
        for first in range(0, len(rows), POINTS_PER_CALL):
            try:
                self._client.log_batch(self._run.run_id, rows[first : first + POINTS_PER_CALL])
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE" or self._is_deleted():
                    raise
                # Trying again would not help, and would hold up what comes after.
                log.warning("MLflow refuses metrics: %s", one_line(error))

    def log_artifact(self, path: Path, folder: str) -> None:
        """Copy a file, or what is in a folder, to the run."""
        if path.is_dir():
            self._client.log_artifacts(self._run.run_id, str(path), folder or None)
        elif path.exists():
            self._client.log_artifact(self._run.run_id, str(path), folder or None)
        else:
            log.warning("%s is gone and will not be among MLflow's artifacts.", path)

    def log_export(self, folder: Path) -> None:
        """Copy an export to the run, and tag the run with the SHA-256 of its weights."""
        weights = folder / "model.safetensors"
        if weights.is_file():
            with weights.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._client.set_tag(self._run.run_id, "export.sha256", digest)
        self.log_artifact(folder, "export")

    def log_translations(self, decodes: Path, split: str) -> None:
        """Show a split's translations as a table; it takes the place of an earlier one.

        MlflowClient.log_table would append.
        """
        try:
            table = build_table(decodes)
        except FlaError as error:
            log.warning("No table of translations: %s", error)
            return
        with TemporaryDirectory() as temporary:
            path = Path(temporary) / f"{split}.json"
            path.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
            self.log_artifact(path, TRANSLATIONS)
        self._name_table(f"{TRANSLATIONS}/{split}.json")

    def set_status(self, status: Status) -> None:
        """End the run, and its parent as it ended."""
        for run_id in filter(None, (self._run.run_id, self._run.parent_id)):
            self._client.set_terminated(run_id, status)

    def _is_deleted(self) -> bool:
        return self._client.get_run(self._run.run_id).info.lifecycle_stage != "active"

    def _name_table(self, path: str) -> None:
        tags = self._client.get_run(self._run.run_id).data.tags
        named = json.loads(tags.get(_TABLES_TAG, "[]"))
        table = {"path": path, "type": "table"}
        if table not in named:
            value = json.dumps([*named, table])
            self._client.set_tag(self._run.run_id, _TABLES_TAG, value)
