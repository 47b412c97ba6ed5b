"""What a person sees: a real MLflow server, its pages in a real browser, and the report page in both."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from pipelines.clip_scores import NOISY_PHASE, ClipAudio, ClipScores
from pipelines.evaluation_run import HeardClip, log_evaluation, run_params
from pipelines.results import CorpusScores, EvaluationSummary
from pipelines.tracking import Tracker
from rwsa.models import ModelConfig
from rwsa.training.config import StorageConfig

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow
CLIP_SECONDS = 1.5
CORPORA = ("in-domain", "street", "station")
# Until a page of MLflow's is there, on a machine that is busy with other tests.
PATIENCE_SECONDS = 180
DURATIONS = "[...document.querySelectorAll('audio')].map(audio => audio.duration)"
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
    tracker, config = Tracker(storage), ModelConfig(channels=8, blocks=1)
    params = run_params(Path("w.safetensors"), "0" * 64, config, None, dict.fromkeys(CORPORA, 40))
    with tracker.run("nano evaluated", params=params, tags={"rwsa.kind": "evaluation"}) as run:
        summary = EvaluationSummary(
            name="nano evaluated",
            weights="w.safetensors",
            weights_sha256="0" * 64,
            corpora=tuple(made_up(name, seed) for seed, name in enumerate(CORPORA)),
            seconds=12.0,
            run_id=run.run_id,
        )
        heard = [
            HeardClip(label=label, scores=corpus.clips[index], audio=audio(index))
            for corpus in summary.corpora
            for label, index in corpus.chosen(3)
        ]
        log_evaluation(run, summary, heard, config)
    page = run.client.download_artifacts(run.run_id, "report.html", str(folder))
    return Logged(storage=storage, experiment_id=tracker.experiment_id, run_id=run.run_id, page=Path(page))


def made_up(corpus: str, seed: int) -> CorpusScores:
    """Forty clips, from −5 to 10 dB, of which the harder ones gain more."""
    rng = np.random.default_rng(seed)
    clips = []
    for number, snr_db in enumerate(rng.uniform(-5, 10, size=40)):
        gain_db = 7 - 0.5 * snr_db - seed + rng.normal()
        noisy = {"pesq": 1.2 + 0.04 * snr_db, "ssnr": snr_db - 3, "estoi": 0.5, "si_sdr": snr_db}
        better = {"pesq": 0.1 * gain_db, "ssnr": 0.8 * gain_db, "estoi": 0.02 * gain_db, "si_sdr": gain_db}
        enhanced = {name: value + better[name] for name, value in noisy.items()}
        clips.append(
            ClipScores(
                corpus=corpus,
                clip_id=f"{corpus}/clip-{number:02d}",
                seconds=CLIP_SECONDS,
                speaker=f"speaker-{number % 5}",
                environment="café",
                input_snr_db=float(snr_db),
                noisy=noisy,
                enhanced={**enhanced, NOISY_PHASE: enhanced["si_sdr"] - 1},
            )
        )
    return CorpusScores(name=corpus, clips=tuple(clips), of_clips=40)


def audio(seed: int) -> ClipAudio:
    """A gliding harmonic sound, with noise and with a tenth of it."""
    seconds = np.arange(int(CLIP_SECONDS * 16000)) / 16000
    phase = 2 * np.pi * (150 + 10 * seed) * (seconds + 0.1 * seconds**2)
    clean = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.sin(np.pi * seconds / CLIP_SECONDS) * 0.1
    noise = np.random.default_rng(seed).normal(scale=0.05, size=len(seconds))
    noisy, enhanced = clean + noise, clean + 0.1 * noise
    return ClipAudio(
        noisy=noisy.astype(np.float32), enhanced=enhanced.astype(np.float32), clean=clean.astype(np.float32)
    )


@pytest.fixture(scope="module")
def address(logged: Logged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running `mlflow server` over the store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", logged.storage.tracking_uri]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "server.log"
    with log.open("wb") as output:
        # A group of its own, since it starts processes that must go with it.
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_health(url, server, log)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _await_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urlopen(f"{url}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"mlflow server did not answer within {PATIENCE_SECONDS} s: {log.read_text()}")


def test_a_person_finds_the_run_its_figures_and_its_files(
    page: Page, address: str, logged: Logged, tmp_path: Path
) -> None:
    page.goto(f"{address}/#/experiments/{logged.experiment_id}/runs")
    page.get_by_text("nano evaluated").first.wait_for()
    # MLflow's assistant covers a quarter of the window at the first visit.
    page.get_by_role("button", name="Close").first.click()
    page.screenshot(path=tmp_path / "1-runs.png")

    page.get_by_text("nano evaluated").first.click()
    page.get_by_text("in-domain.enhanced.pesq", exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "2-run.png")

    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html").first.click()
    report = page.frame_locator("iframe")
    report.locator("audio").first.wait_for()
    assert report.locator("h1").inner_text() == "nano evaluated"
    framed = next(frame for frame in page.frames if frame.url.startswith("blob:"))
    _await_durations(framed.evaluate)
    assert framed.evaluate(SIDEWAYS) == 0
    page.screenshot(path=tmp_path / "3-report.png")

    page.get_by_text("spectrograms").first.click()
    page.get_by_text("street").first.click()
    page.get_by_text("worst.png").first.click()
    picture = page.locator("img[src^='blob:'], img[src*='get-artifact']").first
    picture.wait_for()
    page.wait_for_function("image => image.naturalWidth === 1200", arg=picture.element_handle())
    page.screenshot(path=tmp_path / "4-spectrogram.png")

    page.get_by_text("clips.json").first.click()
    page.get_by_text("clip-00", exact=True).first.wait_for()
    gain = made_up(CORPORA[0], 0).clips[0].gain("si_sdr")
    assert gain is not None
    page.get_by_text(str(round(gain, 4)), exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "5-clips.png")


def test_the_report_stands_alone(page: Page, logged: Logged, tmp_path: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(logged.page.as_uri())
    _await_durations(page.evaluate)
    assert [url for url in asked if not url.startswith("data:")] == [logged.page.as_uri()]
    assert page.evaluate("[...document.images].every(image => image.naturalWidth === 1200)")
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
    """Until every player of the page knows how long its clip is, which must be right."""
    expected = [CLIP_SECONDS] * (len(CORPORA) * 3 * 3)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (durations := evaluate(DURATIONS)) != expected:
        assert time.monotonic() < deadline, durations
        time.sleep(0.2)
