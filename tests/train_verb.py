"""The verb `train` in tests: small configurations, shards of noisy tones, commands run as processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from pipelines.train import config_paths
from pipelines.training.config import TrainRunConfig
from rwsa.audio import round_to_int16
from rwsa.config import read_config
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index

CHECKOUT = Path(__file__).parents[1]
RATE_HZ = 16_000
TINY = [
    "model={channels: 8, blocks: 1, d_state: 4, expand: 2, heads: 2, middle_heads: 2, segment_frames: 16}",
    "loss_weights.metric=0",
    "best_metric=si_sdr",
    "global_batch_size=2",
    "log_every_steps=1",
]


def write_tone_shards(folder: Path) -> Path:
    """Twelve noisy tones of a quarter of a second, eight to train on and four to validate on."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("valid", 4)):
        examples = [_tone(rng, f"{split}-{i}") for i in range(count)]
        write_shard(folder, split, 0, examples, sample_rate_hz=RATE_HZ)
    merge_index(folder)
    return folder


def _tone(rng: np.random.Generator, name: str) -> Example:
    time_s = np.arange(4000) / RATE_HZ
    clean = 0.2 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time_s)
    noisy = clean + 0.05 * rng.standard_normal(len(time_s))
    return Example(
        example_id=name,
        noisy=round_to_int16(noisy.astype(np.float32)),
        clean=round_to_int16(clean.astype(np.float32)),
        sample_rate_hz=RATE_HZ,
        meta={},
    )


def settings_of(shards: Path, root: Path, *more: str) -> list[str]:
    """What follows `--set`: a tiny network, and everything stored under `root`; later settings win."""
    storage = [f"storage.root={root}", f"storage.tracking_uri=sqlite:///{root}/mlflow.db"]
    return [*TINY, "name=tiny", f"data.shards={shards}", *storage, *more]


def run_config(shards: Path, root: Path, *more: str, steps: int) -> TrainRunConfig:
    settings = settings_of(shards, root, f"max_steps={steps}", "checkpoint_every_steps=2", *more)
    return read_config(TrainRunConfig, config_paths(["base"]), settings)


def loss_curve(root: Path, run_id: str) -> dict[int, float]:
    """The total loss by step, from MLflow."""
    history = MlflowClient(f"sqlite:///{root}/mlflow.db").get_metric_history(run_id, "loss/total")
    return {point.step: point.value for point in history}


def steps_logged(uri: str, experiment: str = "rwsa") -> list[int]:
    """The steps with a loss in the only run of an experiment, which must be finished."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    assert run.info.status == "FINISHED"
    return sorted({point.step for point in client.get_metric_history(run.info.run_id, "loss/total")})


def start_training(workers: int, settings: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.train", "base", "--workers", str(workers), "--set", *settings],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process: subprocess.Popen[str], step: int) -> str:
    """Read its output until it reports a step; returns that line."""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"step +(\d+)/\d+ · loss", line)
        if found and int(found[1]) >= step:
            return line
    raise AssertionError(process.stderr.read() if process.stderr else "")


def wait_for_success(process: subprocess.Popen[str]) -> str:
    """Wait for its end with status 0; returns the rest of its output."""
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return output
