"""In-domain against out-of-domain scores: from MLflow runs to panels and the page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.evaluate import statistics_of
from pipelines.evaluation.results import EvaluationSummary
from pipelines.reports.evaluation_log import log_evaluation
from pipelines.studies.trade_off_scores import SystemScore, read_scores, trade_off_panels
from pipelines.trade_off import main
from tests.evaluations import model, synthetic_scores

SYSTEMS = ("a", "b", "c")


def score(system: str, corpus: str, pesq: float, **changes: str) -> SystemScore:
    values = dict.fromkeys(("pesq", "ssnr", "estoi", "si_sdr"), pesq)
    one = SystemScore(
        system=system,
        name=system,
        corpus=corpus,
        in_domain="libri",
        data="d",
        code="c",
        clips=9,
        means=values,
        noisy=dict.fromkeys(values, 0.0),
    )
    return dataclasses.replace(one, **changes)  # type: ignore[arg-type]


def test_best_systems_and_the_correlation() -> None:
    in_domain = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0}
    out_of_domain = {"a": 5.0, "b": 1.0, "c": 4.0, "d": 3.0, "e": 2.0}
    scores = [
        score(name, place, of[name])
        for place, of in (("libri", in_domain), ("dns", out_of_domain))
        for name in in_domain
    ]
    found = trade_off_panels(scores)
    assert [panel.metric for panel in found] == ["pesq", "ssnr", "estoi", "si_sdr"]
    assert [point.name for point in found[0].points if point.best] == ["a", "c", "d", "e"]
    # Ranks out-of-domain 5 1 4 3 2: 1 − 6 · (16 + 1 + 1 + 1 + 9) / (5 · 24).
    assert found[0].correlation == pytest.approx(1 - 6 * 28 / 120)
    assert found[0].in_domain == "libri (9 clips)"
    assert trade_off_panels(scores[:4] + scores[5:9])[0].correlation is None


def test_only_scores_of_the_same_clips_by_the_same_code_are_compared() -> None:
    both = [score(name, place, 1.0) for name in "ab" for place in ("libri", "dns")]
    assert len(trade_off_panels(both)) == 4
    for change in ({"data": "other"}, {"code": "other"}):
        assert trade_off_panels([*both[:3], dataclasses.replace(both[3], **change)]) == []
    assert trade_off_panels(both[:2]) == []
    lacking = dataclasses.replace(both[3], means={"pesq": 1.0})
    assert trade_off_panels([*both[:3], lacking]) == []


def log(storage: StorageConfig, systems: tuple[str, ...], name: str) -> None:
    summary = EvaluationSummary(
        name=name,
        systems=tuple(dataclasses.replace(model(system), sha256=system * 64) for system in systems),
        corpora=tuple(
            synthetic_scores(corpus, seed, systems) for seed, corpus in enumerate(("libri", "dns"))
        ),
        seconds=1.0,
    )
    log_evaluation(Tracker(storage), summary, statistics_of(summary), [], key=name)


def test_runs_of_several_evaluations_are_on_one_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = StorageConfig(root=str(tmp_path), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    settings = ["--set", f"storage.root={tmp_path}", f"storage.tracking_uri={storage.tracking_uri}"]
    assert main(settings) == 2
    assert "has no two systems scored on an in-domain and another corpus" in capsys.readouterr().err
    log(storage, ("a", "b"), "first")
    log(storage, ("b", "c"), "second")
    scores = read_scores(Tracker(storage))
    # The newer score of the system that was scored twice.
    assert sorted((one.name, one.corpus) for one in scores) == [
        (name, corpus) for name in SYSTEMS for corpus in ("dns", "libri")
    ]
    second = synthetic_scores("libri", 0, ("b", "c"))
    of_b = next(one for one in scores if (one.name, one.corpus) == ("b", "libri"))
    assert of_b.means["pesq"] == pytest.approx(second.means("b")["pesq"])
    assert main(settings) == 0
    shown = capsys.readouterr().out
    assert "libri (40 clips) against dns (40 clips): 3 systems, too few for a correlation" in shown
    text = (tmp_path / "trade-off.html").read_text()
    assert text.count("<h2>") == 1
    assert "<script" not in text
    for name in SYSTEMS:
        assert f" {name}</th>" in text
