"""What is tracked and registered, on SQLite and on an MLflow server over PostgreSQL: the same tests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

import rwsa
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.evaluate import statistics_of
from pipelines.evaluation.results import EvaluationSummary
from pipelines.register import register
from pipelines.reports.evaluation_log import finished_run, log_evaluation
from pipelines.studies.trade_off_scores import read_scores, trade_off_panels
from rwsa.models import build_model, save_model
from tests.evaluations import model, synthetic_scores
from tests.mlflow_server import postgresql, tracking_server


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.full)])
def storage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StorageConfig]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield StorageConfig(root=str(folder), tracking_uri=f"sqlite:///{folder}/mlflow.db")
        return
    with postgresql() as database, tracking_server(folder, database) as address:
        yield StorageConfig(root=str(folder), tracking_uri=address)


def test_more_figures_than_one_batch_all_arrive(storage: StorageConfig) -> None:
    with Tracker(storage).run("figures", params={"a": {"b": 1}}, tags={"kind": "test"}) as run:
        for step in range(2500):
            run.log_metrics(step, {"loss": 1 / (1 + step)})
    history = run.client.get_metric_history(run.run_id, "loss")
    assert {one.step: one.value for one in history} == {step: 1 / (1 + step) for step in range(2500)}
    found = run.client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"a.b": "1"}
    assert found.data.tags["kind"] == "test"


def test_a_run_of_the_same_key_continues_and_a_failed_one_is_marked(storage: StorageConfig) -> None:
    tracker = Tracker(storage)
    first = tracker.run("work", key="one")
    first.log_metrics(0, {"x": 1})
    with pytest.raises(ZeroDivisionError), first:
        _ = 1 / 0
    assert first.client.get_run(first.run_id).info.status == "FAILED"
    with tracker.run("work", key="one") as second:
        second.log_metrics(1, {"x": 2})
    assert second.run_id == first.run_id
    assert [one.value for one in second.client.get_metric_history(second.run_id, "x")] == [1, 2]


def test_children_are_found_under_their_parent(storage: StorageConfig) -> None:
    tracker = Tracker(storage)
    with tracker.run("parent") as parent:
        for name in ("a", "b"):
            with tracker.run(name, parent=parent.run_id):
                pass
    children = parent.client.search_runs(
        [tracker.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent.run_id}'",
        order_by=["attribute.run_name"],
    )
    assert [child.info.run_name for child in children] == ["a", "b"]


def test_tables_and_files_are_read_back_unchanged(storage: StorageConfig, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/page.html").write_text("<p>é</p>", encoding="utf-8")
    columns = {"clip": ["a", "b"], "pesq": [2.5, None]}
    with Tracker(storage).run("files") as run:
        run.log_table("clips.json", columns)
        run.log_file(tmp_path / "pages", "pages")
    back = Path(run.client.download_artifacts(run.run_id, "pages/page.html", str(tmp_path)))
    assert back.read_text(encoding="utf-8") == "<p>é</p>"
    table = json.loads(
        Path(run.client.download_artifacts(run.run_id, "clips.json", str(tmp_path))).read_text()
    )
    assert table == {"columns": ["clip", "pesq"], "data": [["a", 2.5], ["b", None]]}


def test_an_evaluation_is_found_again_and_compared(storage: StorageConfig) -> None:
    names = ("a", "b")
    systems = tuple(dataclasses.replace(model(name), sha256=name * 64) for name in names)
    corpora = tuple(
        synthetic_scores(name, seed, names, further=("csig",))
        for seed, name in enumerate(("in_domain", "out"))
    )
    summary = EvaluationSummary(name="both", systems=systems, corpora=corpora, seconds=1)
    tracker = Tracker(storage)
    run_id = log_evaluation(tracker, summary, statistics_of(summary), [], key="this one")
    assert finished_run(tracker, "this one") == run_id
    assert finished_run(tracker, "another") is None
    scores = {(one.name, one.corpus): one for one in read_scores(tracker)}
    assert scores.keys() == {(name, corpus.name) for name in names for corpus in corpora}
    pesq = corpora[1].means("b")["pesq"]
    assert pesq is not None
    assert scores["b", "out"].means["pesq"] == pytest.approx(pesq)
    assert [panel.metric for panel in trade_off_panels(scores.values())] == [
        "pesq",
        "ssnr",
        "estoi",
        "si_sdr",
    ]
    (child, *_) = tracker.client.search_runs(
        [tracker.experiment_id], "tags.`rwsa.corpus` = 'out' AND tags.`rwsa.system` = 'b'"
    )
    assert child.data.metrics["gain.csig"] == pytest.approx(corpora[1].gains("b")["csig"])


def test_a_registered_model_is_found_by_its_alias_and_enhances(
    storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("nano").eval()
    save_model(tmp_path / "nano.safetensors", model)
    save_model(tmp_path / "earlier.safetensors", build_model("nano", seed=1).eval())
    files = [tmp_path / f"{name}.safetensors" for name in ("earlier", "nano", "earlier", "nano")]
    versions = [register(path, storage=storage) for path in files]
    assert [one.name for one in versions] == ["rwsa-nano"] * 4
    assert [one.version for one in versions] == ["1", "2", "1", "2"]
    client = Tracker(storage).client
    assert client.get_model_version_by_alias("rwsa-nano", "newest").version in (2, "2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", storage.tracking_uri)
    wav = 0.1 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    found = mlflow.pyfunc.load_model(versions[-1].uri).predict(
        pd.DataFrame({"wav": [wav], "sample_rate_hz": [16_000]})
    )
    np.testing.assert_array_equal(found["wav"][0], rwsa.enhance(wav, 16_000, model))
