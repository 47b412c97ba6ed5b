"""Training on Ray under kill -9 of its workers, with broken shards, with losses that are not finite."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor

from pipelines.train import config_paths, train
from pipelines.training.config import TrainRunConfig
from pipelines.training.launch import checkpoints_of
from rwsa.config import read_config
from rwsa.errors import DivergedError, InputError
from rwsa.models.weights import read_weights
from tests.train_verb import settings_of, start_training, steps_logged, wait_for_step, wait_for_success
from tests.training_runs import write_shards

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("ray_address")]
STEPS = 24
SETTINGS = ["global_batch_size=4", "checkpoint_every_steps=3", f"max_steps={STEPS}"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def config_of(shards: Path, root: Path, *more: str) -> TrainRunConfig:
    settings = settings_of(shards, root, *SETTINGS, *more)
    return read_config(TrainRunConfig, config_paths(["base"]), settings)


@pytest.fixture(scope="module")
def undisturbed(
    shards: Path, tmp_path_factory: pytest.TempPathFactory, ray_address: str
) -> dict[str, Tensor]:
    """The weights of two workers that were left alone."""
    return read_weights(train(config_of(shards, tmp_path_factory.mktemp("undisturbed")), workers=2).weights)


def train_workers() -> list[int]:
    """Process ids of Ray Train's workers below this process, which started Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith(("ray::_RayTrain", "ray::RayTrain")):
                found.append(process.pid)
    return found


def test_killed_workers_are_replaced_and_the_weights_are_the_same(
    shards: Path, tmp_path: Path, undisturbed: dict[str, Tensor], ray_address: str
) -> None:
    """One training that loses rank 0 and then, started again, the other rank."""
    settings = settings_of(shards, tmp_path, *SETTINGS, "audio_every_steps=2", "audio_clips=1")
    run = start_training(2, settings, RAY_ADDRESS=ray_address, RWSA_SHARED_CHECKOUT="1")
    step = 5
    for lost_rank_0 in (True, False):
        line = wait_for_step(run, step)
        (rank_0,) = map(int, re.findall(r"pid=(\d+)", line))  # rank 0 prints the lines
        workers = train_workers()
        assert rank_0 in workers
        os.kill(next(pid for pid in workers if (pid == rank_0) == lost_rank_0), signal.SIGKILL)
        # Past what the first group of workers may still have printed.
        step = int(re.findall(r"step +(\d+)/", line)[0]) + 6
    wait_for_success(run)
    found = read_weights(tmp_path / "runs" / "tiny" / "model.safetensors")
    assert found.keys() == undisturbed.keys()
    assert [name for name in undisturbed if not torch.equal(found[name], undisturbed[name])] == []
    assert steps_logged(f"sqlite:///{tmp_path}/mlflow.db") == list(range(1, STEPS + 1))


def stop_the_other_rank(run: subprocess.Popen[str]) -> int:
    """Stop rank 1 with SIGSTOP, once training is under way; returns its process id."""
    line = wait_for_step(run, 4)
    (rank_0,) = map(int, re.findall(r"pid=(\d+)", line))
    (other,) = (pid for pid in train_workers() if pid != rank_0)
    os.kill(other, signal.SIGSTOP)
    return other


def test_a_stopped_worker_is_named_and_the_workers_restart(
    shards: Path, tmp_path: Path, undisturbed: dict[str, Tensor], ray_address: str
) -> None:
    settings = settings_of(shards, tmp_path, *SETTINGS, "hang_timeout_s=10")
    with start_training(2, settings, RAY_ADDRESS=ray_address, RWSA_SHARED_CHECKOUT="1") as run:
        stopped = stop_the_other_rank(run)
        _, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors
    hangs = [line for line in errors.splitlines() if line.startswith("training hangs: ")]
    assert f"rank 1 (node {platform.node()}, process {stopped}, step " in hangs[0]
    assert hangs[-1].endswith("; restarting from the last checkpoint (1 of 2)")
    assert not train_workers_left(stopped)
    found = read_weights(tmp_path / "runs" / "tiny" / "model.safetensors")
    assert [name for name in undisturbed if not torch.equal(found[name], undisturbed[name])] == []


def train_workers_left(pid: int) -> list[int]:
    """The process, if it still exists."""
    return [pid] if Path(f"/proc/{pid}/cmdline").exists() else []


def test_sigterm_ends_a_training_with_a_stopped_worker_in_the_grace(
    shards: Path, tmp_path: Path, ray_address: str
) -> None:
    settings = settings_of(shards, tmp_path, *SETTINGS, "max_steps=100000")
    joining = {"RAY_ADDRESS": ray_address, "RWSA_SHARED_CHECKOUT": "1", "RWSA_STOP_SECONDS": "10"}
    with start_training(2, settings, **joining) as run:
        stopped = stop_the_other_rank(run)
        run.terminate()
        began = time.monotonic()
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM, errors
    assert time.monotonic() - began < 40
    assert errors.splitlines()[-1].endswith("is kept, and the same command resumes from it")
    assert checkpoints_of(config_of(shards, tmp_path)).latest() is not None
    deadline = time.monotonic() + 60
    while train_workers_left(stopped):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_broken_shard_ends_all_workers_with_one_message(
    shards: Path,
    tmp_path: Path,
) -> None:
    broken = write_shards(tmp_path / "shards")
    shard = broken / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    began = time.monotonic()
    with pytest.raises(InputError, match=r"train-000001\.tar"):
        train(config_of(broken, tmp_path), workers=2)
    # It was not tried repeatedly.
    assert time.monotonic() - began < 150
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert [run.info.status for run in runs] == ["FAILED"]


def test_losses_that_are_not_finite_end_all_workers_and_name_the_clips(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step \d: not finite: .*total.* of clips train-\d, train-\d"):
        train(config_of(shards, tmp_path, "optimiser.learning_rate=1.0e+30"), workers=2)
