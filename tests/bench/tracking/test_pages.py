"""MLflow's pages in a browser, over committed records: what a reviewer sees without a click."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis.report.writing import write_report
from bench.tracking.cursors import ExperimentCursors
from bench.tracking.dashboard import serving
from bench.tracking.pages.reports import attach_report
from bench.tracking.pages.views import EXPERIMENTS_PAGE, VIEWS, view_page
from bench.tracking.publishing import Publisher

playwright = pytest.importorskip("playwright.sync_api")
RECORDS = Path(__file__).parents[3] / "results" / "ablation-imagenette" / "records"
NAME = "ablation-imagenette"


WHO_AM_I = "/ajax-api/2.0/mlflow/users/current"
"""Which user is logged in. MLflow's pages ask it everywhere; a server without passwords has no such page, and its 404
is how they know. Chromium writes each 404 to the console."""


RESIZED = "ResizeObserver loop"
"""What Chromium reports where a page lays itself out for longer than a frame, as on a busy machine. It is no error."""


def refused(answer: playwright.Response) -> bool:
    return answer.status >= 400 and not answer.url.endswith(WHO_AM_I)


def complains(said: playwright.ConsoleMessage) -> bool:
    return said.type == "error" and RESIZED not in said.text and not said.location["url"].endswith(WHO_AM_I)


@dataclass
class Dashboard:
    address: str
    experiment_id: str
    plan: str
    report_run: str


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Dashboard]:
    records = shutil.copytree(RECORDS, tmp_path_factory.mktemp("pages") / "records")
    uri = f"sqlite:///{shutil.copy(store, records)}"
    Publisher(records, uri).publish(final=True)
    page = write_report(NAME, tracking_uri=uri, out=records.parent / "report")
    run_id = attach_report(NAME, page, records=records, uri=uri, plan=None)
    assert run_id is not None
    assert attach_report(NAME, page, records=records, uri=uri, plan=None) == run_id, (
        "there is one run for the report of a plan"
    )
    cursors = ExperimentCursors(records, uri, NAME)
    identity, plan = cursors.experiment_id(), cursors.plan()
    assert identity is not None
    assert plan is not None
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(records, uri=uri, port=port) as server:
        yield Dashboard(server.address, identity, plan, run_id)


@pytest.fixture
def browser_page(dashboard: Dashboard) -> Iterator[playwright.Page]:
    """A page of 1280x800; it notes requests that leave the machine and errors of scripts."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("needs Debian's chromium")
        pytest.skip("needs Debian's chromium")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(60_000)
        left: list[str] = []
        page.on("request", lambda request: left.append(request.url))
        page.on(
            "response", lambda answer: left.append(f"error: {answer.status} {answer.url}") if refused(answer) else None
        )
        page.on("console", lambda said: left.append(f"error: {said.text}") if complains(said) else None)
        page.on("pageerror", lambda error: left.append(f"error: {error}") if RESIZED not in str(error) else None)
        yield page
        browser.close()
    allowed = (dashboard.address, "data:", "blob:")
    assert [url for url in left if not url.startswith(allowed)] == []


def test_the_first_view_shows_accuracy_by_arm_without_a_click(
    dashboard: Dashboard, browser_page: playwright.Page
) -> None:
    browser_page.goto(dashboard.address + view_page(dashboard.experiment_id, dashboard.plan))
    shows = "text => document.body.innerText.includes(text)"
    for text in ("unreduced-both s2", "unreduced-none s2", "matching runs", "Accuracy", "final/val_top1", "val/top1"):
        browser_page.wait_for_function(shows, arg=text)
    browser_page.locator(".barlayer path").first.wait_for()  # final top-1 of the arms as bars, not as points at a step
    assert browser_page.locator('[data-assistant-ui="true"]:visible').count() == 0
    assert browser_page.get_by_text("usage data").count() == 0


def test_the_table_of_runs_begins_with_accuracy(dashboard: Dashboard, browser_page: playwright.Page) -> None:
    browser_page.goto(dashboard.address + view_page(dashboard.experiment_id, dashboard.plan, VIEWS[1]))
    browser_page.get_by_text("final/val_top1").first.wait_for()
    browser_page.get_by_text("unreduced-both s2").first.wait_for()
    browser_page.get_by_text("12 matching runs").wait_for()  # without that of the report


def test_the_report_previews_in_its_run(dashboard: Dashboard, browser_page: playwright.Page) -> None:
    run = f"#/experiments/{dashboard.experiment_id}/runs/{dashboard.report_run}/artifacts/report/index.html"
    browser_page.goto(f"{dashboard.address}/{run}")
    frame = browser_page.frame_locator("iframe")
    frame.get_by_role("heading").first.wait_for()
    assert NAME in frame.locator("body").inner_text()


def test_nobody_lands_on_the_home_page(dashboard: Dashboard, browser_page: playwright.Page) -> None:
    browser_page.goto(dashboard.address)
    browser_page.get_by_text(NAME).first.wait_for()
    assert "#/experiments" in browser_page.url


def test_no_link_leads_to_the_home_page(dashboard: Dashboard, browser_page: playwright.Page) -> None:
    for page in (view_page(dashboard.experiment_id, dashboard.plan, VIEWS[1]), EXPERIMENTS_PAGE):
        browser_page.goto(dashboard.address + page)
        links = browser_page.locator("a[href='#/']:visible")
        links.first.wait_for()
        for number in range(links.count()):
            browser_page.goto(dashboard.address + page)
            links.nth(number).click()
            browser_page.wait_for_url("**/#/experiments?*")
            browser_page.get_by_text(NAME).first.wait_for()
            assert browser_page.get_by_text("Welcome to MLflow").count() == 0
