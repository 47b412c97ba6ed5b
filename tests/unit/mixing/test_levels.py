"""Active speech level (ITU-T P.56) and loudness (BS.1770) against their definitions."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest

from rwsa.audio import rms
from rwsa.errors import InputError
from rwsa.mixing.levels import active_level_db, level_db, loudness_lufs

RATE_HZ = 16000


def bursts(seconds: float = 4.0, seed: int = 0) -> np.ndarray:
    """Noise in syllables: loud for 0.3 s, faint for 0.1 s."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE_HZ)
    loud = (np.arange(samples) / RATE_HZ) % 0.4 < 0.3
    return (rng.normal(scale=0.1, size=samples) * np.where(loud, 1.0, 0.01)).astype(np.float32)


def by_the_letter(wav: np.ndarray) -> float:
    """P.56 clause 7 sample by sample, with thresholds from 2^-1 down."""
    keep = math.exp(-1 / (0.03 * RATE_HZ))
    hangover = math.ceil(0.2 * RATE_HZ)
    thresholds = [2.0**-j for j in range(1, 20)]
    active, hang = [0] * len(thresholds), [hangover] * len(thresholds)
    square = p = q = 0.0
    for x in wav.tolist():
        square += x * x
        p = keep * p + (1 - keep) * abs(x)
        q = keep * q + (1 - keep) * p
        for j, threshold in enumerate(thresholds):
            if q >= threshold:
                active[j], hang[j] = active[j] + 1, 0
            elif hang[j] < hangover:
                active[j], hang[j] = active[j] + 1, hang[j] + 1
    points = [
        (10 * math.log10(square / a), 20 * math.log10(c))
        for a, c in zip(active, thresholds, strict=True)
        if a > 0
    ]
    for (high, high_c), (low, low_c) in itertools.pairwise(points):
        before, after = high - high_c - 15.9, low - low_c - 15.9
        if before < 0 <= after:
            return low + (high - low) * after / (after - before)
    raise AssertionError("no crossing")


def test_the_active_level_matches_the_standard() -> None:
    wav = np.concatenate([bursts(1.0), np.zeros(RATE_HZ // 2, np.float32), bursts(0.5, seed=1)])
    assert active_level_db(wav, RATE_HZ) == pytest.approx(by_the_letter(wav), abs=1e-6)


def test_silence_lowers_rms_but_not_the_active_level() -> None:
    speech = bursts()
    padded = np.concatenate([speech, np.zeros(3 * speech.size, np.float32)])
    assert active_level_db(padded, RATE_HZ) == pytest.approx(active_level_db(speech, RATE_HZ), abs=0.3)
    assert 20 * math.log10(rms(padded) / rms(speech)) == pytest.approx(-6.02, abs=0.01)


@pytest.mark.parametrize("gain_db", [-40.0, -17.3, 6.0])
def test_active_level_follows_gain(gain_db: float) -> None:
    speech = bursts()
    louder = speech * np.float32(10 ** (gain_db / 20))
    expected = active_level_db(speech, RATE_HZ) + gain_db
    # The thresholds are powers of two, so that only the interpolation between them differs.
    assert active_level_db(louder, RATE_HZ) == pytest.approx(expected, abs=0.2)


def test_steady_noise_is_active_throughout() -> None:
    noise = np.random.default_rng(0).normal(scale=0.05, size=10 * RATE_HZ).astype(np.float32)
    assert active_level_db(noise, RATE_HZ) == pytest.approx(level_db(noise, RATE_HZ, "rms"), abs=0.05)


def test_the_loudness_of_a_full_scale_sine_matches_the_standard() -> None:
    time = np.arange(48000 * 3) / 48000
    # Meters may differ by 0.1 LU (EBU Tech 3341).
    assert loudness_lufs(np.sin(2 * np.pi * 997 * time), 48000) == pytest.approx(-3.01, abs=0.1)


@pytest.mark.parametrize("measure", ["rms", "active", "loudness"])
def test_silence_has_no_level(measure: str) -> None:
    assert level_db(np.zeros(RATE_HZ, np.float32), RATE_HZ, measure) == -math.inf


def test_a_signal_too_short_for_loudness_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"0\.30 s is too short to measure loudness"):
        loudness_lufs(bursts(0.3), RATE_HZ)
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    with pytest.raises(InputError, match=r"needs pyloudnorm .*pip install 'rwsa\[mixing\]'"):
        loudness_lufs(bursts(), RATE_HZ)
