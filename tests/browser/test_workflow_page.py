"""The page of a workflow as a person sees it: five steps and sixty, in every state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.reports.workflow_report import workflow_html
from tests import workflow_pages as made_up

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.full
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Texts of the graph that leave the box around them, or meet the mark in its corner.
OUTSIDE = """[...document.querySelectorAll('svg g')].flatMap(g => {
  const box = g.querySelector('rect').getBoundingClientRect();
  return [...g.querySelectorAll('text')].filter(text => {
    const own = text.getBoundingClientRect();
    return own.right > box.right || own.left < box.left || own.bottom > box.bottom;
  }).map(text => text.textContent);
})"""
CHIPS_OUTSIDE = """[...document.querySelectorAll('svg .label')].filter(text =>
  text.getBoundingClientRect().right > text.parentElement.querySelector('rect').getBoundingClientRect().right
).map(text => text.textContent)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("workflows")
    sixty = [
        made_up.step(f"step-{n:02d}", "mix", [f"step-{n - 7:02d}"] if n > 6 else [], at=9.0 * n, seconds=9)
        for n in range(60)
    ]
    written = made_up.BEGIN + 2 * 86400 + 7000
    contents = {
        "small": made_up.page(made_up.small_steps()),
        "large": made_up.page(made_up.large_steps(), written=written),
        "sixty": made_up.page(sixty, scores={}),
    }
    for name, page in contents.items():
        (folder / f"{name}.html").write_text(workflow_html(page), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in contents}


@pytest.mark.parametrize("name", ["small", "large", "sixty"])
def test_it_fits_every_window_and_every_text_its_box(
    page: Page, pages: dict[str, Path], tmp_path: Path, name: str
) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(pages[name].as_uri())
    assert requests == [pages[name].as_uri()]
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(CHIPS_OUTSIDE) == []
    for width in (1280, 830, 510):
        page.set_viewport_size({"width": width, "height": 900})
        page.screenshot(path=tmp_path / f"{name}-{width}.png", full_page=True)
        assert page.evaluate(SIDEWAYS) == 0


def test_boxes_and_failures_lead_to_their_steps(page: Page, pages: dict[str, Path]) -> None:
    page.goto(pages["large"].as_uri())
    page.locator("svg a", has_text="xs-0").first.click()
    assert page.url.endswith("#step-train-xs-0")
    assert page.locator("tr:target").inner_text().startswith("train-xs-0")
    page.locator("svg a", has_text="m-4").first.click()
    assert page.locator("span:target").inner_text() == "m-4"
    page.locator(".failure a").first.click()
    assert "learning_rate" in page.locator("tr:target").inner_text()


def test_its_drawings_follow_light_and_dark(browser: Browser, pages: dict[str, Path]) -> None:
    for scheme, ink, paper in (
        ("light", "26, 26, 26", "255, 255, 255"),
        ("dark", "228, 228, 228", "22, 24, 28"),
    ):
        page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(pages["small"].as_uri())
        style = "selector => getComputedStyle(document.querySelector(selector)).fill"
        assert page.evaluate(style, ".drawing .name") == f"rgb({ink})"
        assert page.evaluate(style, ".drawing .box") == f"rgb({paper})"
        page.close()
