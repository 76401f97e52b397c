"""Metrics go to metrics.jsonl first and to MLflow second; training never waits for the second.

MLflow's import alone takes 2 s and 185 MB, the first use of a new SQLite store 4 s, a call to a
dead server 247 s by its own defaults. So nothing of it happens on the training thread: `log`
appends a line to the journal, and a sender on rank 0 carries the journal to MLflow. Its SQL stores
ignore a point that they have already, so sending a journal twice changes nothing.
"""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

from fla.errors import DiskError, RunStopped
from fla.journal import append_row, cut_torn_line, read_points
from fla.metrics.scores import Scores
from fla.mlflow_opening import RunDescription, open_ended_run, open_training_run
from fla.mlflow_run import MlflowRun
from fla.run_folder import RunFolder, read_best, step_of, write_json
from fla.saved_config import artifact_home, read_saved_config, tracking_uri
from fla.sender import Sender, Status, without_password

log = logging.getLogger(__name__)

_DECODING_PATIENCE_S = 60.0


class Tracker(Protocol):
    """What training and evaluation may ask for. Nothing here raises, and only `close` waits."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics, by names such as `train/tokens_per_s`, as of `step` optimizer steps."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file, or what is in a folder, into `folder` of the run's artifacts."""

    def log_translations(self, decodes: Path, *, split: str) -> None:
        """Show a decodes file as the run's table of a split, in place of an earlier one."""

    def log_export(self, folder: Path) -> None:
        """Copy an export, and tag the run with the SHA-256 of its weights."""

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
    goes on with it: on resume call `truncate_journal` before, for a fresh start `set_aside`.

    Args:
        uri: MLflow tracking URI; empty: `mlflow.db` in the folder that holds the run folder.
        pipeline: Name of the parent run, found or made in `experiment`; empty: no parent.
        params: Flat, such as `optim.learning_rate`. MLflow never changes one that it has: another
            value on resume goes into the tag `fla.param_drift`.
    """
    description = RunDescription(
        uri=tracking_uri(run_folder, named=uri),
        artifacts=artifact_home(run_folder, uri=uri),
        experiment=experiment,
        run_name=run_name,
        pipeline=pipeline,
        params={name: without_password(str(value)) for name, value in params.items()},
        tags=dict(tags),
        key=secrets.token_hex(8),
    )
    return MlflowTracker(run_folder, description)


class NullTracker:
    """Every rank but 0: records nothing."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        return

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return

    def log_translations(self, decodes: Path, *, split: str) -> None:
        return

    def log_export(self, folder: Path) -> None:
        return

    def close(self, status: Status, timeout_s: float = 30.0) -> None:
        return

    def __enter__(self) -> "NullTracker":
        return self

    def __exit__(self, *error: object) -> None:
        return


class MlflowTracker:
    """Rank 0: writes the journal; its sender carries it to MLflow."""

    def __init__(self, run_folder: RunFolder, description: RunDescription) -> None:
        self._journal = run_folder.metrics_jsonl
        cut_torn_line(self._journal)
        self._tracking_json = run_folder.tracking_json
        self._fields = asdict(description) | {"uri": without_password(description.uri)}
        write_json(self._tracking_json, self._fields)
        self._sender = Sender(
            self._journal,
            lambda: MlflowRun(
                description.uri,
                partial(
                    open_training_run,
                    description=description,
                    run_json=run_folder.mlflow_run_json,
                ),
            ),
            where=f"MLflow at {without_password(description.uri)}",
        )

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        try:
            append_row(self._journal, metrics, step=step)
        except OSError as error:
            log.warning("%s: metrics of step %d are lost (%s).", self._journal, step, error)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self._sender.errands.append(lambda run: run.log_artifact(path, folder))

    def log_translations(self, decodes: Path, *, split: str) -> None:
        self._sender.errands.append(lambda run: run.log_translations(decodes, split))

    def log_export(self, folder: Path) -> None:
        self._sender.errands.append(lambda run: run.log_export(folder))

    def close(self, status: Status, timeout_s: float = 30.0) -> None:
        if not self._fields["ended"]:
            self._fields["ended"] = status
            try:
                write_json(self._tracking_json, self._fields)
            except DiskError as error:
                log.warning("%s", error)
        self._sender.end(status, timeout_s=timeout_s)

    def __enter__(self) -> "MlflowTracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt | RunStopped):
            self.close("KILLED")
        elif error is None or (isinstance(error, SystemExit) and not error.code):
            self.close("FINISHED")
        else:
            self.close("FAILED")


def log_decoding(folder: RunFolder, *, decodes: Path, split: str, scores: Scores) -> None:
    """Add a decoded split to the run of its model: `test/bleu4` and the like, and a table.

    The journal gets the scores first, at the step of the weights; a run that MLflow does not have
    yet gets no more, and `fla.sync` sends it all. Nothing is done for a folder that is not of a
    training run, such as one that decoding alone writes. Waits for MLflow, but never raises what
    it throws.

    Args:
        folder: Where decoding wrote.
        decodes: File of the translations, named TAG.SPLIT.tsv.
        split: train, dev or test.
        scores: Of the whole split.
    """
    if not folder.tracking_json.is_file():
        return
    cut_torn_line(folder.metrics_jsonl)
    step = _step_of_weights(folder, decodes.name.removesuffix(f".{split}.tsv"))
    append_row(folder.metrics_jsonl, scores.as_metrics(split), step=step)
    if not folder.mlflow_run_json.is_file():
        log.warning(
            "MLflow does not have this run yet. Send it, with these scores: "
            "python tools/sync_tracking.py %s", folder.path,
        )  # fmt: skip
        return
    uri = tracking_uri(folder, named=read_saved_config(folder).get("tracking.uri", ""))
    sender = Sender(
        folder.metrics_jsonl,
        lambda: MlflowRun(uri, partial(open_ended_run, run_json=folder.mlflow_run_json)),
        where=f"MLflow at {without_password(uri)}",
    )
    sender.errands.append(lambda run: run.log_translations(decodes, split))
    sender.end(None, timeout_s=_DECODING_PATIENCE_S)


def _step_of_weights(folder: RunFolder, tag: str) -> int:
    """After how many optimizer steps weights were saved; exports are of the best checkpoint."""
    named = tag if tag.startswith("step_") else read_best(folder)
    if named is not None:
        return step_of(named)
    return max((point.step for point in read_points(folder.metrics_jsonl)[0]), default=0)
