"""Generated noises: babble, speech-shaped and coloured noise, and mains hum.

Arrays are mono float32 `[samples]` with an RMS of `RMS`, below full scale. All randomness comes from the
generator passed in. Mixing and the starter corpus use them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rwsa.audio import resample, rms
from rwsa.errors import InputError

RMS = 0.05
# Power falls as 1/f to this exponent (Voss & Clarke 1975 for pink; the others by the usual names).
COLOURS = {"white": 0.0, "pink": 1.0, "brown": 2.0, "blue": -1.0}
_LOWEST_HZ = 30.0
_SPECTRUM_WINDOW = 512
_MAINS_HZ = (50.0, 60.0)
_BABBLE_SPEED = (0.84, 1.19)
_BABBLE_TALKERS = (3, 8)
# The level of each talker of a babble is uniform between minus this and plus this.
BABBLE_SPREAD_DB = 3.0


def coloured(rng: np.random.Generator, samples: int, sample_rate_hz: int, colour: str) -> np.ndarray:
    """Gaussian noise of one of `COLOURS`, from 30 Hz up, with a slowly drifting level."""
    hz = np.fft.rfftfreq(samples, 1 / sample_rate_hz)
    gain = np.zeros_like(hz)
    audible = hz >= _LOWEST_HZ
    gain[audible] = hz[audible] ** (-COLOURS[colour] / 2)
    return _normalised(_filtered_white(rng, samples, gain) * _level_drift(rng, samples, sample_rate_hz))


def speech_shaped(
    rng: np.random.Generator,
    samples: int,
    sample_rate_hz: int,
    power_F: np.ndarray,
    *,
    steady: bool = False,
) -> np.ndarray:
    """Gaussian noise with the long-term spectrum `power_F` (see `long_term_power`).

    Its level drifts slowly unless it is `steady`.
    """
    hz = np.fft.rfftfreq(samples, 1 / sample_rate_hz)
    gain = np.interp(hz, np.linspace(0, sample_rate_hz / 2, len(power_F)), np.sqrt(power_F))
    gain[hz < _LOWEST_HZ] = 0
    wav = _filtered_white(rng, samples, gain)
    return _normalised(wav if steady else wav * _level_drift(rng, samples, sample_rate_hz))


def mains_hum(rng: np.random.Generator, samples: int, sample_rate_hz: int) -> np.ndarray:
    """50 or 60 Hz (±0.2%) with harmonics of random decay, over faint white noise."""
    seconds = np.arange(samples) / sample_rate_hz
    mains_hz = rng.choice(_MAINS_HZ) * (1 + rng.uniform(-0.002, 0.002))
    fall = rng.uniform(0.4, 1.4)
    wav = np.zeros(samples)
    for harmonic in range(1, int(sample_rate_hz / 2 / mains_hz)):
        amplitude = rng.uniform(0.1, 1.0) * harmonic**-fall
        wav += amplitude * np.sin(2 * np.pi * (harmonic * mains_hz * seconds + rng.uniform()))
    return _normalised(wav + 0.02 * np.std(wav) * rng.standard_normal(samples))


def babble(
    rng: np.random.Generator, samples: int, sample_rate_hz: int, clips: Sequence[np.ndarray]
) -> np.ndarray:
    """3 to 8 simultaneous talkers, each a random sequence of `clips` at its own speed (and so pitch).

    The speeds make several talkers out of few recorded voices, like speed perturbation in speech recognition
    (Ko et al. 2015).
    """
    wav = np.zeros(samples)
    for _ in range(rng.integers(_BABBLE_TALKERS[0], _BABBLE_TALKERS[1], endpoint=True)):
        talker = _talker(rng, samples, sample_rate_hz, clips)
        wav += at_level(talker, rng.uniform(-BABBLE_SPREAD_DB, BABBLE_SPREAD_DB))
    return _normalised(wav)


def long_term_power(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Mean power spectrum `[257]` of all frames of `clips`: 512 samples, Hann window, half overlapped.

    Raises:
        InputError: no clip is as long as a frame, or all are silent.
    """
    window = np.hanning(_SPECTRUM_WINDOW)
    power_F = np.zeros(_SPECTRUM_WINDOW // 2 + 1)
    for clip in clips:
        if len(clip) >= _SPECTRUM_WINDOW:
            frames_TN = np.lib.stride_tricks.sliding_window_view(clip, _SPECTRUM_WINDOW)
            frames_TN = frames_TN[:: _SPECTRUM_WINDOW // 2]
            power_F += np.square(np.abs(np.fft.rfft(frames_TN * window))).sum(axis=0)
    if not power_F.any():
        raise InputError(
            f"the speech has no spectrum: it is silent, or shorter than {_SPECTRUM_WINDOW} samples"
        )
    return power_F / power_F.sum()


def at_level(wav: np.ndarray, gain_db: float) -> np.ndarray:
    """`wav` scaled to an RMS of `gain_db` re 1."""
    return wav / rms(wav) * 10 ** (gain_db / 20)


def _talker(
    rng: np.random.Generator, samples: int, sample_rate_hz: int, clips: Sequence[np.ndarray]
) -> np.ndarray:
    speed = rng.uniform(*_BABBLE_SPEED)
    needed = int(samples * speed) + sample_rate_hz
    run: list[np.ndarray] = []
    while sum(map(len, run)) < needed:
        run.append(clips[int(rng.integers(len(clips)))])
    played = resample(np.concatenate(run), round(sample_rate_hz * speed), sample_rate_hz)
    start = rng.integers(len(played) - samples, endpoint=True)
    return played[start : start + samples]


def _filtered_white(rng: np.random.Generator, samples: int, gain_F: np.ndarray) -> np.ndarray:
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) * gain_F, n=samples)


def _level_drift(rng: np.random.Generator, samples: int, sample_rate_hz: int) -> np.ndarray:
    """A gain that changes by a few decibels from second to second, like the level of real noise."""
    knots_s = np.arange(samples // sample_rate_hz + 2)
    gain_db = np.interp(np.arange(samples) / sample_rate_hz, knots_s, rng.normal(0, 2.5, len(knots_s)))
    return 10 ** (gain_db / 20)


def _normalised(wav: np.ndarray) -> np.ndarray:
    levelled = wav * (RMS / rms(wav))
    return (levelled / max(1.0, np.abs(levelled).max() / 0.99)).astype(np.float32)
