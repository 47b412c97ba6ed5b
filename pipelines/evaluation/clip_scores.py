"""Scores of one clip: what is computed of each signal, without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.evaluation.clips import EvaluationClip
from rwsa.audio import read_info, read_mono, resample
from rwsa.audio_facts import clipped_share
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.enhancement import enhance_phases
from rwsa.errors import InputError
from rwsa.metrics import METRICS, TABLE1_METRICS, Failure, Reference, floored_by_silence
from rwsa.models import Network

# A metric of models alone: SI-SDR of the model's magnitude with the noisy phase.
NOISY_PHASE = "si_sdr_noisy_phase"
# The row of the unprocessed input, which every table has.
NOISY = "noisy"

MetricRow = Mapping[str, float | Failure]


@dataclass(frozen=True, kw_only=True)
class SignalScores:
    """Scores and facts of one signal of one clip.

    Attributes:
        values: metric -> value, or the failure with its reason.
        snr_db: energy of the clean signal over that of the difference to it; None where either is zero.
        clipped_share: share of samples that are clipped (in flat tops at full scale).
        floored: whether only digital silence makes CSIG and COVL 1; see `rwsa.metrics.composite.llr`.
    """

    values: MetricRow
    snr_db: float | None = None
    clipped_share: float = 0.0
    floored: bool = False


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """One clip's scores.

    Attributes:
        signals: system -> its scores, the noisy input first.
        error: why the clip could not be read, so that every value is a failure; None otherwise.
    """

    corpus: str
    clip_id: str
    seconds: float
    speaker: str | None
    environment: str | None
    signals: Mapping[str, SignalScores]
    error: str | None = None

    @property
    def input_snr_db(self) -> float | None:
        """SNR of the noisy signal over the complete clip."""
        return self.signals[NOISY].snr_db

    @property
    def failures(self) -> tuple[str, ...]:
        """Failures with their reasons: of the clip, of systems, or of single metrics."""
        if self.error is not None:
            return (self.error,)
        return tuple(line for name, one in self.signals.items() for line in _failed(name, one.values))

    def value(self, system: str, metric: str) -> float | None:
        """A score; None where it failed or the system lacks the metric."""
        value = self.signals[system].values.get(metric)
        return value if isinstance(value, float) else None

    def gain(self, metric: str, system: str) -> float | None:
        """By how much the system's score is better than the noisy input's; None where either failed."""
        noisy, value = self.value(NOISY, metric), self.value(system, metric)
        return None if noisy is None or value is None else sign(metric) * (value - noisy)


@dataclass(frozen=True, kw_only=True)
class ClipAudio:
    """The signals of a clip, name -> float32 `[samples]` at 16 kHz: noisy, then of systems, then clean."""

    signals: Mapping[str, np.ndarray]


def sign(metric: str) -> int:
    """1 if a higher score is better, −1 for distances and errors."""
    return -1 if metric in METRICS and METRICS[metric].lower_is_better else 1


def _failed(system: str, values: MetricRow) -> list[str]:
    """One line per reason, with the metrics that failed for it unless all did."""
    failed: dict[str, list[str]] = {}
    for name, value in values.items():
        if isinstance(value, Failure):
            failed.setdefault(value.reason, []).append(name)
    return [
        f"{system}: {reason}" if len(names) == len(values) else f"{system}.{', '.join(names)}: {reason}"
        for reason, names in failed.items()
    ]


def with_table1(further: Sequence[str]) -> tuple[str, ...]:
    """Table 1's metrics and the further ones, without duplicates."""
    return tuple(dict.fromkeys((*TABLE1_METRICS, *further)))


def metrics_of(metrics: Sequence[str], *, model: bool) -> tuple[str, ...]:
    """The metrics of a signal: `metrics`, and `NOISY_PHASE` for a model's."""
    return (*metrics, NOISY_PHASE) if model else tuple(metrics)


class ClipScorer:
    """Scores signals of one clip; the clean signal's part of a metric is computed once."""

    def __init__(self, clean: np.ndarray, metrics: Sequence[str] = TABLE1_METRICS) -> None:
        """Score against `clean`, `[samples]` at 16 kHz."""
        self._clean, self._metrics = clean, tuple(metrics)
        self._reference = Reference(clean)

    def score(self, wav: np.ndarray, cached: SignalScores | None = None) -> SignalScores:
        """Score a signal as long as the clean one.

        Args:
            wav: `[samples]` at 16 kHz.
            cached: scores of the same signal that are not computed again; the result includes them.
        """
        before: MetricRow = cached.values if cached is not None else {}
        missing = tuple(name for name in self._metrics if name not in before)
        values = {**before, **self._reference.score(wav, missing, known=before)}
        rated = any(values.get(name) == 1.0 for name in ("csig", "covl"))
        return SignalScores(
            values={name: values[name] for name in (*self._metrics, *before)},
            snr_db=snr_db(self._clean, wav),
            clipped_share=clipped_share(wav),
            floored=rated and floored_by_silence(self._clean, wav),
        )

    def score_model(self, enhanced_PS: np.ndarray, cached: SignalScores | None = None) -> SignalScores:
        """Score the output of `enhance_clip`, by `NOISY_PHASE` too."""
        model_S, noisy_phase_S = enhanced_PS
        scores = self.score(model_S, cached)
        if NOISY_PHASE in scores.values:
            return scores
        with_noisy_phase = self._reference.score(noisy_phase_S, ("si_sdr",))["si_sdr"]
        return replace(scores, values={**scores.values, NOISY_PHASE: with_noisy_phase})


def unscored(reason: str, metrics: Sequence[str] = TABLE1_METRICS, *, model: bool = False) -> SignalScores:
    """Scores of an unavailable signal: a failure in every metric of a model's signal or another."""
    return SignalScores(values=dict.fromkeys(metrics_of(metrics, model=model), Failure(reason)))


def enhance_clip(noisy: np.ndarray, model: Network) -> np.ndarray:
    """Enhance a clip; returns `[2, samples]`, the model's signal and its magnitude with the noisy phase."""
    return np.stack(
        [np.asarray(wav) for wav in enhance_phases(noisy, SAMPLE_RATE_HZ, model, ("model", "noisy"))]
    )


def read_output(path: Path, clip: EvaluationClip, samples: int) -> np.ndarray:
    """A ready-made output for a clip, `[samples]` at 16 kHz.

    Args:
        path: an audio file, at 16 kHz or at the rate of the clip's files.
        samples: its expected length at 16 kHz.

    Raises:
        InputError: it is damaged, has several channels, another rate or another length.
    """
    rate_hz = read_info(path).sample_rate_hz
    rates_hz = dict.fromkeys((SAMPLE_RATE_HZ, clip.source.sample_rate_hz))
    if rate_hz not in rates_hz:
        expected = ", or the corpus's own ".join(f"{one} Hz" for one in rates_hz)
        raise InputError(f"{path}: is at {rate_hz} Hz; {expected} is expected; resample it")
    wav = resample(read_mono(path, rate_hz), rate_hz, SAMPLE_RATE_HZ)
    if len(wav) != samples:
        raise InputError(f"{path}: has {len(wav)} samples at 16 kHz and the clean clip {samples}")
    return wav


def snr_db(clean: np.ndarray, noisy: np.ndarray) -> float | None:
    """Energy of clean over that of noisy minus clean, in dB; None where either is zero or not finite."""
    speech = float(np.square(clean, dtype=np.float64).sum())
    noise = float(np.square(noisy.astype(np.float64) - clean).sum())
    if not speech or not noise or not np.isfinite(noise):
        return None
    return float(10 * np.log10(speech / noise))
