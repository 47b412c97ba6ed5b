"""What runs in Ray's workers: enhancing a clip with one model, and scoring a clip's signals.

Every worker imports this file, so it must not pull in what only the driver needs (MLflow).

Legend: P signals of an enhanced clip (the model's, its magnitude with the noisy phase), S samples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import ray
import torch

from pipelines.evaluation.clip_scores import (
    NOISY,
    ClipScorer,
    SignalScores,
    enhance_clip,
    read_output,
    unscored,
)
from pipelines.evaluation.clips import EvaluationClip, load_clip
from rwsa.errors import InputError
from rwsa.metrics import TABLE1_METRICS, Failure
from rwsa.models import Network

# Models that this process has had from Ray's object store, by reference: they are fetched once.
_fetched: dict[str, Network] = {}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What to find out of one clip.

    Attributes:
        noisy: score the input as it is.
        models: names of those to enhance it with.
        outputs: system -> file of its ready-made output.
        metrics: to score by.
        known: system -> those of its scores that are there from before.
    """

    clip: EvaluationClip
    noisy: bool = False
    models: tuple[str, ...] = ()
    outputs: Mapping[str, Path]
    metrics: tuple[str, ...] = TABLE1_METRICS
    known: Mapping[str, SignalScores] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Enhancing:
    """How enhancing went; the signal travels apart, and stays where it is until it is scored."""

    cpu_seconds: float
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores by system, or why the clip could not be read."""

    signals: Mapping[str, SignalScores]
    cpu_seconds: float
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the clip could not be read, or any score failed."""
        rows = (one.values.values() for one in self.signals.values())
        return self.error is not None or any(isinstance(value, Failure) for row in rows for value in row)


def enhance(
    shared: list[ray.ObjectRef], clip: EvaluationClip, device: str
) -> tuple[Enhancing, np.ndarray | None]:
    """Read or mix a clip and enhance it.

    Args:
        shared: the model, as a reference in a list, which Ray does not follow by itself.
        clip: what to enhance.
        device: where, such as `cpu`.

    Returns:
        Enhancing: how it went.
        enhanced_PS: None where the clip cannot be read.
    """
    torch.set_num_threads(1)
    model, started = _model(shared[0], device), time.process_time()
    try:
        noisy, _ = load_clip(clip)
    except InputError as error:
        return Enhancing(cpu_seconds=time.process_time() - started, error=str(error)), None
    enhanced_PS = enhance_clip(noisy, model)
    return Enhancing(cpu_seconds=time.process_time() - started), enhanced_PS


def score(work: Work, *enhanced: np.ndarray) -> Scored:
    """Score what there is of a clip; `enhanced` are `[P, S]`, in the order of `work.models`."""
    started = time.process_time()
    try:
        noisy, clean = load_clip(work.clip)
    except InputError as error:
        return Scored(signals={}, cpu_seconds=time.process_time() - started, error=str(error))
    scorer, known = ClipScorer(clean, work.metrics), work.known
    signals = {NOISY: scorer.signal(noisy, known.get(NOISY))} if work.noisy else {}
    for name, enhanced_PS in zip(work.models, enhanced, strict=True):
        signals[name] = scorer.enhanced(enhanced_PS, known.get(name))
    for name, path in work.outputs.items():
        try:
            wav = read_output(path, work.clip, len(clean))
        except InputError as error:
            signals[name] = unscored(str(error), work.metrics)
        else:
            signals[name] = scorer.signal(wav, known.get(name))
    return Scored(signals=signals, cpu_seconds=time.process_time() - started)


class GpuEnhancer:
    """An actor that holds a GPU."""

    def enhance(
        self, shared: list[ray.ObjectRef], clip: EvaluationClip
    ) -> tuple[Enhancing, np.ndarray | None]:
        return enhance(shared, clip, "cuda")


def _model(reference: ray.ObjectRef, device: str) -> Network:
    key = f"{reference.hex()} {device}"
    if key not in _fetched:
        _fetched[key] = ray.get(reference).to(device)
    return _fetched[key]
