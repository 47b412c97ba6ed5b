"""The dataset page and the domain gap page as a person sees them: players, pictures, light and dark."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.image
import numpy as np
import pytest

from pipelines.dataset_page import write_page
from pipelines.domain_gap import PAGE, domain_gap
from pipelines.studies.gap_sources import GapSource, LoadedClip
from rwsa.audio import round_to_int16
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.full
RATE_HZ = 16000
SECONDS = 1.5
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
DURATIONS = "[...document.querySelectorAll('audio')].map(audio => audio.duration)"
LOADED = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"


def pair(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    seconds = np.arange(int(SECONDS * RATE_HZ)) / RATE_HZ
    clean = rng.normal(scale=0.05, size=len(seconds)) * np.sin(2 * np.pi * 3 * seconds) ** 2
    noisy = clean + rng.normal(scale=0.02, size=len(seconds))
    return round_to_int16(noisy.astype(np.float32)), round_to_int16(clean.astype(np.float32))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    examples = []
    for number in range(12):
        noisy, clean = pair(number)
        meta = {
            "speaker": f"s{number % 3}",
            "snr_db": number - 3.0,
            "environment": "a very " * 9 + "long name",
        }
        name = f"e-{number:02d}"
        examples.append(Example(example_id=name, noisy=noisy, clean=clean, sample_rate_hz=RATE_HZ, meta=meta))
    write_shard(folder, "train", 0, examples, sample_rate_hz=RATE_HZ, corpus="made-up")
    merge_index(folder)
    write_page(folder, folder / "dataset.html", report=lambda text: None)
    return folder / "dataset.html"


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gap")

    def corpus(name: str, seed: int) -> GapSource:
        def loader(number: int) -> Callable[[], LoadedClip]:
            def load() -> LoadedClip:
                noisy, clean = pair(seed + number)
                return LoadedClip(
                    clip_id=f"{name}/{number}", speaker=None, noise=None, noisy=noisy, clean=clean
                )

            return load

        return GapSource(name=name, about="made up", of_clips=6, loaders=[loader(n) for n in range(6)])

    sources = [corpus(name, 100 * at) for at, name in enumerate(("in-domain", "street", "station"))]
    domain_gap(sources, out, resamples=100, report=lambda text: None)
    return out / PAGE


def test_every_example_of_the_dataset_page_can_be_played_and_seen(
    page: Page, dataset: Path, tmp_path: Path
) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(dataset.as_uri())
    page.wait_for_function(f"{DURATIONS}.every(duration => duration > 0)")
    assert page.evaluate(DURATIONS) == [SECONDS] * 20
    page.wait_for_function(LOADED)
    assert page.locator("img").count() == 11
    page.evaluate("document.querySelector('audio').play()")
    page.wait_for_function("document.querySelector('audio').ended")
    assert [url for url in requests if not url.startswith("data:")] == [dataset.as_uri()]
    page.screenshot(path=tmp_path / "dataset.png", full_page=True)


def test_players_stand_above_their_panels(page: Page, dataset: Path) -> None:
    page.goto(dataset.as_uri())
    page.wait_for_function(LOADED)
    picture = page.locator("img[alt^='spectrograms']").first.bounding_box()
    assert picture is not None
    players = page.locator(".players").first.locator("audio")
    boxes = [box for number in range(2) if (box := players.nth(number).bounding_box()) is not None]
    shares = [(box["x"] - picture["x"]) / picture["width"] for box in boxes]
    # Panels from 4.5% to 92.5% of the width, 2% between them.
    assert shares == pytest.approx([0.045, 0.495], abs=0.003)


@pytest.mark.parametrize("width", [1280, 830, 510])
def test_no_page_scrolls_sideways(page: Page, dataset: Path, gap: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for path in (dataset, gap):
        page.goto(path.as_uri())
        assert page.evaluate(SIDEWAYS) == 0


def test_pictures_and_words_of_the_gap_page_are_there(page: Page, gap: Path, tmp_path: Path) -> None:
    page.goto(gap.as_uri())
    page.wait_for_function(LOADED)
    assert page.locator("img").count() == 5
    assert all(page.locator("img").nth(number).get_attribute("alt") for number in range(5))
    assert page.locator("table").first.locator("tbody tr").count() == 3
    page.screenshot(path=tmp_path / "gap.png", full_page=True)


def test_pages_and_their_pictures_follow_light_and_dark(browser: Browser, dataset: Path) -> None:
    """What is drawn in ink is dark on a light page and light on a dark one."""
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(dataset.as_uri())
        page.wait_for_function(LOADED)
        picture = matplotlib.image.imread(io.BytesIO(page.locator("img").first.screenshot()))[..., :3]
        page.close()
        # The extreme of grey things alone: a colour has one channel that is low, and one that is high.
        ink = picture.max(axis=-1).min() if scheme == "light" else picture.min(axis=-1).max()
        paper = {"light": (1.0, 0.1), "dark": (0.09, 0.89)}[scheme]
        assert (np.median(picture), ink) == pytest.approx(paper, abs=0.04)
