"""Checks that MLflow is installed, and holds the settings with which it is used. Does not import MLflow."""

from __future__ import annotations

import importlib.util

from reproduce.errors import UserError

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves 250 MB
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment variables that must be set before MLflow is imported or its server is started."""


class MlflowMissingError(UserError):
    """Raised when MLflow is not installed. The message names the commands that work without it."""


def require_mlflow() -> None:
    """Check that MLflow is installed, without importing it.

    A cluster whose bundle was built without MLflow lacks it.

    Raises:
        MlflowMissingError: MLflow is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise MlflowMissingError(
            "MLflow is not installed here. Runs are recorded without it if --no-publish is given; a machine that has "
            "MLflow publishes the records with: deeper publish --once --records FOLDER"
        )
