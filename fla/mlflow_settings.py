"""How MLflow is to behave in every process of ours: quiet, and not patient for minutes."""

import os

# The sender tries again by itself. MLflow's own seven attempts would take 247 s, its second one an
# hour where a server asks for that, and either may make a run twice.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def apply_quiet_settings() -> None:
    """Set what the user has not; before MLflow is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
