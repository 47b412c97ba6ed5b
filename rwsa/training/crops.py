"""Examples to training segments: normalised, then cropped or padded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rwsa.audio import rms
from rwsa.errors import InputError
from rwsa.shards.examples import Example
from rwsa.shards.sampling import sample_rng


@dataclass(frozen=True, kw_only=True)
class Missing:
    """An example that cannot be had, why, and the shard that it was to be in."""

    shard: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """float32 `[samples]` each, of one example."""

    example_id: str
    noisy: np.ndarray
    clean: np.ndarray


def segment_of(
    job: Callable[[], Example | Missing], *, seed: int, epoch: int, samples: int
) -> Segment | Missing:
    """Do `job` and cut its example to `samples`, at random as (seed, epoch, example id) say.

    Raises:
        InputError: see `normalised` and the job.
    """
    example = job()
    if isinstance(example, Missing):
        return example
    rng = sample_rng(seed, epoch, example.example_id)
    noisy, clean = crop_or_pad(*normalised(example), samples, rng)
    return Segment(example_id=example.example_id, noisy=noisy, clean=clean)


def normalised(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Noisy and clean divided by the RMS of the whole noisy file, before any crop.

    Raises:
        InputError: the noisy file is silent.
    """
    level = rms(example.noisy)
    if level == 0:
        raise InputError(f"example {example.example_id}: its noisy file is silent; remove it and mix again")
    return example.noisy / np.float32(level), example.clean / np.float32(level)


def crop_or_pad(
    noisy: np.ndarray, clean: np.ndarray, samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same random `samples` samples of both; shorter clips are zero-padded at the end."""
    spare = len(noisy) - samples
    if spare <= 0:
        return np.pad(noisy, (0, -spare)), np.pad(clean, (0, -spare))
    start = int(rng.integers(spare + 1))
    return noisy[start : start + samples], clean[start : start + samples]
