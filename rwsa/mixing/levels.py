"""Signal levels: RMS, active speech level (ITU-T P.56), loudness (ITU-R BS.1770), and level normalisation.

Levels are in dB re full scale (LUFS for loudness). Arrays are mono `[samples]`, full scale ±1. A mixture's
level is drawn in `rwsa.mixing.plans` from the recipe's range and applied in `rwsa.mixing.render`.
"""

from __future__ import annotations

import math

import numpy as np

from rwsa.audio import rms
from rwsa.errors import InputError
from rwsa.mixing.packages import mixing_package

# ITU-T P.56 (12/2011), Table 1: time constant of smoothing, hangover, and margin between the threshold
# and the active level.
_SMOOTHING_SECONDS = 0.03
_HANGOVER_SECONDS = 0.2
_MARGIN_DB = 15.9
# Thresholds are powers of two. Clause 7 requires those from one quantum to half of full scale; the signals
# here are not quantised yet, so these go below 16 bits.
_LOWEST_THRESHOLD = 2.0**-20
_SHORTEST_LOUDNESS_SECONDS = 0.4


def level_db(wav: np.ndarray, sample_rate_hz: int, measure: str) -> float:
    """The level of `wav` by `measure`: `rms`, `active` or `loudness`; -inf for silence.

    Raises:
        InputError: the signal is too short for loudness, or pyloudnorm is missing.
    """
    if measure == "active":
        return active_level_db(wav, sample_rate_hz)
    if measure == "loudness":
        return loudness_lufs(wav, sample_rate_hz)
    level = rms(wav)
    return 20 * math.log10(level) if level > 0 else -math.inf


def level_gain(wav: np.ndarray, level_dbfs: float | None) -> float:
    """The factor that brings `wav` to an RMS of `level_dbfs`; 1 for None."""
    return 1.0 if level_dbfs is None else 10 ** (level_dbfs / 20) / rms(wav)


def peak(wav: np.ndarray) -> float:
    """The largest magnitude of `wav`."""
    return max(float(wav.max()), -float(wav.min()))


def active_level_db(wav: np.ndarray, sample_rate_hz: int) -> float:
    """Active speech level: RMS over the time with speech activity (ITU-T P.56, method B).

    The envelope is the rectified signal smoothed twice (clause 7.2). A sample is active at a threshold
    while the envelope is at or above it and for 200 ms more. The active level is the one that is 15.9 dB
    above its own threshold, interpolated in decibels between the two nearest thresholds. -inf if no
    threshold gives any activity.
    """
    power = float(np.sum(np.square(wav, dtype=np.float64)))
    envelope = _envelope(wav, sample_rate_hz)
    hangover = math.ceil(_HANGOVER_SECONDS * sample_rate_hz)
    above: tuple[float, float] | None = None
    largest = float(envelope.max(initial=0.0))
    threshold = 2.0 ** math.floor(math.log2(largest)) if largest > 0 else 0.0
    while threshold >= _LOWEST_THRESHOLD:
        level = 10 * math.log10(power / _active_samples(envelope, threshold, hangover))
        excess = level - 20 * math.log10(threshold) - _MARGIN_DB
        if excess >= 0:
            if above is None:
                return level
            # `excess` falls from here to the threshold above; the active level is where it is zero.
            share = excess / (excess - above[1])
            return level + share * (above[0] - level)
        above = level, excess
        threshold /= 2
    return -math.inf


def _envelope(wav: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    # Late: importing it takes a while, and RMS does not need it.
    lfilter = mixing_package("scipy.signal", needed_by="snr_measure active").lfilter

    decay = math.exp(-1 / (_SMOOTHING_SECONDS * sample_rate_hz))
    smoothed_once = lfilter([1 - decay], [1, -decay], np.abs(wav.astype(np.float64)))
    return lfilter([1 - decay], [1, -decay], smoothed_once)


def _active_samples(envelope: np.ndarray, threshold: float, hangover: int) -> int:
    """The number of samples at or above the threshold or at most `hangover` samples after one."""
    loud = np.flatnonzero(envelope >= threshold)
    gaps = np.diff(loud, append=envelope.size) - 1
    return loud.size + int(np.minimum(gaps, hangover).sum())


def loudness_lufs(wav: np.ndarray, sample_rate_hz: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4: K-weighting, two gates), by pyloudnorm.

    Raises:
        InputError: shorter than a gating block of 0.4 s, or pyloudnorm is missing.
    """
    pyloudnorm = mixing_package("pyloudnorm", needed_by="snr_measure loudness")
    if wav.size < _SHORTEST_LOUDNESS_SECONDS * sample_rate_hz:
        seconds = wav.size / sample_rate_hz
        raise InputError(
            f"{seconds:.2f} s is too short to measure loudness, which needs 0.4 s; use longer examples"
        )
    return float(pyloudnorm.Meter(sample_rate_hz).integrated_loudness(wav.astype(np.float64)))
