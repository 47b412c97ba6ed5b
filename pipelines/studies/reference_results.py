"""Scores of fixed estimates against degraded references, by clip and over clips."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.evaluation.clips import EvaluationClip, load_clip
from pipelines.studies.reference_conditions import CONDITIONS, Condition, degraded
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.metrics import METRICS, Failure, Reference, floored_by_silence
from rwsa.metrics.registry import roots

# DNSMOS never hears the reference, so that nothing done to it could move it.
STUDIED = tuple(name for name in METRICS if "clean" in roots(name))
# What stands for a perfect enhancer: the clean clip that the noisy one was mixed from.
NOISY, ENHANCED, CLEAN = "noisy", "enhanced", "clean"
Row = Mapping[str, float | Failure]


@dataclass(frozen=True, kw_only=True)
class StudyClip:
    """A clip to study; `weights` is a path, None to do without an enhanced estimate."""

    clip: EvaluationClip
    weights: str | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class ClipStudy:
    """One clip.

    Attributes:
        rows: (condition, estimate) to scores.
        floored: where CSIG and COVL are 1 for digital silence alone; see `rwsa.metrics.composite.llr`.
        error: why there are no scores.
    """

    clip_id: str
    rows: Mapping[tuple[Condition, str], Row]
    floored: frozenset[tuple[Condition, str]] = frozenset()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A metric over clips: mean, and what the middle 80% of the clips lie between; None without values."""

    mean: float | None
    low: float | None
    high: float | None
    count: int
    failures: int


@dataclass(frozen=True, kw_only=True)
class ReferenceStudy:
    """All of a study.

    Attributes:
        about: what the page and the JSON say of it, label to text.
        estimates: in the order to show them.
    """

    corpus: str
    about: Mapping[str, str]
    estimates: tuple[str, ...]
    clips: tuple[ClipStudy, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        """Of clips that could not be studied."""
        return tuple(f"{clip.clip_id}: {clip.error}" for clip in self.clips if clip.error is not None)

    def spread(self, condition: Condition, estimate: str, metric: str) -> Spread:
        """Over the clips that could be studied."""
        column = [clip.rows[condition, estimate][metric] for clip in self.clips if clip.error is None]
        values = np.array([value for value in column if not isinstance(value, Failure)])
        if not len(values):
            return Spread(mean=None, low=None, high=None, count=0, failures=len(column))
        low, high = np.percentile(values, [10, 90])
        return Spread(
            mean=float(values.mean()),
            low=float(low),
            high=float(high),
            count=len(values),
            failures=len(column) - len(values),
        )

    def gain(self, condition: Condition, metric: str) -> float | None:
        """Enhanced minus noisy, the mean over clips that have both; None where none has."""
        pairs = (
            (clip.rows[condition, ENHANCED][metric], clip.rows[condition, NOISY][metric])
            for clip in self.clips
            if clip.error is None
        )
        gains = [
            enhanced - noisy
            for enhanced, noisy in pairs
            if not isinstance(enhanced, Failure) and not isinstance(noisy, Failure)
        ]
        return float(np.mean(gains)) if gains else None

    def failures(self) -> Iterator[tuple[str, str, str, int]]:
        """(condition, estimate, metric and reason, how many clips), where a metric failed."""
        counts: dict[tuple[str, str, str], int] = {}
        for clip in self.clips:
            for (condition, estimate), row in clip.rows.items():
                for metric, value in row.items():
                    if isinstance(value, Failure):
                        key = (condition.name, estimate, f"{metric}: {value.reason}")
                        counts[key] = counts.get(key, 0) + 1
        for key, count in counts.items():
            yield (*key, count)

    def floored(self, condition: Condition, estimate: str) -> int:
        """How many clips have CSIG and COVL of 1 for digital silence alone."""
        return sum((condition, estimate) in clip.floored for clip in self.clips)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `rwsa.files.write_json`."""
        return {
            "corpus": self.corpus,
            "about": dict(self.about),
            "conditions": [
                {
                    "name": condition.name,
                    "snr_db": condition.snr_db,
                    "drr_db": condition.drr_db,
                    "rt60_seconds": condition.rt60_seconds,
                    "scores": {
                        estimate: {
                            metric: vars(self.spread(condition, estimate, metric)) for metric in STUDIED
                        }
                        for estimate in self.estimates
                    },
                    "floored_by_silence": {
                        estimate: self.floored(condition, estimate) for estimate in self.estimates
                    },
                }
                for condition in CONDITIONS
            ],
            "clips": [clip.clip_id for clip in self.clips if clip.error is None],
            "errors": list(self.errors),
        }


def study_clip(item: StudyClip) -> ClipStudy:
    """Score the estimates of a clip against its reference in every condition; a Ray task."""
    clip_id = item.clip.clip_id
    try:
        noisy, clean = load_clip(item.clip)
        estimates = {NOISY: noisy, CLEAN: clean}
        if item.weights is not None:
            # Late: without weights, no worker needs torch.
            from rwsa import enhance

            estimates[ENHANCED] = enhance(noisy, SAMPLE_RATE_HZ, _model(item.weights))
        wavs = {
            condition: degraded(clean, condition, SAMPLE_RATE_HZ, clip_id=clip_id, seed=item.seed)
            for condition in CONDITIONS
        }
    except InputError as error:
        return ClipStudy(clip_id=clip_id, rows={}, error=str(error))
    rows = {}
    for condition, wav in wavs.items():
        reference = Reference(wav)
        for name, estimate in estimates.items():
            rows[condition, name] = reference.score(estimate, STUDIED)
    floored = frozenset(
        (condition, name)
        for (condition, name), row in rows.items()
        if row["csig"] == 1.0 and floored_by_silence(wavs[condition], estimates[name])
    )
    return ClipStudy(clip_id=clip_id, rows=rows, floored=floored)


@functools.lru_cache(maxsize=1)
def _model(weights: str) -> Any:
    from rwsa import load_model

    return load_model(weights)
