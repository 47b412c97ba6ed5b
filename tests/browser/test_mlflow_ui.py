"""What a person sees: a real MLflow server, its pages in a real browser, and the report page in both."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.evaluate import statistics_of
from pipelines.evaluation.results import EvaluationSummary
from pipelines.reports.evaluation_entities import logged_models
from pipelines.reports.evaluation_log import log_evaluation
from pipelines.reports.evaluation_report import ScoredSample
from rwsa.files import sha256_of
from rwsa.models import build_model, save_model
from tests.evaluations import audio, model, synthetic_scores
from tests.mlflow_server import PATIENCE_SECONDS, postgresql, tracking_server

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.full
CLIP_SECONDS = 1.5
CORPORA = ("in-domain", "street", "station")
SYSTEMS = ("nano", "other")
# The widest names.
FURTHER = ("csig", "stoi", "dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")
# Noisy, clean and the systems, of three clips of each corpus.
PLAYERS = len(CORPORA) * 3 * (2 + len(SYSTEMS))
DURATIONS = "[...document.querySelectorAll('audio')].map(audio => audio.duration)"
LOADED = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A run in a store, and its report page as a file."""

    storage: StorageConfig
    experiment_id: str
    run_id: str
    page: Path


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """A small evaluation with made-up scores, logged as a real one is."""
    folder = tmp_path_factory.mktemp("store")
    storage = StorageConfig(root=str(folder), tracking_uri=f"sqlite:///{folder}/mlflow.db")
    tracker = Tracker(storage)
    summary = evaluated(folder)
    samples = [
        ScoredSample(label=label, scores=corpus.clips[index], audio=audio(index, SYSTEMS, CLIP_SECONDS))
        for corpus in summary.corpora
        for label, index in corpus.select_clips(SYSTEMS[0], 3)
    ]
    models = logged_models(tracker, summary)
    run_id = log_evaluation(tracker, summary, statistics_of(summary), samples, key="0", models=models)
    page = tracker.client.download_artifacts(run_id, "report.html", str(folder))
    return Logged(storage=storage, experiment_id=tracker.experiment_id, run_id=run_id, page=Path(page))


def evaluated(folder: Path) -> EvaluationSummary:
    """Two models with made-up scores on three corpora."""
    systems = []
    for seed, name in enumerate(SYSTEMS):
        path = folder / f"{name}.safetensors"
        save_model(path, build_model("nano", seed=seed).eval())
        systems.append(dataclasses.replace(model(name), weights=str(path), sha256=sha256_of(path)))
    return EvaluationSummary(
        name="nano evaluated",
        systems=tuple(systems),
        corpora=tuple(
            synthetic_scores(name, seed, SYSTEMS, CLIP_SECONDS, FURTHER) for seed, name in enumerate(CORPORA)
        ),
        seconds=12.0,
        cpu_seconds={"enhancing": 10.0, "scoring": 13.0},
    )


@pytest.fixture(scope="module")
def address(logged: Logged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running `mlflow server` over the store."""
    with tracking_server(tmp_path_factory.mktemp("server"), logged.storage.tracking_uri) as url:
        yield url


def test_a_person_finds_the_run_its_figures_and_its_files(
    page: Page, address: str, logged: Logged, tmp_path: Path
) -> None:
    page.goto(f"{address}/#/experiments/{logged.experiment_id}/runs")
    page.get_by_text("nano evaluated").first.wait_for()
    # MLflow's assistant covers a quarter of the window at the first visit.
    page.get_by_role("button", name="Close").first.click()
    page.screenshot(path=tmp_path / "1-runs.png")

    page.get_by_text("nano evaluated").first.click()
    page.get_by_text("in-domain.nano.pesq", exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "2-run.png")

    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html").first.click()
    report = page.frame_locator("iframe")
    report.locator("audio").first.wait_for()
    assert report.locator("h1").inner_text() == "nano evaluated"
    framed = next(frame for frame in page.frames if frame.url.startswith("blob:"))
    _await_durations(framed.evaluate)
    assert framed.evaluate(SIDEWAYS) == 0
    assert framed.evaluate(LOADED)
    page.screenshot(path=tmp_path / "3-report.png")

    page.get_by_text("figures").first.click()
    page.get_by_text("by-snr.svg").first.click()
    picture = page.locator("img[src^='blob:'], img[src*='get-artifact']").first
    picture.wait_for()
    page.wait_for_function("image => image.naturalWidth > 1000", arg=picture.element_handle())
    page.screenshot(path=tmp_path / "4-picture.png")

    page.get_by_text("scores.json").first.click()
    page.get_by_text("dnsmos_ovrl", exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "5-scores.png")


def test_a_person_finds_a_system_on_a_corpus_and_its_clips(
    page: Page, address: str, logged: Logged, tmp_path: Path
) -> None:
    client = Tracker(logged.storage).client
    child = client.search_runs(
        [logged.experiment_id],
        f"tags.`mlflow.parentRunId` = '{logged.run_id}' AND tags.`rwsa.corpus` = 'street'",
    )[0]
    page.goto(f"{address}/#/experiments/{logged.experiment_id}/runs/{child.info.run_id}")
    page.get_by_text("gain.pesq", exact=True).first.wait_for()
    page.get_by_text("nano evaluated").first.wait_for()
    page.screenshot(path=tmp_path / "6-child.png")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("clips.json").first.click()
    page.get_by_text("clip-00", exact=True).first.wait_for()
    system = child.data.params["system"]
    gain = synthetic_scores("street", 1, SYSTEMS).clips[0].gain("si_sdr", system)
    assert gain is not None
    page.get_by_text(str(round(gain, 4)), exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "7-clips.png")


def test_a_person_filters_by_dataset_and_sorts_models_by_a_corpus(
    page: Page, address: str, logged: Logged, tmp_path: Path
) -> None:
    look_for_datasets_and_models(page, address, logged.experiment_id, tmp_path)


def test_datasets_and_models_also_show_on_postgresql(page: Page, tmp_path: Path) -> None:
    with postgresql() as database, tracking_server(tmp_path, database) as url:
        tracker = Tracker(StorageConfig(root=str(tmp_path), tracking_uri=url))
        summary = evaluated(tmp_path)
        models = logged_models(tracker, summary)
        log_evaluation(tracker, summary, statistics_of(summary), [], key="0", models=models)
        look_for_datasets_and_models(page, url, tracker.experiment_id, tmp_path)


def look_for_datasets_and_models(page: Page, address: str, experiment_id: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 2400, "height": 900})
    wanted = quote("dataset.name = 'street test' AND tags.`rwsa.system` = 'nano'")
    page.goto(f"{address}/#/experiments/{experiment_id}/runs?searchFilter={wanted}")
    page.get_by_text("street test (").first.wait_for()
    page.get_by_role("button", name="Close").first.click()
    page.screenshot(path=tmp_path / "8-datasets.png")
    page.goto(f"{address}/#/experiments/{experiment_id}/models")
    page.get_by_text("Ready").first.wait_for()
    page.get_by_text("in-domain test").first.wait_for()
    for name in SYSTEMS:
        page.get_by_text(name, exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "9-models.png")


def test_the_report_stands_alone(page: Page, logged: Logged, tmp_path: Path) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(logged.page.as_uri())
    _await_durations(page.evaluate)
    assert [url for url in requests if not url.startswith("data:")] == [logged.page.as_uri()]
    page.wait_for_function(LOADED)
    # Four of all, one of each corpus, two rows of spectrograms of each clip.
    assert page.locator("img").count() == 4 + len(CORPORA) + 2 * 3 * len(CORPORA)
    page.screenshot(path=tmp_path / "report-1280.png", full_page=True)


def test_the_report_plays(page: Page, logged: Logged) -> None:
    page.goto(logged.page.as_uri())
    page.evaluate("document.querySelector('audio').play()")
    page.wait_for_function("document.querySelector('audio').ended")
    assert page.evaluate("document.querySelector('audio').currentTime") == pytest.approx(
        CLIP_SECONDS, abs=0.05
    )


@pytest.mark.parametrize("width", [1280, 830, 510])
def test_the_report_needs_no_sideways_scrolling(
    page: Page, logged: Logged, tmp_path: Path, width: int
) -> None:
    """The narrower ones are what MLflow leaves of 1280 pixels, without and with its assistant."""
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(logged.page.as_uri())
    page.screenshot(path=tmp_path / f"report-{width}.png")
    assert page.evaluate(SIDEWAYS) == 0


def test_players_stand_above_their_panels(page: Page, logged: Logged) -> None:
    page.goto(logged.page.as_uri())
    players = page.locator(".players").first.locator("audio")
    boxes = [box for number in range(3) if (box := players.nth(number).bounding_box()) is not None]
    picture = page.locator("img[alt^='spectrograms']").first.bounding_box()
    assert picture is not None
    assert len(boxes) == 3
    shares = [(box["x"] - picture["x"]) / picture["width"] for box in boxes]
    assert shares[0] == pytest.approx(0.045, abs=0.003)
    assert shares[1] - shares[0] == pytest.approx(shares[2] - shares[1], abs=0.003)


def _await_durations(evaluate) -> None:  # type: ignore[no-untyped-def]
    """Wait until every player of the page shows its clip's duration, which must be right."""
    expected = [CLIP_SECONDS] * PLAYERS
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (durations := evaluate(DURATIONS)) != expected:
        assert time.monotonic() < deadline, durations
        time.sleep(0.2)
