"""The report's page as a person sees it, in Chromium."""

from __future__ import annotations

import io
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

from analysis.report.comparing.sides import read_selection, read_side
from analysis.report.comparing.writing import write_comparison
from analysis.report.writing import write_report

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        assert not os.environ.get("CI"), "chromium is not installed"
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report("grid", tracking_uri=tracking_uri, out=tmp_path_factory.mktemp("page")).as_uri()


@pytest.fixture
def opened(browser: Any, report: str) -> Iterator[Any]:
    """The report's page; a request that leaves it and a message on the console fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith("file:") or complaints.append(request.url))
    page.goto(report)
    yield page
    context.close()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_the_page_is_as_wide_as_the_screen(opened: Any, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 900})
    found = Axe().run(opened).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    assert opened.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_on_a_comparison(
    opened: Any, tracking_uri: str, tmp_path: Path, width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    pair = zip("AB", ("grid", "claim-heads"), strict=True)
    sides = [read_side(letter, read_selection(name), tracking_uri=tracking_uri, own=None) for letter, name in pair]
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 900})
    opened.goto(write_comparison(sides[0], sides[1], tmp_path).as_uri())
    found = Axe().run(opened).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    assert opened.evaluate("document.documentElement.scrollWidth") == width


def test_no_line_ends_between_a_number_and_its_percent_sign(opened: Any) -> None:
    assert "95\N{NO-BREAK SPACE}% interval" in opened.locator(".findings").first.inner_text()


def test_a_copied_cell_has_its_value_once_and_its_interval_apart(opened: Any) -> None:
    cells = opened.locator("#results tbody tr").first.locator("td").all_text_contents()
    assert cells[0] == "3"
    assert re.fullmatch(r"\d+\.\d+ \[\d+\.\d+, \d+\.\d+\]", cells[1].strip())


def test_captions_stay_within_the_screen_of_a_phone(opened: Any) -> None:
    opened.set_viewport_size({"width": 390, "height": 900})
    wide = "[...document.querySelectorAll('caption span')].filter(one => one.getBoundingClientRect().right > 390)"
    assert opened.evaluate(f"{wide}.map(one => one.textContent)") == []


def test_tables_are_sorted_by_mouse_and_by_keyboard(opened: Any) -> None:
    first = opened.locator("#results tbody tr th").first
    head = opened.locator("#results thead th").nth(2)
    head.locator("button").click()
    assert (head.get_attribute("aria-sort"), first.inner_text().strip()) == ("ascending", "plain-reduced")
    head.locator("button").focus()
    opened.keyboard.press("Enter")
    assert (head.get_attribute("aria-sort"), first.inner_text().strip()) == ("descending", "heads-unreduced")


def test_arms_are_hidden_and_values_are_read_by_mouse_and_by_keyboard(opened: Any) -> None:
    figure = opened.locator("figure", has_text="Validation top-1 by epoch")
    curve, readout = figure.locator("svg g.arm-1").first, figure.locator(".readout")
    box = opened.locator("#show-1")
    box.uncheck()
    assert not curve.is_visible()
    box.focus()
    opened.keyboard.press("Space")
    assert curve.is_visible()
    assert readout.locator("label").inner_text() == "epoch 4"
    readout.locator("input").focus()
    opened.keyboard.press("ArrowLeft")
    assert readout.locator("label").inner_text() == "epoch 3"
    before = readout.locator("li").first.inner_text()
    drawing = figure.locator(".drawing").bounding_box()
    opened.mouse.move(drawing["x"] + 0.15 * drawing["width"], drawing["y"] + 50)
    assert readout.locator("label").inner_text() == "epoch 1"
    assert readout.locator("li").first.inner_text() != before


def test_figures_and_toggles_work_without_script(browser: Any, report: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    curve = page.locator("figure", has_text="Validation top-1 by epoch").locator("svg g.arm-0").first
    assert curve.is_visible()
    page.locator("#show-0").uncheck()
    assert not curve.is_visible()
    context.close()


def test_print_keeps_every_column(opened: Any) -> None:
    opened.set_viewport_size({"width": 703, "height": 1000})  # A4 without its margins
    opened.emulate_media(media="print", color_scheme="dark")
    cut = opened.evaluate(
        "[...document.querySelectorAll('th, td')].filter(cell => cell.getBoundingClientRect().right > 704)"
        ".map(cell => cell.textContent)"
    )
    assert cut == []
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


PRINTED_FIGURES = """
[...document.querySelectorAll('.plots')].flatMap(plots => {
  const legend = plots.previousElementSibling
  const heading = legend?.matches('.legend') ? legend.previousElementSibling.textContent : ''
  return [...plots.querySelectorAll('figure')].map((figure, index) =>
    [index ? '' : heading, figure.querySelector('h3').textContent, figure.querySelector('figcaption').textContent])
})
"""
"""What belongs together: the heading, for the first figure below a legend, and a figure's title and caption."""


def test_print_parts_no_figure_from_its_caption_and_none_from_its_heading(opened: Any) -> None:
    """On paper of many heights, so that every figure comes to the end of some page."""
    figures = [[_letters(text) for text in texts] for texts in opened.evaluate(PRINTED_FIGURES)]
    assert len(figures) > 5
    for height in range(200, 320, 20):
        opened.add_style_tag(content=f"@page {{ size: 140mm {height}mm; }}")
        printed = opened.pdf(prefer_css_page_size=True)
        pages = [_letters(page.extract_text()) for page in PdfReader(io.BytesIO(printed)).pages]
        for texts in figures:
            assert any(all(text in page for text in texts) for page in pages), (height, texts)


def _letters(text: str) -> str:
    """What is left of a text if ligatures and line breaks, and with them spaces and hyphens, make no difference."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text))


def test_values_under_a_figure_name_their_arms_in_full(opened: Any) -> None:
    cut = opened.eval_on_selector_all(
        ".readout [data-key]", "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).length"
    )
    assert cut == 0
