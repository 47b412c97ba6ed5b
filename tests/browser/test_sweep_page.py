"""A sweep in a browser: its runs in MLflow's comparison, and its report page in MLflow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from tests.mlflow_server import tracking_server
from tests.sweep_rows import rows_of, sweep_of
from tune.report import log_report
from tune.sweep_report import make_report
from tune.trial import axis_name, flat_means

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.full
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A sweep in MLflow, and its page as a file."""

    experiment_id: str
    parent: str
    children: list[str]
    page: Path
    verdict: str


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """A sweep of artificial scores, logged like a real one."""
    folder = tmp_path_factory.mktemp("store")
    storage = StorageConfig(root=str(folder), tracking_uri=f"sqlite:///{folder}/mlflow.db")
    tracker, sweep = Tracker(storage), sweep_of()
    rows = rows_of({"resolution": [5.0, 5.1, 5.2], "none": [4.0, 4.11, 4.2], "off": [3.0, 3.1, 3.21]})
    children = []
    with tracker.run(sweep.name) as parent:
        for row in rows:
            params = {axis_name(name): value for name, value in row.point.items()} | {"seed": row.seed}
            tags = {"rwsa.kind": "trial", "rwsa.sweep": sweep.name}
            with tracker.run(row.trial, parent=parent.run_id, params=params, tags=tags) as child:
                child.log_metrics(row.step, flat_means(row.means))
            children.append(child.run_id)
        found = make_report(sweep, rows)
        page = log_report(parent, sweep, rows, found, folder, about={})
    return Logged(
        experiment_id=tracker.experiment_id,
        parent=parent.run_id,
        children=children,
        page=page,
        verdict=found.verdict,
    )


@pytest.fixture(scope="module")
def address(logged: Logged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracking_server(
        tmp_path_factory.mktemp("server"), f"sqlite:///{logged.page.parent}/mlflow.db"
    ) as url:
        yield url


def test_trials_compare_in_parallel_coordinates(
    page: Page, address: str, logged: Logged, tmp_path: Path
) -> None:
    runs, experiments = quote(json.dumps(logged.children)), quote(json.dumps([logged.experiment_id]))
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.goto(f"{address}/#/compare-runs?runs={runs}&experiments={experiments}")
    page.get_by_text("Parallel Coordinates Plot").first.wait_for()
    page.screenshot(path=tmp_path / "1-compare.png")
    plot = page.locator(".js-plotly-plot .parcoords").first
    plot.wait_for()
    labels = page.locator(".js-plotly-plot .axis-title").all_text_contents()
    assert any("axis.sharing" in label for label in labels), labels
    values = set(page.locator(".js-plotly-plot .parcoords text").all_text_contents())
    assert {"resolution", "none", "off"} <= values, values


def test_trials_group_by_an_axis_in_the_chart_view(
    page: Page, address: str, logged: Logged, tmp_path: Path
) -> None:
    wanted = quote("tags.`rwsa.kind` = 'trial' AND tags.`rwsa.sweep` = 'made-up'")
    page.set_viewport_size({"width": 1500, "height": 1000})
    page.goto(
        f"{address}/#/experiments/{logged.experiment_id}/runs?searchFilter={wanted}&compareRunsMode=CHART"
    )
    # MLflow's assistant covers a quarter of the window at the first visit.
    page.get_by_role("button", name="Close").first.click()
    page.get_by_role("button", name="Group by").click()
    page.get_by_text("axis.sharing").last.click()
    for name in ("resolution", "none", "off"):
        page.get_by_text(f"Group: {name}").first.wait_for()
    page.locator(".js-plotly-plot .ytick").first.wait_for()
    page.screenshot(path=tmp_path / "3-grouped.png")
    ticks = page.locator(".js-plotly-plot .ytick").all_text_contents()
    assert all(re.fullmatch(r"[−-]?[\d.]+", tick) for tick in ticks), ticks


def test_the_report_page_opens_in_mlflow(page: Page, address: str, logged: Logged, tmp_path: Path) -> None:
    page.goto(f"{address}/#/experiments/{logged.experiment_id}/runs/{logged.parent}/artifacts")
    page.get_by_text("report.html").first.click()
    frame = page.frame_locator("iframe")
    frame.locator(".verdict").wait_for()
    assert frame.locator(".verdict").inner_text() == logged.verdict
    page.screenshot(path=tmp_path / "2-report.png")


@pytest.mark.parametrize("width", [1280, 830])
def test_the_report_page_needs_no_sideways_scrolling(
    page: Page, logged: Logged, tmp_path: Path, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(logged.page.as_uri())
    page.screenshot(path=tmp_path / f"report-{width}.png", full_page=True)
    assert page.evaluate(SIDEWAYS) == 0
