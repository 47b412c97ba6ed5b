"""Scores of one clip, for every system; knows no cluster."""

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
from rwsa.metrics import TABLE1_METRICS, Failure, Reference, floored_by_silence
from rwsa.models import Network

# What a model's signal is scored by besides: its magnitude with the noisy phase.
NOISY_PHASE = "si_sdr_noisy_phase"
# The row that every table has: the input as it is.
NOISY = "noisy"

Row = Mapping[str, float | Failure]


@dataclass(frozen=True, kw_only=True)
class SignalScores:
    """What is known of one signal of one clip.

    Attributes:
        values: metric -> value, or the failure that says why there is none.
        snr_db: energy of the clean signal over that of the difference to it; None where either is zero.
        clipped_share: samples in flat tops at full scale, as a share of all.
        floored: whether CSIG and COVL are 1 for digital silence alone; see `rwsa.metrics.composite.llr`.
    """

    values: Row
    snr_db: float | None = None
    clipped_share: float = 0.0
    floored: bool = False


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """One clip's scores.

    Attributes:
        signals: system -> its scores, the noisy input's first.
        error: why the clip could not be read, None where it could; every value is then a failure.
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
        """Of noisy against clean over the whole clip."""
        return self.signals[NOISY].snr_db

    @property
    def failures(self) -> tuple[str, ...]:
        """What failed and why: the whole clip, whole systems, or single metrics."""
        if self.error is not None:
            return (self.error,)
        return tuple(line for name, one in self.signals.items() for line in _failed(name, one.values))

    def value(self, system: str, metric: str) -> float | None:
        """A score, None where it failed or the system has no such metric."""
        value = self.signals[system].values.get(metric)
        return value if isinstance(value, float) else None

    def gain(self, metric: str, system: str) -> float | None:
        """The system's score minus that of the noisy input, None where either failed."""
        noisy, value = self.value(NOISY, metric), self.value(system, metric)
        return None if noisy is None or value is None else value - noisy


@dataclass(frozen=True, kw_only=True)
class ClipAudio:
    """What one hears and sees of a clip: name -> float32 `[samples]` at 16 kHz.

    The first is the noisy input, the last the clean target, and between them what systems made of it.
    """

    signals: Mapping[str, np.ndarray]


def _failed(system: str, values: Row) -> list[str]:
    """A line a reason, with the metrics that failed for it; without them where all did."""
    failed: dict[str, list[str]] = {}
    for name, value in values.items():
        if isinstance(value, Failure):
            failed.setdefault(value.reason, []).append(name)
    return [
        f"{system}: {reason}" if len(names) == len(values) else f"{system}.{', '.join(names)}: {reason}"
        for reason, names in failed.items()
    ]


def with_table1(further: Sequence[str]) -> tuple[str, ...]:
    """`TABLE1_METRICS` and the further ones, each once."""
    return tuple(dict.fromkeys((*TABLE1_METRICS, *further)))


def of_signal(metrics: Sequence[str], *, model: bool) -> tuple[str, ...]:
    """What a signal is scored by: `metrics`, and where it is a model's `NOISY_PHASE` besides."""
    return (*metrics, NOISY_PHASE) if model else tuple(metrics)


class ClipScorer:
    """Scores signals of one clip; what rests on the clean one alone is computed once for all of them."""

    def __init__(self, clean: np.ndarray, metrics: Sequence[str] = TABLE1_METRICS) -> None:
        """Take the clean signal, `[samples]` at 16 kHz."""
        self._clean, self._metrics = clean, tuple(metrics)
        self._reference = Reference(clean)

    def signal(self, wav: np.ndarray, known: SignalScores | None = None) -> SignalScores:
        """Score a signal as long as the clean one.

        Args:
            wav: `[samples]` at 16 kHz.
            known: scores of this very signal from before; they are in what is returned.
        """
        before: Row = known.values if known is not None else {}
        missing = tuple(name for name in self._metrics if name not in before)
        values = {**before, **self._reference.score(wav, missing, known=before)}
        return SignalScores(
            values={name: values[name] for name in (*self._metrics, *before)},
            snr_db=snr_db(self._clean, wav),
            clipped_share=clipped_share(wav),
            floored=self._is_floored(wav, values),
        )

    def enhanced(self, enhanced_PS: np.ndarray, known: SignalScores | None = None) -> SignalScores:
        """Score what `enhance_clip` gave: as any signal, and by `NOISY_PHASE`."""
        model_S, noisy_phase_S = enhanced_PS
        scores = self.signal(model_S, known)
        if NOISY_PHASE in scores.values:
            return scores
        with_noisy_phase = self._reference.score(noisy_phase_S, ("si_sdr",))["si_sdr"]
        return replace(scores, values={**scores.values, NOISY_PHASE: with_noisy_phase})

    def _is_floored(self, wav: np.ndarray, values: Row) -> bool:
        rated = any(values.get(name) == 1.0 for name in ("csig", "covl"))
        return rated and floored_by_silence(self._clean, wav)


def unscored(reason: str, metrics: Sequence[str] = TABLE1_METRICS, *, model: bool = False) -> SignalScores:
    """A signal that could not be had: a failure for every metric; `model` says that it is a model's."""
    return SignalScores(values=dict.fromkeys(of_signal(metrics, model=model), Failure(reason)))


def enhance_clip(noisy: np.ndarray, model: Network) -> np.ndarray:
    """`[2, samples]`: the model's signal, and its magnitude put together with the noisy phase."""
    return np.stack(
        [np.asarray(wav) for wav in enhance_phases(noisy, SAMPLE_RATE_HZ, model, ("model", "noisy"))]
    )


def read_output(path: Path, clip: EvaluationClip, samples: int) -> np.ndarray:
    """A ready-made output for a clip, `[samples]` at 16 kHz.

    Args:
        path: an audio file, at 16 kHz or at the rate of the clip's own files.
        samples: how many it must have at 16 kHz.

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
