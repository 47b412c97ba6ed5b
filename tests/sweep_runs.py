"""Small sweeps for tests: their data, their configuration, and what they saved."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from rwsa.audio import round_to_int16
from rwsa.config import build, merge
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index
from tune.sweep_config import SweepConfig
from tune.trial_results import ResultFolder, TrialResult

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


def write_data(folder: Path) -> Path:
    """Shards of four examples per split, and a corpus of one pair."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        pairs = [_pair(rng) for _ in range(4)]
        examples = [
            Example(example_id=f"{split}-{i}", noisy=noisy, clean=clean, sample_rate_hz=RATE_HZ, meta={})
            for i, (noisy, clean) in enumerate(pairs)
        ]
        write_shard(folder / "shards", split, 0, examples, sample_rate_hz=RATE_HZ)
    merge_index(folder / "shards")
    for kind, wav in zip(("noisy", "clean"), _pair(rng), strict=True):
        (folder / kind).mkdir()
        soundfile.write(folder / kind / "one.wav", wav, RATE_HZ)
    (folder / "card.yaml").write_text(CARD.format(root=folder))
    return folder


def sweep_config(data: Path, name: str, **changes: Any) -> SweepConfig:
    return build(SweepConfig, sweep_values(data, name, **changes), where=name)


def sweep_values(data: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A sweep as its YAML file has it: trials of two steps, trained in the trial's own process."""
    values: dict[str, Any] = {
        "name": name,
        "question": "Does it work?",
        "base": ["base"],
        "set": {
            "model": TINY,
            "loss_weights": {"metric": 0},
            "global_batch_size": 2,
            "max_steps": 2,
            "checkpoint_every_steps": 1,
            "audio_clips": 0,
            "data": {"shards": str(data / "shards")},
            "storage": {"root": str(data), "tracking_uri": f"sqlite:///{data}/mlflow.db"},
        },
        "corpora": [str(data / "card.yaml")],
        "audio_clips": 0,
        "metric": "si_sdr",
        "workers": 0,
    }
    return merge(values, changes)


def reproducible(rows: list[TrialResult]) -> list[Any]:
    """Results without values that differ between any two runs."""
    return [
        dataclasses.replace(row, seconds=0, evaluation_seconds=0, run_id=None, weights=None) for row in rows
    ]


def saved_reports(data: Path, sweep: str) -> list[tuple[str, int]]:
    """Trial and step of every report that a sweep has saved."""
    files = ResultFolder(data / "sweeps" / sweep)
    return [(name, step) for name in files.trial_names() for step, _ in files.progress(name).reports]


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether something comes true in so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.1)
    return False


def start_sweep(data: Path, name: str, axes: dict[str, Any], **changes: Any) -> subprocess.Popen[str]:
    """Start the command with a Ray of its own, in a process group of its own; its output goes to NAME.log."""
    path = data / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sweep_values(data, name, axes=axes, **changes)))
    with (data / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tune.sweep", str(path)],
            env={variable: value for variable, value in os.environ.items() if variable != "RAY_ADDRESS"},
            start_new_session=True,
            stdout=log,
            stderr=log,
            text=True,
        )
