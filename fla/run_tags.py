"""What a training run is tagged with in MLflow, so that runs can be searched and grouped."""

import json
from collections.abc import Mapping
from pathlib import Path

from fla.data.datasets import read_data_set_name
from fla.provenance import read_git_state
from fla.run_folder import RunFolder


def build_tags(
    settings: Mapping[str, object], *, stage: str, folder: RunFolder, world_size: int
) -> dict[str, str]:
    """Tags of a run.

    Args:
        settings: Of the run, flat.
        stage: stage1, stage2 or pretrain.
        folder: Where it is written: `tools/compare_runs.py` finds it by this tag.
        world_size: Number of ranks.
    """
    tags = {"stage": stage, "world_size": str(world_size), "run_folder": str(folder.path)}
    if manifest_dir := settings.get("data.manifest_dir"):
        tags["dataset"] = read_data_set_name(Path(str(manifest_dir)))
    if protocol := settings.get("metrics.protocol"):
        tags["protocol"] = str(protocol)
    if encoder_export := settings.get("model.encoder_export"):
        tags |= _run_of_encoder(RunFolder(Path(str(encoder_export)).parent))
    state = read_git_state()
    return tags | ({f"git.{key}": str(value) for key, value in state.items()} if state else {})


def _run_of_encoder(folder: RunFolder) -> dict[str, str]:
    """The run of stage 1 that stage 2 goes on from."""
    if not folder.mlflow_run_json.is_file():
        return {}
    written = json.loads(folder.mlflow_run_json.read_text(encoding="utf-8"))
    return {"encoder_run": written["run_id"]}
