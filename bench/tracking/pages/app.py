"""Runs within MLflow's server: its pages begin without the assistant, the usage notice and the page for other uses.

No setting of MLflow 3.17 turns these off; the page itself keeps them in the browser's local storage. The app is
MLflow's own, which sends its page with a script that sets them before it starts. `mlflow server --app-name deeper`
finds it as an entry point of the group `mlflow.app`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Response

NAME = "deeper"
"""The name of the entry point."""

DEFAULTS = """<style>[data-assistant-ui="true"] { display: none !important; }</style>
<script>
  const defaults = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": true,
    "mlflow.assistant.panelOpen_v1": false,
    "mlflow.settings.telemetry.enabled_v1": false,
    "mlflow.telemetry.info.alert.dismissed_v1": true,
    "mlflow.workflowType_v1": "machine_learning",
  };
  for (const [name, value] of Object.entries(defaults)) localStorage.setItem(name, JSON.stringify(value));
  const start = "#/experiments?workflowType=machine_learning";
  const isHome = (address) => ["", "#", "#/"].includes(address.hash.split("?")[0]);
  const leaveHome = () => {
    if (isHome(location)) location.replace(start);
  };
  for (const moved of ["hashchange", "popstate"]) addEventListener(moved, leaveHome);
  addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || link.origin + link.pathname !== location.origin + location.pathname || !isHome(link)) return;
    event.preventDefault();
    event.stopPropagation();
    location.hash = start;
  }, true);
  leaveHome();
</script>"""


def app_options() -> list[str]:
    """Return the options with which `mlflow server` runs this app; empty where an older installation lacks it."""
    return ["--app-name", NAME] if entry_points(group="mlflow.app", name=NAME) else []


def create_app() -> FastAPI:
    """Create MLflow's own app with these defaults. MLflow's server imports the module and calls the function."""
    from mlflow.server import app as flask_app
    from mlflow.server.fastapi_app import create_fastapi_app

    flask_app.after_request(with_defaults)
    app: FastAPI = create_fastapi_app(flask_app)
    return app


def with_defaults(response: Response) -> Response:
    """Add the defaults to a response that is MLflow's page; leave others, such as artifacts, as they are."""
    from flask import request

    if request.path == "/" and response.mimetype == "text/html":
        response.direct_passthrough = False
        page = response.get_data(as_text=True)
        response.set_data(page.replace("<head>", f"<head>{DEFAULTS}", 1))
        response.headers.pop("ETag", None)
        response.headers["Cache-Control"] = "no-store"
    return response
