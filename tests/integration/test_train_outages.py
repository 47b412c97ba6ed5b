"""Training while MLflow is unreachable: no run stops, and no record is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from tests.mlflow_server import free_port, tracking_server
from tests.train_verb import settings_of, start_training, steps_logged, wait_for_step, wait_for_success
from tests.training_runs import write_shards

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def port() -> int:
    return free_port()


def with_server(shards: Path, root: Path, port: int) -> list[str]:
    server = [f"storage.tracking_uri=http://127.0.0.1:{port}", "storage.experiment=faults"]
    return settings_of(shards, root, "global_batch_size=4", "checkpoint_every_steps=3", *server)


def test_an_mlflow_server_that_restarts_receives_all_records(shards: Path, tmp_path: Path, port: int) -> None:
    database = f"sqlite:///{tmp_path}/server.db"
    with tracking_server(tmp_path, database, port):
        run = start_training(0, [*with_server(shards, tmp_path, port), "max_steps=80"])
        wait_for_step(run, 5)
    wait_for_step(run, 40)
    with tracking_server(tmp_path, database, port):
        output = wait_for_success(run)
        assert "did not accept all records" not in output
        assert steps_logged(f"http://127.0.0.1:{port}", "faults") == list(range(1, 81))
    assert not list((tmp_path / "unsent").glob("*/*"))


def test_records_for_an_unreachable_mlflow_are_sent_by_a_later_run(
    shards: Path, tmp_path: Path, port: int
) -> None:
    database = f"sqlite:///{tmp_path}/server.db"
    with tracking_server(tmp_path, database, port):
        run = start_training(0, [*with_server(shards, tmp_path, port), "max_steps=60"])
        wait_for_step(run, 5)
    wait_for_step(run, 20)
    run.kill()
    run.communicate()
    refused = start_training(0, [*with_server(shards, tmp_path, port), "max_steps=60"])
    _, complaint = refused.communicate(timeout=100)
    assert refused.returncode == 2
    assert "does not answer" in complaint
    with tracking_server(tmp_path, database, port):
        run = start_training(0, [*with_server(shards, tmp_path, port), "max_steps=60"])
        wait_for_step(run, 25)
    output = wait_for_success(run)
    assert "the rest is queued in" in output
    with tracking_server(tmp_path, database, port):
        storage = StorageConfig(
            root=str(tmp_path), tracking_uri=f"http://127.0.0.1:{port}", experiment="faults"
        )
        client = Tracker(storage).client
        assert steps_logged(f"http://127.0.0.1:{port}", "faults") == list(range(1, 61))
        (found,) = client.search_runs([client.get_experiment_by_name("faults").experiment_id])
        names = {artifact.path for artifact in client.list_artifacts(found.info.run_id)}
        assert {"model.safetensors", "starts"} <= names
    assert not list((tmp_path / "unsent").glob("*/*"))
