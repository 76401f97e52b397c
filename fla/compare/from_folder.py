"""A run as its folder has it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fla.compare.records import Curve, Decodes, MlflowPlace, RunRecord
from fla.errors import ConfigError, DataError
from fla.journal import Point, read_points
from fla.metrics.scores import SCORES
from fla.run_folder import RunFolder, read_best, read_decodes
from fla.saved_config import flatten_settings, read_saved_config, tracking_uri
from fla.translation_table import protocol_of

_SPLITS = ("train", "dev", "test")
# What scores.json has of a split beside how it was decoded.
_NO_SETTINGS = {*SCORES, "num_sentences", "signature", "fingerprint", "export"}


def read_folder(path: Path, *, uri: str) -> RunRecord:
    """Read a run folder, or a folder that decoding alone has written.

    Args:
        path: The folder.
        uri: MLflow tracking URI; empty: that of the run's settings.

    Raises:
        ConfigError: The folder is not of a run.
        DataError: Its decodes cannot be read.
    """
    folder = RunFolder(path.resolve())
    if not any(file.exists() for file in (folder.config_yaml, folder.scores_json, folder.decodes)):
        raise ConfigError(
            f"{path}: this folder holds no run: neither config.yaml nor decodes/. Name the folder "
            "of a run, such as runs/demo/stage2."
        )
    scores = _read_json(folder.scores_json)
    decodes = {split: found for split in _SPLITS if (found := _find_decodes(folder, split))}
    settings = read_saved_config(_model_of(folder, scores))
    return RunRecord(
        name=folder.path.name,
        where=str(path),
        config=settings,
        decoding={split: _decoding_settings(entry, folder) for split, entry in scores.items()},
        curves=gather_curves(read_points(folder.metrics_jsonl)[0]),
        decodes=decodes,
        manifest_dirs=_manifest_dirs(settings, _model_of(folder, scores)),
        facts=_facts(folder),
        mlflow=_find_mlflow(folder, uri or settings.get("tracking.uri", "")),
    )


def gather_curves(points: Iterable[Point]) -> dict[str, Curve]:
    """Points by metric, one a step: what a resumed run did again counts."""
    by_key: dict[str, dict[int, float]] = {}
    for point in points:
        by_key.setdefault(point.key, {})[point.step] = point.value
    return {key: tuple(sorted(values.items())) for key, values in by_key.items()}


def _find_decodes(folder: RunFolder, split: str) -> Decodes | None:
    """What decoding wrote, else what the best evaluation of training wrote."""
    for tag in ("export", read_best(folder)):
        path = folder.decodes_tsv(tag or "", split)
        if path.is_file():
            rows, signature = read_decodes(path)
            return Decodes(rows=tuple(rows), source=str(path), protocol=protocol_of(signature))
    return None


def _model_of(folder: RunFolder, scores: Mapping[str, Any]) -> RunFolder:
    """The run that trained: another one, where decoding was told to write elsewhere."""
    if folder.config_yaml.is_file():
        return folder
    exports = [entry["export"] for entry in scores.values() if "export" in entry]
    return RunFolder(Path(exports[0]).parent) if exports else folder


def _decoding_settings(entry: Mapping[str, Any], folder: RunFolder) -> dict[str, str]:
    """How a split was decoded, as `beam.num_beams`."""
    kept = {key: value for key, value in entry.items() if key not in _NO_SETTINGS}
    # Its own export differs from run to run as their folders do.
    if "export" in entry and Path(entry["export"]).parent.name != folder.path.name:
        kept["export"] = entry["export"]
    return flatten_settings(kept)


def _manifest_dirs(settings: Mapping[str, str], model: RunFolder) -> tuple[Path, ...]:
    export = _read_json(model.export / "config.json")
    # The run's own word is relative to where it was started; the export's is not.
    named = (settings.get("data.manifest_dir", ""), export.get("corpus", {}).get("manifest_dir"))
    return tuple(Path(name) for name in named if name)


def _facts(folder: RunFolder) -> dict[str, str]:
    provenance = _read_json(folder.provenance_json)
    facts = {}
    if git := provenance.get("git"):
        facts["commit"] = git["commit"][:10] + (" with changes" if git["dirty"] else "")
    if best := read_best(folder):
        facts["best checkpoint"] = best
    if devices := provenance.get("devices"):
        facts["ranks"] = f"{len(devices)} x {devices[0]}"
    return facts


def _find_mlflow(folder: RunFolder, uri: str) -> MlflowPlace | None:
    run_id = _read_json(folder.mlflow_run_json).get("run_id")
    return run_id and MlflowPlace(uri=tracking_uri(folder, named=uri), run_id=run_id)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{path}: this file is not JSON. Restore it, or remove it.") from None
    return content if isinstance(content, dict) else {}
