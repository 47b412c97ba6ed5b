"""Training segments: an example rendered if need be, normalised, then cropped or padded.

Imports no torch, so that the processes that mix while training start fast and stay small.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rwsa.audio import rms
from rwsa.errors import InputError
from rwsa.mixing import render_example
from rwsa.mixing.plans import MixPlan
from rwsa.shards.examples import Example
from rwsa.shards.sampling import sample_rng


@dataclass(frozen=True, kw_only=True)
class MissingExample:
    """An example that is unavailable: its shard, and the reason."""

    shard: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """float32 `[samples]` each, of one example."""

    example_id: str
    noisy: np.ndarray
    clean: np.ndarray


def make_segment(
    load: Callable[[], Example | MissingExample], *, seed: int, epoch: int, samples: int
) -> Segment | MissingExample:
    """Load an example and crop it to `samples`, at a position drawn from (seed, epoch, example id).

    Raises:
        InputError: see `normalise` and `load`.
    """
    example = load()
    if isinstance(example, MissingExample):
        return example
    rng = sample_rng(seed, epoch, example.example_id)
    noisy, clean = crop_or_pad(*normalise(example), samples, rng)
    return Segment(example_id=example.example_id, noisy=noisy, clean=clean)


def normalise(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Noisy and clean divided by the RMS of the complete noisy file, before any crop.

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
    """The same random crop of both; shorter clips are zero-padded at the end."""
    spare = len(noisy) - samples
    if spare <= 0:
        return np.pad(noisy, (0, -spare)), np.pad(clean, (0, -spare))
    start = int(rng.integers(spare + 1))
    return noisy[start : start + samples], clean[start : start + samples]


def render(plan: MixPlan, shard: str, *, strict: bool) -> Example | MissingExample:
    """Render one row of the plan of `shard`.

    Raises:
        InputError: it cannot be rendered, and `strict`.
    """
    try:
        return render_example(plan)
    except InputError as error:
        if strict:
            raise
        reason = f"example {plan.example_id} could not be mixed: {error}"
        return MissingExample(shard=shard, reason=reason)


def init_render_process() -> None:
    """Ignore Ctrl-C and SIGTERM, which the parent handles, and exit when the parent exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, name="rwsa-parent", daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in child processes only"
    parent.join()
    os._exit(1)
