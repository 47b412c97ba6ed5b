"""The Ray task of one clip: enhance it with models, and score its signals.

Every worker imports this file, so it must not import what only the driver needs (MLflow).

Legend: P signals of an enhanced clip (the model's, its magnitude with the noisy phase), S samples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
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

if TYPE_CHECKING:
    from ray import ObjectRef

# Networks that this process fetched from Ray's object store, by reference and device.
_networks: dict[str, Network] = {}


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """The missing scores of one clip.

    Attributes:
        noisy: score the input.
        models: name -> the network in Ray's object store, of models to enhance the clip with.
        outputs: system -> file of its ready-made output.
        metrics: to score by.
        cached: system -> the scores that it has in some of the metrics.
    """

    clip: EvaluationClip
    noisy: bool = False
    models: Mapping[str, ObjectRef] = field(default_factory=dict)
    outputs: Mapping[str, Path] = field(default_factory=dict)
    metrics: tuple[str, ...] = TABLE1_METRICS
    cached: Mapping[str, SignalScores] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.clip.clip_id


@dataclass(frozen=True, kw_only=True)
class EnhancedClip:
    """A clip's signals by model, `[P, S]`, or why it could not be read."""

    signals: Mapping[str, np.ndarray]
    cpu_seconds: float
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoredClip:
    """A clip's scores by system, or why it could not be read; with the CPU time by kind of work."""

    signals: Mapping[str, SignalScores]
    cpu_seconds: Mapping[str, float]
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the clip could not be read, or any score failed."""
        rows = (one.values.values() for one in self.signals.values())
        return self.error is not None or any(isinstance(value, Failure) for row in rows for value in row)


def enhance_models(task: ScoreTask, device: str = "cpu") -> EnhancedClip:
    """Enhance a clip with each of the task's models."""
    started = time.process_time()
    signals: dict[str, np.ndarray] = {}
    error = None
    if task.models:
        torch.set_num_threads(1)
        try:
            noisy, _ = load_clip(task.clip)
        except InputError as unreadable:
            error = str(unreadable)
        else:
            for name, reference in task.models.items():
                signals[name] = enhance_clip(noisy, _network(reference, device))
    return EnhancedClip(signals=signals, cpu_seconds=time.process_time() - started, error=error)


def enhance_on_gpu(task: ScoreTask) -> EnhancedClip:
    """`enhance_models` on a GPU."""
    return enhance_models(task, "cuda")


def enhance_sample(task: ScoreTask, enhanced: EnhancedClip | None = None) -> EnhancedClip:
    """The models' own signals of a clip, `[S]`; `enhanced` if a GPU already made them."""
    enhanced = enhanced or enhance_models(task)
    return replace(enhanced, signals={name: wav_PS[0] for name, wav_PS in enhanced.signals.items()})


def score_clip(task: ScoreTask, enhanced: EnhancedClip | None = None) -> ScoredClip:
    """Enhance a clip, unless `enhanced` comes from a GPU, and score all signals of the task."""
    enhanced = enhanced or enhance_models(task)
    started, signals = time.process_time(), dict[str, SignalScores]()
    error = enhanced.error
    if error is None:
        try:
            noisy, clean = load_clip(task.clip)
        except InputError as unreadable:
            error = str(unreadable)
        else:
            signals = _score(task, noisy, clean, enhanced)
    seconds = {"enhancing": enhanced.cpu_seconds, "scoring": time.process_time() - started}
    return ScoredClip(signals=signals, cpu_seconds=seconds, error=error)


def _score(
    task: ScoreTask, noisy: np.ndarray, clean: np.ndarray, enhanced: EnhancedClip
) -> dict[str, SignalScores]:
    scorer, cached = ClipScorer(clean, task.metrics), task.cached
    signals = {NOISY: scorer.score(noisy, cached.get(NOISY))} if task.noisy else {}
    for name in task.models:
        signals[name] = scorer.score_model(enhanced.signals[name], cached.get(name))
    for name, path in task.outputs.items():
        try:
            wav = read_output(path, task.clip, len(clean))
        except InputError as error:
            signals[name] = unscored(str(error), task.metrics)
        else:
            signals[name] = scorer.score(wav, cached.get(name))
    return signals


def _network(reference: ObjectRef, device: str) -> Network:
    import ray  # late: it takes seconds, and the driver may need none of it

    key = f"{reference.hex()} {device}"
    if key not in _networks:
        _networks[key] = ray.get(reference).to(device)
    return _networks[key]
