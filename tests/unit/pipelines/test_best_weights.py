"""The best of several runs is chosen by the validation scores in their checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.training.best_weights import best_weights, validated
from rwsa.errors import InputError
from rwsa.training.checkpoints import Checkpoints
from rwsa.training.state import TrainState, published_weights
from tests.training_runs import config_of


def run(folder: Path, name: str, scores: list[float], **changes: Any) -> Path:
    """The folder of a run with a checkpoint for each score; returns its weights."""
    state = TrainState(config_of(folder, name=name, **changes), torch.device("cpu"))
    checkpoints = Checkpoints(folder / name / "checkpoints")
    for score in scores:
        state.step += 2
        state.record_score(score)
        checkpoints.save(
            state.step, lambda path: state.save(path, order_identity="x"), best_step=state.best_step
        )
    best = checkpoints.best()
    assert isinstance(best, Path)
    weights = folder / name / "model.safetensors"
    shutil.copyfile(published_weights(best), weights)
    return weights


def test_the_highest_validation_score_wins(tmp_path: Path) -> None:
    low = run(tmp_path, "low", [1.0, 2.0])
    high = run(tmp_path, "high", [3.0, 0.5], average_decay=0.9)
    best = best_weights([low, high])
    assert (best.weights, best.metric, best.score) == (high, "si_sdr", 3.0)
    assert best_weights([high, low]).weights == high
    assert best_weights([low]).score == 2.0


def test_scores_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one = run(tmp_path, "one", [1.0])
    with pytest.raises(InputError, match=r"validated differently \(best_metric si_sdr and pesq\)"):
        best_weights([one, run(tmp_path, "other", [2.0], best_metric="pesq")])
    with pytest.raises(InputError, match=r"validated differently \(data.valid_examples None and 1\)"):
        best_weights([one, run(tmp_path, "fewer", [2.0], data={"valid_examples": 1})])
    copied = tmp_path / "copied.safetensors"
    shutil.copyfile(one, copied)
    with pytest.raises(InputError, match=r"copied.safetensors: has no checkpoints beside it"):
        best_weights([one, copied])
    two = run(tmp_path, "two", [1.0, 2.0], seed=1)
    shutil.copyfile(one, two)
    with pytest.raises(InputError, match=r"is not the best checkpoint of its run, .*step-000004"):
        validated(two)
