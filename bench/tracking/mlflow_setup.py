"""Checks that MLflow is installed, and prepares the settings with which it is used. Does not import MLflow."""

from __future__ import annotations

import base64
import importlib.util
import os
from collections.abc import Mapping, MutableMapping
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from reproduce.errors import UserError

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves 250 MB
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment variables that must be set before MLflow is imported or its server is started."""

URI = "MLFLOW_TRACKING_URI"
USERNAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
"""Environment variables with which MLflow's client makes itself known to a server."""


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


def is_server(uri: str) -> bool:
    """Return whether a tracking URI names an HTTP server."""
    return uri.startswith(("http://", "https://"))


def without_credentials(uri: str, environment: MutableMapping[str, str] = os.environ) -> str:
    """Take user name and password out of the URI of an HTTP server, and set MLflow's variables for them instead.

    MLflow's client uses both in the same way. From the variables they get into no message, link, log or command line.

    Args:
        uri: The URI of a tracking store.
        environment: The environment variables, in which MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD are set
            if `uri` holds a password.

    Returns:
        The URI without the credentials. A URI without a password is returned unchanged.

    Raises:
        UserError: The URI of a server is malformed.
    """
    if not is_server(uri):
        return uri
    parts = _split(uri)
    if not (parts.username and parts.password):
        return uri
    environment[USERNAME], environment[PASSWORD] = unquote(parts.username), unquote(parts.password)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def authorization(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the HTTP headers with which MLflow's client makes itself known, as the environment variables say."""
    user, password, token = (environment.get(name) for name in (USERNAME, PASSWORD, TOKEN))
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        if parts.hostname and (parts.port is None or parts.port):
            return parts
    except ValueError:  # whose message may show a part of the password
        pass
    raise UserError(
        f"{URI}: its host or port is malformed; write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, and in the "
        "password %2F for /, %3F for ?, %23 for #, %40 for @ and %25 for %"
    )
