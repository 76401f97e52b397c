"""The settings that a run folder has kept, as plain text: of any release, by any launcher."""

from collections.abc import Mapping
from typing import Any

import yaml

from fla.errors import ConfigError, first_line
from fla.run_folder import RunFolder


def read_saved_config(folder: RunFolder) -> dict[str, str]:
    """A run's config.yaml, flat, as MLflow has it; empty where there is none."""
    return flatten_settings(read_nested_config(folder))


def read_nested_config(folder: RunFolder) -> dict[str, Any]:
    """A run's config.yaml as it is; empty where there is none.

    Raises:
        ConfigError: It is no plain YAML; nothing that it names is run.
    """
    if not folder.config_yaml.is_file():
        return {}
    try:
        content = yaml.safe_load(folder.config_yaml.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{folder.config_yaml}: this is no plain YAML ({first_line(error)}). Restore the file."
        ) from error
    return content if isinstance(content, dict) else {}


def flatten_settings(node: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Nested settings as `{"optim.learning_rate": "0.01", ...}`."""
    flat: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, prefix=f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def tracking_uri(folder: RunFolder, *, named: str) -> str:
    """The MLflow store of a run.

    Args:
        folder: Of the run.
        named: What the settings say; empty: `mlflow.db` in the folder that holds the run folder.
    """
    return named or f"sqlite:///{folder.path.resolve().parent / 'mlflow.db'}"


def artifact_home(folder: RunFolder, *, uri: str) -> str | None:
    """Where an experiment that is made for a run keeps its artifacts; None: its server knows.

    A database would take whatever folder we are in today.
    """
    home = folder.path.resolve().parent
    return None if uri.startswith("http") else (home / "mlartifacts").as_uri()
