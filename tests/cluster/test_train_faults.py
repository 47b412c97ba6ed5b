"""Training under kill -9 of a worker, without MLflow, with broken shards, with bad losses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.train import config_paths, train
from pipelines.training.config import TrainRunConfig
from rwsa.config import read_config
from rwsa.errors import DivergedError, InputError
from rwsa.models.weights import read_weights
from tests.mlflow_server import free_port, tracking_server
from tests.training_runs import write_shards

pytestmark = pytest.mark.full
CHECKOUT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pipelines.train", "base"]
STEPS = 24
TINY = [
    "model={channels: 8, blocks: 1, d_state: 4, expand: 2, heads: 2, middle_heads: 2, segment_frames: 32}",
    "loss_weights.metric=0",
    "best_metric=si_sdr",
    "global_batch_size=4",
    "log_every_steps=1",
    "checkpoint_every_steps=3",
    f"max_steps={STEPS}",
    "name=faulty",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def settings_of(shards: Path, root: Path, *more: str) -> list[str]:
    places = [
        f"data.shards={shards}",
        f"storage.root={root}",
        f"storage.tracking_uri=sqlite:///{root}/mlflow.db",
    ]
    return [*TINY, *places, *more]


def config_of(shards: Path, root: Path, *more: str) -> TrainRunConfig:
    return read_config(TrainRunConfig, config_paths(["base"]), settings_of(shards, root, *more))


@pytest.fixture(scope="module")
def undisturbed(
    shards: Path, tmp_path_factory: pytest.TempPathFactory, ray_address: str
) -> dict[str, Tensor]:
    """The weights that two workers make when nothing happens to them."""
    return read_weights(train(config_of(shards, tmp_path_factory.mktemp("undisturbed")), workers=2).weights)


def assert_same_bits(root: Path, expected: dict[str, Tensor]) -> None:
    found = read_weights(root / "runs" / "faulty" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def started(shards: Path, root: Path, workers: int, *more: str, **environment: str) -> subprocess.Popen[str]:
    """A training command in a process of its own."""
    return subprocess.Popen(
        [*COMMAND, "--workers", str(workers), "--set", *settings_of(shards, root, *more)],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def reaches(process: subprocess.Popen[str], step: int) -> str:
    """Read what it prints until it has taken a step; returns the line that says so."""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"step +(\d+)/\d+ · loss", line)
        if found and int(found[1]) >= step:
            return line
    raise AssertionError(process.stderr.read() if process.stderr else "")


def ends_well(process: subprocess.Popen[str]) -> str:
    said, complaints = process.communicate(timeout=200)
    assert process.returncode == 0, complaints
    return said


def steps_logged(uri: str, experiment: str = "rwsa") -> list[int]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    assert run.info.status == "FINISHED"
    return sorted({point.step for point in client.get_metric_history(run.info.run_id, "loss/total")})


@pytest.mark.parametrize("rank_0", [True, False])
def test_a_killed_worker_is_replaced_and_the_weights_are_the_same(
    shards: Path, tmp_path: Path, undisturbed: dict[str, Tensor], ray_address: str, rank_0: bool
) -> None:
    settings = ("audio_every_steps=2", "audio_clips=1")
    run = started(shards, tmp_path, 2, *settings, RAY_ADDRESS=ray_address, RWSA_SHARED_CHECKOUT="1")
    speaks = reaches(run, 5)
    workers = subprocess.run(
        ["pgrep", "-f", "ray::_RayTrainWorker|ray::RayTrainWorker"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    (first,) = re.findall(r"pid=(\d+)", speaks)  # rank 0 prints the lines
    assert first in workers
    os.kill(int(next(pid for pid in workers if (pid == first) == rank_0)), signal.SIGKILL)
    ends_well(run)
    assert_same_bits(tmp_path, undisturbed)
    assert steps_logged(f"sqlite:///{tmp_path}/mlflow.db") == list(range(1, STEPS + 1))


def test_a_broken_shard_ends_all_workers_with_one_message(
    shards: Path, tmp_path: Path, ray_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_shards(tmp_path / "shards")
    shard = broken / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    began = time.monotonic()
    with pytest.raises(InputError, match=r"train-000001\.tar"):
        train(config_of(broken, tmp_path), workers=2)
    # It was not tried again and again.
    assert time.monotonic() - began < 90
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert [run.info.status for run in runs] == ["FAILED"]


def test_losses_that_are_not_finite_end_all_workers_and_name_the_clips(
    shards: Path, tmp_path: Path, ray_address: str
) -> None:
    with pytest.raises(DivergedError, match=r"step \d: not finite: .*total.* of clips train-\d, train-\d"):
        train(config_of(shards, tmp_path, "optimiser.learning_rate=1.0e+30"), workers=2)


@pytest.fixture
def port() -> int:
    return free_port()


def with_server(port: int) -> list[str]:
    return [f"storage.tracking_uri=http://127.0.0.1:{port}", "storage.experiment=faults"]


def test_an_mlflow_that_goes_away_and_comes_back_has_everything(
    shards: Path, tmp_path: Path, port: int
) -> None:
    database = f"sqlite:///{tmp_path}/server.db"
    with tracking_server(tmp_path, database, port):
        run = started(shards, tmp_path, 0, *with_server(port), "max_steps=80")
        reaches(run, 5)
    reaches(run, 40)
    with tracking_server(tmp_path, database, port):
        said = ends_well(run)
        assert "did not take everything" not in said
        assert steps_logged(f"http://127.0.0.1:{port}", "faults") == list(range(1, 81))
    assert not list((tmp_path / "unsent").glob("*/*"))


def test_an_mlflow_that_stays_away_stops_nothing_and_is_told_later(
    shards: Path, tmp_path: Path, port: int
) -> None:
    database = f"sqlite:///{tmp_path}/server.db"
    with tracking_server(tmp_path, database, port):
        run = started(shards, tmp_path, 0, *with_server(port), "max_steps=60")
        reaches(run, 5)
    reaches(run, 20)
    run.kill()
    run.communicate()
    refused = started(shards, tmp_path, 0, *with_server(port), "max_steps=60")
    _, complaint = refused.communicate(timeout=100)
    assert refused.returncode == 2
    assert "does not answer" in complaint
    with tracking_server(tmp_path, database, port):
        run = started(shards, tmp_path, 0, *with_server(port), "max_steps=60")
        reaches(run, 25)
    said = ends_well(run)
    assert "the rest waits in" in said
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
