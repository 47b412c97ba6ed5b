"""Acoustic features of signals with known values."""

from __future__ import annotations

import numpy as np
import pytest

from rwsa.acoustics import (
    GROUPS,
    MODULATION_HZ,
    SPECTRUM_HZ,
    clip_features,
    decay_seconds,
    modulation_db,
    spectrum_db,
)
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError

SAMPLES = 4 * SAMPLE_RATE_HZ
SECONDS = np.arange(SAMPLES) / SAMPLE_RATE_HZ


def hiss(seed: int = 0, samples: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.1, size=samples)


def bursts(seed: int = 0) -> np.ndarray:
    """Noise modulated like syllables."""
    return hiss(seed) * np.maximum(np.sin(2 * np.pi * 3 * SECONDS), 0.001) ** 2


def test_every_group_has_its_features() -> None:
    features = clip_features(bursts() + hiss(1), bursts())
    assert list(features) == [group.name for group in GROUPS]
    for group in GROUPS:
        assert features[group.name].shape == (len(group.names),)
        assert np.isfinite(features[group.name]).all()


@pytest.mark.parametrize("hz", [125.0, 1000.0, 4000.0])
def test_a_tone_is_in_its_third_octave(hz: float) -> None:
    spectrum = spectrum_db(np.sin(2 * np.pi * hz * SECONDS))
    at = int(np.argmin(np.abs(np.array(SPECTRUM_HZ) - hz)))
    assert spectrum[at] == pytest.approx(0.0, abs=0.3)
    assert (np.delete(spectrum, [at - 1, at, at + 1]) < -30).all()


def test_white_noise_rises_by_one_decibel_per_band() -> None:
    """The bandwidth of third octaves grows by 2^(1/3), 1 dB; the last one ends at the Nyquist frequency."""
    steps = np.diff(spectrum_db(hiss(samples=60 * SAMPLE_RATE_HZ)))[:-1]
    np.testing.assert_allclose(steps[5:], 1.0, atol=0.3)


@pytest.mark.parametrize("hz", MODULATION_HZ)
def test_modulation_is_at_its_frequency(hz: float) -> None:
    modulated = modulation_db(hiss() * (1 + 0.9 * np.sin(2 * np.pi * hz * SECONDS)))
    assert int(np.argmax(modulated)) == MODULATION_HZ.index(hz)
    if hz <= 8:
        # Half of 0.9², the variance of the sine.
        assert modulated.max() == pytest.approx(10 * np.log10(0.9**2 / 2), abs=1.0)


def test_decay_grows_with_reverberation() -> None:
    dry = bursts()
    slower = [decay_seconds(dry)[0]]
    for seconds in (0.3, 0.6, 1.2):
        tail = np.random.default_rng(1).normal(size=int(seconds * SAMPLE_RATE_HZ))
        tail *= 10 ** (-3 * np.arange(len(tail)) / len(tail))
        slower.append(decay_seconds(np.convolve(dry, tail)[:SAMPLES])[0])
    assert slower == sorted(slower)
    assert slower[-1] > 2 * slower[0]


def test_decay_of_an_exponential_is_exact() -> None:
    """A burst every second that falls by 60 dB in 0.8 s."""
    falling = hiss() * 10 ** (-3 * (SECONDS % 1.0) / 0.8)
    assert decay_seconds(falling)[0] == pytest.approx(0.8, rel=0.1)


def test_snr_and_level_are_exact() -> None:
    clean, noise = bursts(), hiss(1)
    noise *= np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-7.5 / 20)
    features = clip_features(clean + noise, clean)
    assert features["SNR"][0] == pytest.approx(7.5)
    assert features["level"][0] == pytest.approx(10 * np.log10(np.mean((clean + noise) ** 2)))


def test_a_gain_changes_only_level_and_more_noise_only_the_snr() -> None:
    clean, noise = bursts(), hiss(1)
    before = clip_features(clean + noise, clean)
    louder = clip_features(3 * (clean + noise), 3 * clean)
    noisier = clip_features(clean + 2 * noise, clean)
    for name in before.keys() - {"level"}:
        np.testing.assert_allclose(louder[name], before[name], atol=1e-6)
    for name in before.keys() - {"level", "SNR"}:
        np.testing.assert_allclose(noisier[name], before[name], atol=1e-6)
    assert before["SNR"][0] - noisier["SNR"][0] == pytest.approx(20 * np.log10(2))


def test_padding_is_excluded_from_speech() -> None:
    clean, zeros = bursts(), np.zeros(SAMPLE_RATE_HZ)
    padded = np.concatenate([clean, zeros])
    whole = clip_features(clean + hiss(1), clean)
    longer = clip_features(padded + hiss(1, len(padded)), padded)
    for name in ("speech spectrum", "speech modulation", "speech decay"):
        np.testing.assert_allclose(longer[name], whole[name], atol=0.1)


@pytest.mark.parametrize(
    ("noisy", "clean", "message"),
    [
        (hiss(), bursts()[:-1], "of equal length"),
        (bursts(), bursts(), "same as clean"),
        (hiss(), np.zeros(SAMPLES), "0.00 s of speech"),
        (hiss(samples=800), hiss(1, 800), "0.05 s of speech"),
        (np.sin(2 * np.pi * 440 * SECONDS) + hiss(), np.sin(2 * np.pi * 440 * SECONDS), "hardly ever falls"),
    ],
)
def test_clips_without_features_are_refused(noisy: np.ndarray, clean: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clip_features(noisy, clean)
