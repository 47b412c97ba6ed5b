"""Systems that were trained on several corpora: each is in domain on its own, on pages and in MLflow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.evaluate import statistics_of
from pipelines.evaluation.results import EvaluationSummary
from pipelines.reports.cross_corpus import cross_corpus
from pipelines.reports.evaluation_log import log_evaluation
from pipelines.reports.score_table import format_table
from pipelines.studies.trade_off_scores import read_scores, trade_off_panels
from tests.evaluations import model, synthetic_scores

SYSTEMS = ("x a 1", "x a 2", "x b", "y b")


def summary(trained_on: Mapping[str, str]) -> EvaluationSummary:
    return EvaluationSummary(
        name="matrix",
        systems=tuple(
            dataclasses.replace(model(name, name.removesuffix(" 1").removesuffix(" 2")), sha256=f"{at:064d}")
            for at, name in enumerate(SYSTEMS)
        ),
        corpora=tuple(synthetic_scores(name, seed, SYSTEMS) for seed, name in enumerate(("a", "b"))),
        seconds=1.0,
        trained_on=trained_on,
    )


@pytest.fixture(scope="module")
def trained_on_two() -> EvaluationSummary:
    return summary({"x b": "b", "y b": "b"})


def test_the_matrix(trained_on_two: EvaluationSummary) -> None:
    si_sdr = cross_corpus(trained_on_two)[-1]
    assert si_sdr.metric.startswith("SI-SDR")
    assert si_sdr.corpora == ["a", "b"]
    assert [(row.name, row.trained_on) for row in si_sdr.rows] == [("x a", "a"), ("x b", "b"), ("y b", "b")]
    assert [[cell.in_domain for cell in row.cells] for row in si_sdr.rows] == [
        [True, False], [False, True], [False, True],
    ]  # fmt: skip
    on_a, on_b = trained_on_two.corpora
    # A row of several seeds is their mean; elsewhere is where the system was not trained.
    means = [on_a.means(name)["si_sdr"] for name in ("x a 1", "x a 2")]
    assert si_sdr.rows[0].cells[0].score == f"{sum(filter(None, means)) / 2:.2f}"
    assert si_sdr.rows[1].elsewhere == f"{on_a.gains('x b')['si_sdr']:+.2f}"
    assert si_sdr.rows[0].elsewhere == si_sdr.rows[0].cells[1].gain != f"{on_b.gains('x b')['si_sdr']:+.2f}"


def test_one_corpus_for_all_is_no_matrix() -> None:
    assert cross_corpus(summary({})) == []
    second = summary(dict.fromkeys(("x a", "x b", "y b"), "b"))
    assert (cross_corpus(second), second.one_domain) == ([], "b")


def test_the_printed_table_says_where_each_is_in_domain(trained_on_two: EvaluationSummary) -> None:
    lines = format_table(trained_on_two, statistics_of(trained_on_two)).splitlines()
    assert "a: in-domain for x a" in lines
    assert "b: in-domain for x b, y b" in lines


def test_mlflow_and_the_trade_off_know_each_system_s_corpus(
    trained_on_two: EvaluationSummary, tmp_path: Path
) -> None:
    tracker = Tracker(StorageConfig(root=str(tmp_path), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"))
    run_id = log_evaluation(tracker, trained_on_two, statistics_of(trained_on_two), [], key="k")
    scores = read_scores(tracker)
    assert {(one.name, one.in_domain) for one in scores} == {
        ("x a 1", "a"), ("x a 2", "a"), ("x b", "b"), ("y b", "b"),
    }  # fmt: skip
    # Systems of one corpus are compared with each other: two seeds of x, and x with y.
    pairs = {
        (panel.in_domain, tuple(sorted(one.name for one in panel.points)))
        for panel in trade_off_panels(scores)
    }
    assert pairs == {("a (40 clips)", ("x a 1", "x a 2")), ("b (40 clips)", ("x b", "y b"))}
    params = tracker.client.get_run(run_id).data.params
    assert params["in_domain.x b"] == "b"
    page = Path(tracker.client.download_artifacts(run_id, "report.html", str(tmp_path))).read_text()
    assert "Trained on one corpus, scored on all" in page
    assert "on the corpus it was trained on" in page
