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
from pipelines.core.logged_models import LoggedFiles
from pipelines.core.model_registry import write_model
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.evaluate import statistics_of
from pipelines.evaluation.results import EvaluationSummary
from pipelines.register import register
from pipelines.reports.evaluation_entities import corpus_dataset, logged_models, point_aliases
from pipelines.reports.evaluation_log import finished_run, log_evaluation
from pipelines.studies.trade_off_scores import read_scores, trade_off_panels
from rwsa.files import sha256_of
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


def test_models_are_compared_on_corpora_and_the_best_versions_have_aliases(
    storage: StorageConfig, tmp_path: Path
) -> None:
    tracker, systems = Tracker(storage), []
    for seed, name in enumerate(("in", "out")):
        path = tmp_path / f"{name}.safetensors"
        save_model(path, build_model("nano", seed=10 + seed).eval())
        about = dataclasses.replace(model(name), weights=str(path), sha256=sha256_of(path))
        systems.append(about)
        register(path, storage=storage, name="compared")
    # Of two systems, the first gains more.
    corpora = (
        synthetic_scores("home", 0, ("in", "out")),
        synthetic_scores("street", 1, ("out", "in")),
    )
    summary = EvaluationSummary(name="two", systems=tuple(systems), corpora=corpora, seconds=1)
    models = logged_models(tracker, summary)
    assert logged_models(tracker, summary) == models
    log_evaluation(tracker, summary, statistics_of(summary), [], key="models", models=models)
    point_aliases(tracker, summary)
    client = tracker.client
    aliases = client.get_registered_model("compared").aliases
    assert {name: int(version) for name, version in aliases.items()} == {
        "newest": 2,
        "best-in-domain": 1,
        "best-out-of-domain": 2,
    }
    version = client.get_model_version("compared", "1")
    assert version.tags["model_id"] == models["in"]
    (link,) = json.loads(client.get_logged_model(models["in"]).tags["mlflow.modelVersions"])
    assert (link["name"], str(link["version"])) == ("compared", "1")
    # What the table of models shows: sorted by a metric on a dataset.
    for corpus, best in (("home", "in"), ("street", "out")):
        dataset = corpus_dataset(corpora[0 if corpus == "home" else 1])
        order = [{"field_name": "metrics.pesq", "ascending": False, "dataset_name": dataset.name}]
        found = client.search_logged_models([tracker.experiment_id], order_by=order)
        assert found[0].model_id == models[best]
        values = {
            (one.dataset_name, one.dataset_digest): one.value for one in found[0].metrics if one.key == "pesq"
        }
        expected = next(one for one in corpora if one.name == corpus).means(best)["pesq"]
        assert values[dataset.name, dataset.digest] == pytest.approx(expected)
    (child, *_) = client.search_runs(
        [tracker.experiment_id],
        "dataset.name = 'street test' AND tags.`rwsa.system` = 'out'"
        " AND tags.`rwsa.kind` = 'system-on-corpus'",
    )
    (used,) = child.inputs.dataset_inputs
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "test"}
    assert json.loads(used.dataset.profile)["speakers"] == 8
    child = client.get_run(child.info.run_id)  # a search leaves out the models
    assert [one.model_id for one in child.inputs.model_inputs] == [models["out"]]


def test_a_model_sent_twice_is_one(storage: StorageConfig, tmp_path: Path) -> None:
    path = tmp_path / "twice.safetensors"
    save_model(path, build_model("nano", seed=20).eval())
    about = LoggedFiles(name="a/b: c", sha256=sha256_of(path), metrics={"valid/best_score": 1.0})
    with Tracker(storage).run("training") as run:
        for _ in range(2):
            run.log_model(about, lambda folder: write_model(folder, path, check=False))
    made = run.client.get_run(run.run_id).outputs.model_outputs
    assert len(made) == 1
    found = run.client.get_logged_model(made[0].model_id)
    assert (found.status, found.source_run_id, found.name) == ("READY", run.run_id, "a_b_ c")
    assert [one.value for one in found.metrics] == [1.0]


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
