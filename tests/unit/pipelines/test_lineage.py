"""From weights back to their data: what MLflow knows of the run that trained them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.lineage import TRAINING_KIND, WEIGHTS_TAG, described, lineage_of, training_key
from pipelines.core.step_records import StepContext, recorded_runs
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker

PARAMS = {
    "index_sha256": "abc",
    "corpora": "libri-esc50",
    "recipe_hashes": "r1",
    "config_hash": "c1",
    "data": {"shards": "/data/shards", "mix": {"card": None}},
}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("store")
    return Tracker(StorageConfig(root=str(folder), tracking_uri=f"sqlite:///{folder}/mlflow.db"))


def test_a_step_nests_its_runs_and_weights_lead_back_to_the_workflow(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracker.run("paper", tags={"rwsa.kind": "workflow"}) as workflow:
        pass
    step = StepContext(
        workflow="paper", step="train-xs", folder=str(tmp_path / "train-xs"), run_id=workflow.run_id
    )
    for name, value in step.environment().items():
        monkeypatch.setenv(name, value)
    with tracker.run("data", tags={"rwsa.index_sha256": "abc"}) as dataset:
        pass
    with tracker.run("xs", key="train xs", params=PARAMS) as training:
        training.tag(**{"rwsa.kind": TRAINING_KIND, WEIGHTS_TAG: "f" * 64})
        with tracker.run("child", parent=training.run_id) as child:
            pass
    # Resumed: the same run, recorded once.
    tracker.run("xs", key="train xs").close()

    tags = tracker.client.get_run(training.run_id).data.tags
    assert tags["mlflow.parentRunId"] == workflow.run_id
    assert (tags["rwsa.workflow"], tags["rwsa.step"]) == ("paper", "train-xs")
    assert tracker.client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == training.run_id
    recorded = recorded_runs(tmp_path / "train-xs")
    assert recorded.keys() == {training.run_id, dataset.run_id}
    assert recorded[training.run_id]["name"] == "xs"

    found = lineage_of(tracker, "f" * 64, folder=tmp_path)
    assert found.pop("training_commit")
    assert found == {
        "workflow": "paper",
        "workflow_run": workflow.run_id,
        "training_run": training.run_id,
        "training_name": "xs",
        "config_hash": "c1",
        "index_sha256": "abc",
        "corpora": "libri-esc50",
        "recipe_hashes": "r1",
        "shards": "/data/shards",
        "dataset_run": dataset.run_id,
    }
    assert f"- training run: [{training.run_id}](#/experiments/" in described(found, tracker)


def test_runs_of_earlier_versions_are_found_by_their_folder(tracker: Tracker, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "old"
    with tracker.run("old", key=training_key(folder), params={"config_hash": "c2"}) as training:
        pass
    assert lineage_of(tracker, "0" * 64, folder=folder)["training_run"] == training.run_id
    assert lineage_of(tracker, "0" * 64, folder=tmp_path) == {}


def test_outside_a_workflow_nothing_is_nested(tracker: Tracker) -> None:
    with tracker.run("alone") as run:
        pass
    tags = tracker.client.get_run(run.run_id).data.tags
    assert not {"mlflow.parentRunId", "rwsa.step", "rwsa.workflow"} & tags.keys()
