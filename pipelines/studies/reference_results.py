"""Scores of fixed estimates against degraded references, by clip and over clips."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.evaluation.clip_scores import NOISY, MetricRow
from pipelines.evaluation.clips import EvaluationClip, load_clip
from pipelines.studies.reference_conditions import CONDITIONS, ReferenceCondition, degraded
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.metrics import METRICS, Failure, Reference, floored_by_silence
from rwsa.metrics.registry import roots

# Without DNSMOS, which does not use the reference, and phone errors, which need an extra and take long.
STUDIED = tuple(name for name in METRICS if "clean" in roots(name) and name != "phone_error")
# CLEAN, the clean clip that the noisy one was mixed from, is the estimate of a perfect enhancer.
ENHANCED, CLEAN = "enhanced", "clean"


@dataclass(frozen=True, kw_only=True)
class StudyClip:
    """A clip to study; `weights` is a path, or None for no enhanced estimate."""

    clip: EvaluationClip
    weights: str | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class ClipStudy:
    """The scores of one clip.

    Attributes:
        rows: (condition, estimate) to scores.
        floored: where only digital silence makes CSIG and COVL 1; see `rwsa.metrics.composite.llr`.
        error: why there are no scores.
    """

    clip_id: str
    rows: Mapping[tuple[ReferenceCondition, str], MetricRow]
    floored: frozenset[tuple[ReferenceCondition, str]] = frozenset()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class PercentileRange:
    """A metric over clips: mean, 10th and 90th percentile; None without values."""

    mean: float | None
    low: float | None
    high: float | None
    count: int
    failures: int


@dataclass(frozen=True, kw_only=True)
class ReferenceStudy:
    """The results of a study.

    Attributes:
        about: label -> text, for page and JSON.
        estimates: in display order.
    """

    corpus: str
    about: Mapping[str, str]
    estimates: tuple[str, ...]
    clips: tuple[ClipStudy, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        """`CLIP: reason` of clips that could not be studied."""
        return tuple(f"{clip.clip_id}: {clip.error}" for clip in self.clips if clip.error is not None)

    def over_clips(self, condition: ReferenceCondition, estimate: str, metric: str) -> PercentileRange:
        """A metric over the clips that could be studied."""
        column = [clip.rows[condition, estimate][metric] for clip in self.clips if clip.error is None]
        values = np.array([value for value in column if not isinstance(value, Failure)])
        if not len(values):
            return PercentileRange(mean=None, low=None, high=None, count=0, failures=len(column))
        low, high = np.percentile(values, [10, 90])
        return PercentileRange(
            mean=float(values.mean()),
            low=float(low),
            high=float(high),
            count=len(values),
            failures=len(column) - len(values),
        )

    def gain(self, condition: ReferenceCondition, metric: str) -> float | None:
        """Mean of enhanced minus noisy over the clips that have both; None without any."""
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
        """(condition, estimate, metric and reason, number of clips) of metrics that failed."""
        counts: dict[tuple[str, str, str], int] = {}
        for clip in self.clips:
            for (condition, estimate), row in clip.rows.items():
                for metric, value in row.items():
                    if isinstance(value, Failure):
                        key = (condition.name, estimate, f"{metric}: {value.reason}")
                        counts[key] = counts.get(key, 0) + 1
        for key, count in counts.items():
            yield (*key, count)

    def floored(self, condition: ReferenceCondition, estimate: str) -> int:
        """Number of clips where only digital silence makes CSIG and COVL 1."""
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
                            metric: vars(self.over_clips(condition, estimate, metric)) for metric in STUDIED
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
    """Score a clip's estimates against its reference in every condition; a Ray task."""
    clip_id = item.clip.clip_id
    try:
        noisy, clean = load_clip(item.clip)
        estimates = {NOISY: noisy, CLEAN: clean}
        if item.weights is not None:
            # Imported late: without weights, no worker needs torch.
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
