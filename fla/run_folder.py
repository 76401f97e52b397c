"""The run folder: where each file of a run lies, so that it can be read without any server.

    config.yaml  deepspeed.json  provenance.json  metrics.jsonl  mlflow_run.json  scores.json
    skipped_clips.tsv               training clips that did not decode, if they were left out
    best.txt                        tag of the best checkpoint
    tracking.json                   what the run is to be in MLflow
    run_id.txt                      what its checkpoints are known by
    profile/                        trace.json.gz and operators.txt of train.profile_steps
    logs/rank_000.log
    checkpoints/step_0002000/       DeepSpeed's files, state.json, and COMPLETE, written last
    decodes/step_0002000.dev.tsv    id, hypothesis, reference
    decodes/export.test.nbest.jsonl the hypotheses of each id with their log-probabilities
    model/                          what all checkpoints share: description, tokenizer, encoder
    export/                         what others load
    exports/step_0002000/export/    the same of a checkpoint that was decoded; a folder as this one

Only rank 0 writes here, except for the logs and DeepSpeed's own files.
"""

import csv
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from fla.errors import CheckpointError, ConfigError, DataError, DiskError, disk_errors

COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run folder; `open_run_folder` makes it."""

    path: Path

    @property
    def config_yaml(self) -> Path:
        return self.path / "config.yaml"

    @property
    def deepspeed_json(self) -> Path:
        return self.path / "deepspeed.json"

    @property
    def provenance_json(self) -> Path:
        return self.path / "provenance.json"

    @property
    def metrics_jsonl(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def mlflow_run_json(self) -> Path:
        return self.path / "mlflow_run.json"

    @property
    def tracking_json(self) -> Path:
        return self.path / "tracking.json"

    @property
    def run_id_txt(self) -> Path:
        return self.path / "run_id.txt"

    @property
    def skipped_tsv(self) -> Path:
        return self.path / "skipped_clips.tsv"

    @property
    def scores_json(self) -> Path:
        return self.path / "scores.json"

    @property
    def best_txt(self) -> Path:
        return self.path / "best.txt"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def decodes(self) -> Path:
        return self.path / "decodes"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint after `step` optimizer steps."""
        return self.checkpoints / checkpoint_tag(step)

    def decodes_tsv(self, tag: str, split: str) -> Path:
        """File with the translations of `split` by the checkpoint `tag`."""
        return self.decodes / f"{tag}.{split}.tsv"

    def n_best_jsonl(self, tag: str, split: str) -> Path:
        """File with the best hypotheses of each sample of `split` by the checkpoint `tag`."""
        return self.decodes / f"{tag}.{split}.nbest.jsonl"


def open_run_folder(path: Path) -> RunFolder:
    """Make the folder and its subfolders, where they are missing; safe on all ranks at once.

    Raises:
        ConfigError: a file is in the way, or the folder cannot be made.
    """
    run = RunFolder(path.absolute())
    try:
        for folder in (run.logs, run.checkpoints, run.decodes):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"run_dir ({path}): the folder cannot be made ({error.strerror}). Choose another one."
        ) from error
    return run


def set_aside(run: RunFolder) -> None:
    """Before a fresh start in a used folder: move what the former run wrote to before_TIME/.

    Its checkpoints would otherwise be taken for newer ones of the new run, its journal and MLflow
    run be continued. The logs stay: they are open already, and each line has its date.
    """
    files = (
        run.config_yaml,
        run.deepspeed_json,
        run.provenance_json,
        run.metrics_jsonl,
        run.mlflow_run_json,
        run.tracking_json,
        run.run_id_txt,
        run.scores_json,
        run.skipped_tsv,
        run.best_txt,
    )
    folders = (run.checkpoints, run.decodes, run.model, run.export, run.exports, run.profile)
    filled = [folder for folder in folders if folder.is_dir() and any(folder.iterdir())]
    _move_away(run, [*filter(Path.exists, files), *filled])
    open_run_folder(run.path)


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 so that a reader, or a crash, sees the old file or the whole new one.

    Raises:
        DiskError: The file could not be written; the old one is unchanged.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise DiskError(path, error) from error


def write_json(path: Path, value: object) -> None:
    """Write indented JSON atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def start_rank_log(run: RunFolder, rank: int) -> logging.FileHandler:
    """Send this rank's log to logs/rank_000.log too, from INFO on; the terminal stays as it was."""
    root = logging.getLogger()
    for handler in root.handlers:
        handler.setLevel(max(handler.level, root.level))
    root.setLevel(min(root.level, logging.INFO))
    file = logging.FileHandler(run.logs / f"rank_{rank:03d}.log", encoding="utf-8")
    file.setLevel(logging.INFO)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(file)
    return file


def checkpoint_tag(step: int) -> str:
    """Name of a checkpoint: `step_0002000`."""
    return f"step_{step:07d}"


def step_of(tag: str) -> int:
    """The step that a tag names.

    Raises:
        ValueError: `tag` is not of the form `step_0002000`.
    """
    found = re.fullmatch(r"step_(\d{7,})", tag)
    if found is None:
        raise ValueError(f"{tag!r} is no checkpoint tag.")
    return int(found[1])


def clear_checkpoint(run: RunFolder, step: int) -> Path:
    """Make an empty folder for a checkpoint, without the remains of a save that was cut short.

    Shards of another world size would otherwise lie beside the new ones. Checkpoints of later steps
    are moved to before_TIME/: training went back to before them, and they would pass for newer.
    """
    later = [folder for folder in _list_checkpoints(run) if step_of(folder.name) > step]
    _move_away(run, later)
    folder = run.checkpoint(step)
    _delete_checkpoint(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True)
    return folder


def mark_complete(folder: Path) -> None:
    """Write COMPLETE into a checkpoint: after a barrier, when every rank has written its files."""
    write_atomically(folder / COMPLETE, "")


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    return (folder / COMPLETE).exists()


def list_complete_checkpoints(run: RunFolder) -> list[Path]:
    """Folders of the checkpoints that can be resumed from, oldest first."""
    return [folder for folder in _list_checkpoints(run) if is_complete(folder)]


def newest_complete_checkpoint(run: RunFolder) -> Path | None:
    """Folder of the newest checkpoint that can be resumed from; None: there is none."""
    return next(reversed(list_complete_checkpoints(run)), None)


def check_complete(folder: Path) -> None:
    """Refuse a checkpoint that does not exist or whose save was cut short.

    Raises:
        CheckpointError: names the newest complete checkpoint beside it, if there is one.
    """
    if is_complete(folder):
        return
    beside = newest_complete_checkpoint(RunFolder(folder.absolute().parent.parent))
    advice = f"Resume from {beside.name}." if beside else "Start afresh with resume=none."
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such checkpoint. {advice}")
    raise CheckpointError(f"{folder} has no COMPLETE file, so its save was cut short. {advice}")


def prune_checkpoints(
    run: RunFolder, *, keep_newest: int, keep_steps: Collection[int] = (), keep_every: int = 0
) -> None:
    """Delete complete checkpoints but those that are kept; call it after mark_complete.

    The one that best.txt names is always kept. What is newer than the newest complete one is left
    alone: it may be just being written.

    Args:
        keep_newest: Complete checkpoints to keep, at least 1.
        keep_steps: Steps whose checkpoints are kept beside them.
        keep_every: Multiples of it are kept, too; 0: none.
    """
    if keep_newest < 1:
        raise ValueError(f"keep_newest must be at least 1, got {keep_newest}.")
    complete = list_complete_checkpoints(run)
    kept = {folder.name for folder in complete[-keep_newest:]} | {read_best(run)}
    kept |= set(map(checkpoint_tag, keep_steps))
    for folder in _list_checkpoints(run):
        step = step_of(folder.name)
        is_kept = folder.name in kept or (keep_every > 0 and step % keep_every == 0)
        if complete and not is_kept and step < step_of(complete[-1].name):
            _delete_checkpoint(folder)


def write_best(run: RunFolder, tag: str) -> None:
    """Name the best checkpoint in best.txt; retention spares it."""
    step_of(tag)
    write_atomically(run.best_txt, tag + "\n")


def read_best(run: RunFolder) -> str | None:
    """Tag of the best checkpoint; None: none was named yet."""
    if not run.best_txt.exists():
        return None
    return run.best_txt.read_text(encoding="utf-8").strip()


class DecodedRow(NamedTuple):
    """One translated sample."""

    id: str
    hypothesis: str
    reference: str


def write_decodes(path: Path, rows: Iterable[DecodedRow], *, signature: str) -> None:
    """Write translations as TSV: `# signature`, the names of the columns, one row a sample.

    Every field is quoted, so that tabs, quotes and line breaks of an annotation survive.
    """
    text = io.StringIO()
    text.write(f"# {signature}\n")
    writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(DecodedRow._fields)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_decodes(path: Path) -> tuple[list[DecodedRow], str]:
    """Read what write_decodes wrote.

    Returns:
        The rows in the file's order, and the signature.

    Raises:
        DataError: the file is missing, or has not these columns.
    """
    try:
        head, _, body = path.read_bytes().decode("utf-8").partition("\n")
        columns, *rows = [*csv.reader(io.StringIO(body, newline=""), delimiter="\t")] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: this file cannot be read as a table. Name a decodes/*.tsv of a run folder."
        ) from error
    if not head.startswith("# ") or tuple(columns) != DecodedRow._fields:
        raise DataError(
            f"{path}: a decodes file has a line with # and the signature, then the columns "
            f"{', '.join(DecodedRow._fields)}. Name a decodes/*.tsv of a run folder."
        )
    if short := [row for row in rows if len(row) != 3]:
        raise DataError(f"{path}: row {short[0]} has not 3 columns. Decode the split again.")
    return [DecodedRow(*row) for row in rows], head.removeprefix("# ")


def _move_away(run: RunFolder, paths: Iterable[Path]) -> None:
    home = run.path / datetime.now(UTC).strftime("before_%Y%m%dT%H%M%S_%f")
    for path in paths:
        target = home / path.relative_to(run.path)
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _list_checkpoints(run: RunFolder) -> list[Path]:
    tags = (
        path for path in run.checkpoints.glob("step_*") if re.fullmatch(r"step_\d{7,}", path.name)
    )
    return sorted(tags, key=lambda path: step_of(path.name))


def _delete_checkpoint(folder: Path) -> None:
    if not folder.exists():
        return
    with disk_errors(folder):
        # First of all: a crash in the middle must not leave a checkpoint that looks whole.
        (folder / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder)
