"""A sweep on real Ray Tune: trials under one parent run, failures as rows, nothing run twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from rwsa.audio import round_to_int16
from rwsa.shard_index import merge_index
from rwsa.shards import Example, write_shard
from tune.spaces import SweepConfig
from tune.sweep import SweepSummary, sweep

pytestmark = [pytest.mark.usefixtures("ray_address"), pytest.mark.slow]
RATE_HZ = 16000
CARD = """
name: pairs
description: Tones in noise.
sample_rate_hz: 16000
licence: CC0
pairs:
  - {{root: {root}, clean: 'clean/(?P<pair>\\w+)\\.wav', noisy: 'noisy/(?P<pair>\\w+)\\.wav', split: test}}
"""
TINY = {
    "channels": 8,
    "blocks": 1,
    "d_state": 4,
    "expand": 2,
    "heads": 2,
    "middle_heads": 2,
    "segment_frames": 16,
}


def _pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    clean = 0.2 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time_s)
    noisy = clean + 0.05 * rng.standard_normal(len(time_s))
    return round_to_int16(noisy.astype(np.float32)), round_to_int16(clean.astype(np.float32))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Shards of four examples a split, and a corpus of one pair."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        pairs = [_pair(rng) for _ in range(4)]
        examples = [
            Example(example_id=f"{split}-{i}", noisy=noisy, clean=clean, sample_rate_hz=RATE_HZ, meta={})
            for i, (noisy, clean) in enumerate(pairs)
        ]
        write_shard(tmp_path / "shards", split, 0, examples, sample_rate_hz=RATE_HZ)
    merge_index(tmp_path / "shards")
    for kind, wav in zip(("noisy", "clean"), _pair(rng), strict=True):
        (tmp_path / kind).mkdir()
        soundfile.write(tmp_path / kind / "one.wav", wav, RATE_HZ)
    (tmp_path / "card.yaml").write_text(CARD.format(root=tmp_path))
    return tmp_path


def _run(data: Path) -> SweepSummary:
    config = SweepConfig(
        name="tiny",
        base=("base",),
        set={
            "model": TINY,
            "loss_weights": {"metric": 0},
            "best_metric": "si_sdr",
            "global_batch_size": 2,
            "max_steps": 1,
            "data": {"shards": str(data / "shards")},
            "storage": {"root": str(data), "tracking_uri": f"sqlite:///{data}/mlflow.db"},
        },
        # There is no split of the second name, so the second trial fails.
        axes={"data.valid": ["valid", "test"]},
        corpora=(str(data / "card.yaml"),),
        workers=0,
    )
    return sweep(config)


def test_trials_are_children_failures_are_rows_and_nothing_runs_twice(data: Path) -> None:
    summary = _run(data)
    finished, failed = summary.rows
    assert [row["point"] for row in summary.rows] == [{"data.valid": "valid"}, {"data.valid": "test"}]
    assert "no split 'test'" in failed["error"]

    client = MlflowClient(f"sqlite:///{data}/mlflow.db")
    child = client.get_run(finished["run_id"])
    assert child.data.tags[MLFLOW_PARENT_RUN_ID] == summary.run_id
    assert child.info.status == "FINISHED"
    assert child.data.metrics["pairs.enhanced.si_sdr"] == finished["corpora"]["pairs"]["enhanced"]["si_sdr"]

    again = _run(data)
    assert again.run_id == summary.run_id
    assert again.rows == summary.rows
