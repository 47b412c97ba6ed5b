"""Scoring one clip with one model; knows no cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.clips import EvaluationClip, load_clip
from rwsa.enhancement import enhance_phases
from rwsa.errors import InputError
from rwsa.metrics import SAMPLE_RATE_HZ, Failure, score
from rwsa.models import Network

METRICS = ("pesq", "ssnr", "estoi", "si_sdr")
# What the enhanced signal is scored by: as above, and the model's magnitude with the noisy phase.
NOISY_PHASE = "si_sdr_noisy_phase"


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """One clip's scores.

    Attributes:
        input_snr_db: of noisy against clean over the whole clip; None where the two are equal or the
            clip could not be read.
        noisy, enhanced: metric -> value, or the failure that says why there is none. `enhanced` has
            `NOISY_PHASE` besides.
        error: why the clip could not be read, None where it could.
    """

    corpus: str
    clip_id: str
    seconds: float
    speaker: str | None
    environment: str | None
    input_snr_db: float | None
    noisy: Mapping[str, float | Failure]
    enhanced: Mapping[str, float | Failure]
    error: str | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """What failed and why: the whole clip, or single metrics."""
        if self.error is not None:
            return (self.error,)
        return tuple(
            f"{signal}.{name}: {value.reason}"
            for signal, scores in (("noisy", self.noisy), ("enhanced", self.enhanced))
            for name, value in scores.items()
            if isinstance(value, Failure)
        )

    def gain(self, metric: str) -> float | None:
        """Enhanced minus noisy, None where either failed."""
        noisy, enhanced = self.noisy[metric], self.enhanced[metric]
        if isinstance(noisy, Failure) or isinstance(enhanced, Failure):
            return None
        return enhanced - noisy


@dataclass(frozen=True, kw_only=True)
class ClipAudio:
    """What one hears and sees of a clip: float32 `[samples]` at 16 kHz."""

    noisy: np.ndarray
    enhanced: np.ndarray
    clean: np.ndarray


def score_clip(clip: EvaluationClip, model: Network) -> ClipScores:
    """Read or mix, enhance and score a clip. One that cannot be read gets failures for scores."""
    try:
        noisy, clean = load_clip(clip)
    except InputError as error:
        return _scores(
            clip, _failed(METRICS, error), _failed((*METRICS, NOISY_PHASE), error), error=str(error)
        )
    enhanced, noisy_phase = _enhanced(noisy, model)
    with_noisy_phase = score(clean, noisy_phase, ("si_sdr",))["si_sdr"]
    return _scores(
        clip,
        score(clean, noisy, METRICS),
        {**score(clean, enhanced, METRICS), NOISY_PHASE: with_noisy_phase},
        input_snr_db=snr_db(clean, noisy),
    )


def hear_clip(clip: EvaluationClip, model: Network) -> ClipAudio:
    """The signals that `score_clip` scores.

    Raises:
        InputError: see `rwsa.clips.load_clip`.
    """
    noisy, clean = load_clip(clip)
    return ClipAudio(noisy=noisy, enhanced=_enhanced(noisy, model)[0], clean=clean)


def snr_db(clean: np.ndarray, noisy: np.ndarray) -> float | None:
    """Energy of clean over that of noisy minus clean, in dB; None where either is zero."""
    speech = float(np.square(clean, dtype=np.float64).sum())
    noise = float(np.square(noisy.astype(np.float64) - clean).sum())
    return float(10 * np.log10(speech / noise)) if speech and noise else None


def _enhanced(noisy: np.ndarray, model: Network) -> list[np.ndarray]:
    return [np.asarray(wav) for wav in enhance_phases(noisy, SAMPLE_RATE_HZ, model, ("model", "noisy"))]


def _failed(metrics: tuple[str, ...], error: InputError) -> dict[str, float | Failure]:
    return dict.fromkeys(metrics, Failure(str(error)))


def _scores(
    clip: EvaluationClip,
    noisy: Mapping[str, float | Failure],
    enhanced: Mapping[str, float | Failure],
    *,
    input_snr_db: float | None = None,
    error: str | None = None,
) -> ClipScores:
    return ClipScores(
        corpus=clip.corpus,
        clip_id=clip.clip_id,
        seconds=clip.seconds,
        speaker=clip.speaker,
        environment=clip.environment,
        input_snr_db=input_snr_db,
        noisy=noisy,
        enhanced=enhanced,
        error=error,
    )
