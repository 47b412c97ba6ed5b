"""The page of a reference study as a person sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipelines.reports.reference_report import reference_study_html
from pipelines.studies.reference_conditions import CONDITIONS
from pipelines.studies.reference_results import CLEAN, ENHANCED, NOISY, STUDIED, ClipStudy, ReferenceStudy

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.full
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LOADED = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    clips = tuple(
        ClipStudy(
            clip_id=f"made-up/{number}",
            rows={
                (condition, estimate): {metric: float(rng.normal(3)) for metric in STUDIED}
                for condition in CONDITIONS
                for estimate in (NOISY, ENHANCED, CLEAN)
            },
        )
        for number in range(5)
    )
    about = {"weights": f"{'folder/' * 20}model.safetensors", "clips": "5 of 60"}
    study = ReferenceStudy(corpus="made-up", about=about, estimates=(NOISY, ENHANCED, CLEAN), clips=clips)
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(reference_study_html(study), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1280, 830, 510])
def test_the_page_stands_alone_and_needs_no_sideways_scrolling(
    page: Page, study_page: Path, tmp_path: Path, width: int
) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(study_page.as_uri())
    page.wait_for_function(LOADED)
    assert [url for url in requests if not url.startswith("data:")] == [study_page.as_uri()]
    assert page.evaluate(SIDEWAYS) == 0
    assert page.locator("img").get_attribute("alt")
    assert page.locator("table").count() == 4
    assert page.locator("table").first.locator("tbody tr").count() == len(CONDITIONS)
    page.screenshot(path=tmp_path / "study.png", full_page=True)
