"""A checkpoint and a configuration that an earlier release wrote are read by today's code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.training.config import TrainRunConfig
from rwsa.config import build, read_yaml
from rwsa.models import load_model
from rwsa.training.config import training_hash
from rwsa.training.state import published_weights
from tests.training_runs import Log, trained, write_shards

BEFORE = Path(__file__).parents[2] / "fixtures" / "before" / "training"
CHECKPOINT = BEFORE / "checkpoints" / "step-000004"
# `training_hash` of config.yaml in the release that wrote it; MLflow runs and trials hold such hashes.
STORED_HASH = "fee3857e9c7e"


def test_a_stored_configuration_keeps_its_hash() -> None:
    stored = build(TrainRunConfig, read_yaml(BEFORE / "config.yaml"), where="before")
    assert training_hash(stored) == STORED_HASH


def test_a_stored_checkpoint_resumes_with_the_losses_of_the_release_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That release left the phase of real bins to rounding.
    monkeypatch.setattr("rwsa.stft._is_real", lambda *_: torch.tensor(False))
    values = yaml.safe_load((BEFORE / "config.yaml").read_text())
    shards = write_shards(tmp_path / "shards")
    values |= {"max_steps": 8, "data": {**values["data"], "shards": str(shards)}}
    config = build(TrainRunConfig, values, where="before")
    shutil.copytree(BEFORE / "checkpoints", tmp_path / "run" / "checkpoints")
    log = Log()
    trained(config, tmp_path / "run", log)
    stored = json.loads((BEFORE / "resumed.json").read_text())
    assert [str(step) for step in log.steps] == list(stored)
    for step, losses in log.steps.items():
        assert losses == pytest.approx(stored[str(step)], rel=1e-2), step


def test_weights_of_a_stored_checkpoint_are_loaded() -> None:
    config = build(TrainRunConfig, read_yaml(BEFORE / "config.yaml"), where="before")
    for path in (CHECKPOINT / "generator.safetensors", published_weights(CHECKPOINT)):
        assert load_model(str(path)).config == config.model
