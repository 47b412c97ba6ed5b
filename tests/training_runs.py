"""Small training runs and a logger that records them, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwsa.audio import round_to_int16
from rwsa.config import as_mapping, build, merge
from rwsa.models import SIZES
from rwsa.models.weights import weights_of
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index
from rwsa.training.config import TrainConfig
from rwsa.training.context import AudioSample, LocalContext
from rwsa.training.loop import fit
from rwsa.training.state import TrainState

RATE_HZ = 16_000
TINY = {
    "channels": 8,
    "blocks": 1,
    "segment_frames": 32,
    "d_state": 4,
    "expand": 2,
    "heads": 2,
    "middle_heads": 2,
    "spectral": {"n_fft": 126, "hop_samples": 30, "window_samples": 126},
}
# A quarter of a second, so that PESQ has something to score.
AUDIBLE = {"segment_frames": 72, "spectral": {"n_fft": 254, "hop_samples": 60, "window_samples": 254}}
# Metrics that depend on the machine.
TIMINGS = (
    "samples_per_second",
    "audio_seconds_per_second",
    "data_wait_share",
    "pesq_wait_share",
    "eta_seconds",
    "validation_seconds",
    "checkpoint_seconds",
    "audio_seconds",
)


def example(name: str, samples: int) -> Example:
    """Noise with the envelope of speech, which PESQ accepts, plus noise."""
    rng = np.random.default_rng([ord(letter) for letter in name])
    syllables = 0.02 + np.sin(2 * np.pi * 2 * np.arange(samples) / RATE_HZ) ** 2
    clean = 0.1 * np.convolve(rng.standard_normal(samples + 1), [1, 0.5], "valid") * syllables
    return Example(
        example_id=name,
        noisy=round_to_int16(clean + 0.02 * rng.standard_normal(samples)),
        clean=round_to_int16(clean),
        sample_rate_hz=RATE_HZ,
        meta={},
    )


def write_shards(folder: Path) -> Path:
    """Five training examples in two shards, some shorter than a segment, and two validation examples."""
    train = [example(f"train-{n}", 600 + 1800 * n) for n in range(5)]
    write_shard(folder, "train", 0, train[:3], sample_rate_hz=RATE_HZ)
    write_shard(folder, "train", 1, train[3:], sample_rate_hz=RATE_HZ)
    valid = [example(f"valid-{n}", 2000 + n) for n in range(2)]
    write_shard(folder, "valid", 0, valid, sample_rate_hz=RATE_HZ)
    merge_index(folder)
    return folder


def write_nano_shards(folder: Path) -> Path:
    """Seven training examples longer than a segment of `nano`, and one validation example."""
    train = [example(f"nano-{n}", 16000 + 1000 * n) for n in range(7)]
    write_shard(folder, "train", 0, train[:4], sample_rate_hz=RATE_HZ)
    write_shard(folder, "train", 1, train[4:], sample_rate_hz=RATE_HZ)
    write_shard(folder, "valid", 0, [example("nano-valid", 16000)], sample_rate_hz=RATE_HZ)
    merge_index(folder)
    return folder


def nano_config(shards: Path, **changes: Any) -> TrainConfig:
    """The paper's recipe, with discriminator, for twenty steps of two segments."""
    values = {
        "name": "nano",
        "model": as_mapping(SIZES["nano"]),
        "data": {"shards": str(shards)},
        "global_batch_size": 2,
        "max_steps": 20,
        "best_metric": "si_sdr",
        "checkpoint_every_steps": 20,
        "log_every_steps": 1,
    }
    return build(TrainConfig, merge(values, changes), where="nano")


def config_of(shards: Path, **changes: Any) -> TrainConfig:
    values = {
        "name": "test",
        "model": TINY,
        "data": {"shards": str(shards)},
        "loss_weights": {"metric": 0},
        "global_batch_size": 2,
        "max_steps": 4,
        "best_metric": "si_sdr",
        "checkpoint_every_steps": 2,
        "log_every_steps": 1,
    }
    return build(TrainConfig, merge(values, changes), where="test")


class Log:
    """A `TrainLogger` that records metrics without timings and audio by step; can interrupt training."""

    def __init__(self, *, interrupt_at: int | None = None) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.audio: dict[int, list[AudioSample]] = {}
        self._interrupt_at = interrupt_at

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        recorded = {name: value for name, value in values.items() if name not in TIMINGS}
        self.steps.setdefault(step, {}).update(recorded)
        if step == self._interrupt_at and "total" in values:
            raise KeyboardInterrupt

    def log_audio(self, step: int, samples: Sequence[AudioSample]) -> None:
        self.audio[step] = list(samples)


def trained(config: TrainConfig, folder: Path, log: Log | None = None) -> TrainState:
    return fit(config, LocalContext(folder, log))


def tensors_of(state: TrainState) -> dict[str, Tensor]:
    """All tensors that later steps depend on."""
    tensors = weights_of(state.generator)
    for name, optimiser in state.optimisers().items():
        slots = optimiser.state_dict()["state"]
        tensors |= {f"{name}.{i}.{key}": t for i, each in slots.items() for key, t in each.items()}
    if state.discriminator is not None:
        tensors |= {f"discriminator.{name}": t for name, t in weights_of(state.discriminator).items()}
    return tensors


def assert_same_bits(one: TrainState, two: TrainState) -> None:
    left, right = tensors_of(one), tensors_of(two)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert (one.step, one.cursor, one.best_score) == (two.step, two.cursor, two.best_score)
